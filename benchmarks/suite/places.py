"""Every name that the suite imports from virnucpro, looked up where the benchmarked commit has it.

The suite runs beside other commits, from 0.4.0 on (``oldest_commit`` in asv.conf.json). A commit from before a
feature is n/a (NotImplementedError); one that has the feature's module and lacks a name of it is a failure
(MissingName), never a fallback. It also runs beside VirNucPro's own program: then `padded` gives the names.
"""

import importlib
import inspect
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import SOURCE

PLACES: dict[str, tuple[str, ...]] = {
    "load_esm2_model": ("virnucpro.models.esm2_flash",),
    "representations": ("virnucpro.models.layerwise",),
    "measure": ("virnucpro.models.apart",),
    "attend": ("virnucpro.models.attention",),
    "SHAPES": ("virnucpro.models.esm2",),
    "PRECISIONS": ("virnucpro.models.precision",),
    "int8_linear": ("virnucpro.models.kernels.gemm",),
    "AsyncInferenceRunner": ("virnucpro.pipeline.async_inference",),
    "mean_over_residues": ("virnucpro.pipeline.async_inference",),
    "BatchConverter": ("virnucpro.data.tokens",),
    "pack": ("virnucpro.data.packing",),
    "token_budget": ("virnucpro.models.token_budget",),
    "Fasta": ("virnucpro.data.fasta",),
    "ProteinReader": ("virnucpro.data.proteins",),
    "embed_file": ("virnucpro.pipeline.embed",),
    "embed_with_ray": ("virnucpro.pipeline.distributed",),
    "Options": ("virnucpro.pipeline.options",),
}
"""Each name and the modules that have had it, newest first: moving one adds a module here.

Of a precision the suite reads `capability`, `on_cpu`, `bytes_per_weight` and `activations_on(device)`, of a shape
`layers`, `dim`, `heads` and `parameters`.
"""

DISTRIBUTED = "virnucpro.pipeline.distributed"
"""Came after 0.4.0, with ``--ray``."""

BEFORE = "virnucpro.models.token_budget"
"""A module that came shortly before 0.4.0. VirNucPro's own program does not have it."""


class MissingName(ImportError):
    """The benchmarked commit does not have a name where one is needed."""


def find(name: str) -> Any:
    """A name of `PLACES` from the installed commit; MissingName where none of its modules has it.

    Raises NotImplementedError, which asv takes as n/a, for a commit from before 0.4.0, and for what VirNucPro's
    own program does not have.
    """
    if not exists(BEFORE):
        return find_padded(name)
    for place in PLACES[name]:
        if exists(place):
            module = importlib.import_module(place)
            if hasattr(module, name):
                return getattr(module, name)
    raise MissingName(f"this commit's virnucpro has no {name}; it was looked for in {' and '.join(PLACES[name])}")


def find_padded(name: str) -> Any:
    """A name that `padded` gives, beside a commit whose `load_esm2_model` has no ``precision``."""
    (place,) = PLACES["load_esm2_model"]
    loader = getattr(importlib.import_module(place), "load_esm2_model", None) if exists(place) else None
    if loader is None:
        raise NotImplementedError(f"this commit has neither {BEFORE} nor load_esm2_model in {place}")
    if "precision" in inspect.signature(loader).parameters:
        raise NotImplementedError("this commit is older than 0.4.0, the oldest that is measured")
    found = importlib.import_module(".padded", __package__).find(name, loader)
    if found is None:
        raise NotImplementedError(f"VirNucPro's own program has no {name}")
    return found


def missing(*names: str) -> str | None:
    """Why nothing that needs these names can be measured beside VirNucPro's own program; else None."""
    if exists(BEFORE):
        return None
    try:
        for name in names:
            find(name)
    except NotImplementedError as error:
        return str(error)
    return None


def exists(module: str) -> bool:
    """Whether the installed commit has a module; it is not imported, its packages are.

    One from elsewhere does not count: beside an editable install Python finds there what the commit lacks.
    """
    try:
        spec = find_spec(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(f"{error.name}."):
            raise  # not one of the module's packages is missing, but something that they import
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).is_relative_to(folder())


def folder() -> Path:
    """The installed commit's virnucpro."""
    import virnucpro

    return Path(next(iter(virnucpro.__path__)))


def require_source() -> None:
    """Raise RuntimeError where virnucpro is not that of `SOURCE`."""
    source, found = os.environ.get(SOURCE), folder()
    if source and not found.resolve().is_relative_to(Path(source).resolve()):
        raise RuntimeError(f"virnucpro was to come from {source}, and came from {found}")
