"""How a figure is measured: time, peak memory, energy, fidelity, and the GEMMs alone."""
