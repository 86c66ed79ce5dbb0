"""Every name that benchmarks import from virnucpro, looked up where the benchmarked commit has it.

Benchmarks run beside commits of all ages. A commit from before a feature is n/a (NotImplementedError); one that
has the feature's module and lacks a name of it is a failure (MissingName), never a fallback.
"""

import importlib
import inspect
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import SOURCE
from ._hardware import PRECISIONS
from ._workloads import Protein

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
    "token_budget": ("virnucpro.models.token_budget", "virnucpro.data.packing"),
    "Fasta": ("virnucpro.data.fasta",),
    "embed_file": ("virnucpro.pipeline.embed",),
    "embed_with_ray": ("virnucpro.pipeline.distributed",),
    "Options": ("virnucpro.pipeline.options",),
}
"""Each name and the modules that have had it, newest first: moving one adds a module here."""

PACKS = "virnucpro.data.packing"
EMBED = "virnucpro.pipeline.embed"
FORMATS = "virnucpro.models.formats"
"""Came with the 8-bit precisions."""
DISTRIBUTED = "virnucpro.pipeline.distributed"


class MissingName(ImportError):
    """The benchmarked commit does not have a name where one is needed."""


def find(name: str) -> Any:
    """A name of `PLACES` from the installed commit; MissingName where none of its modules has it."""
    for place in PLACES[name]:
        if exists(place):
            module = importlib.import_module(place)
            if hasattr(module, name):
                return getattr(module, name)
    raise MissingName(f"this commit's virnucpro has no {name}; it was looked for in {' and '.join(PLACES[name])}")


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


def inference_api() -> tuple[Any, Any]:
    """``load_esm2_model`` and ``AsyncInferenceRunner`` of the installed commit.

    Raises NotImplementedError, which asv takes as n/a, for a commit that does not have them yet; RuntimeError
    where virnucpro is not that of `SOURCE`.
    """
    source, found = os.environ.get(SOURCE), folder()
    if source and not found.resolve().is_relative_to(Path(source).resolve()):
        raise RuntimeError(f"virnucpro was to come from {source}, and came from {found}")
    try:
        load_esm2_model, runner = find("load_esm2_model"), find("AsyncInferenceRunner")
    except MissingName as error:
        raise NotImplementedError(str(error)) from error
    missing = {"precision", "weights"} - set(inspect.signature(load_esm2_model).parameters)
    if missing:
        raise NotImplementedError(f"this commit's load_esm2_model takes no {' and '.join(sorted(missing))}")
    return load_esm2_model, runner


def has_packs() -> bool:
    """Whether the installed commit takes packs; one from before them takes padded batches only."""
    return exists(PACKS)


def packs(proteins: Sequence[Protein], esm2: Any) -> list[Any]:
    """Proteins as the installed commit packs them for a model of its own."""
    return list(find("pack")(proteins, find("token_budget")(esm2)))


def require_precision(name: str) -> None:
    """Raise NotImplementedError, which asv takes as n/a, for a precision that came after the installed commit."""
    if PRECISIONS[name].dtype is None and not (exists(FORMATS) and name in find("PRECISIONS")):
        raise NotImplementedError(f"this commit has no {name.upper()}")


def require_embed_command() -> None:
    """Raise NotImplementedError, which asv takes as n/a, for a commit from before ``virnucpro embed``."""
    if not exists(EMBED):
        raise NotImplementedError(f"this commit has no virnucpro embed: it lacks {EMBED}")
