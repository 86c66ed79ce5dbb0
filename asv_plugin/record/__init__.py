"""Record commits on GPU machines without a package registry: `make bench-gpu`."""
