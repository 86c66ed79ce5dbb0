"""The number formats of a layer's GEMMs."""

from collections.abc import Mapping
from types import MappingProxyType

from virnucpro.models.linear import Linear
from virnucpro.models.quantised import Fp8Linear, Int8Linear

FORMATS: Mapping[str, type[Linear]] = MappingProxyType({"native": Linear, "int8": Int8Linear, "fp8": Fp8Linear})
"""Number format, as `Precision.matmul` names it, to the class that computes in it."""
