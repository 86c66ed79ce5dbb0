"""What a checkpoint stores: read without running anything in it, and checked against the model that was asked for.

Each form of checkpoints (`fair_esm_form`, `huggingface`) says by what names it stores a model, and what else it
stores that embeddings do not need. Any other name is refused: what is not understood could change an embedding.
"""

import operator
import pickle
import reprlib
import warnings
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from virnucpro.errors import UserError
from virnucpro.models.esm2 import ESM2, SHAPES, Constants, ESM2Shape, frequency_names
from virnucpro.models.rotary import exact_frequencies

ADAPTED = ("lora_", "base_layer", "base_model.", "modules_to_save", "adapter")
"""What names of parameters have in a model that PEFT, or another library of adapters, has changed."""


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What parameters may be stored in: narrower types need scales, which are stored elsewhere."""

MERGE = (
    "merge it into its model (PEFT: model.merge_and_unload().save_pretrained(FOLDER)), and pass what that saves"
)
"""What to do with one."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing, unreadable, or not of the model that was asked for."""


class ReadError(Exception):
    """Why a file cannot be read."""


@dataclass(frozen=True)
class Checkpoint:
    """`parameters` of the encoder by fair-esm's names, on the CPU and as stored; `constants` beside them."""

    parameters: dict[str, Tensor]
    constants: Constants


@dataclass(frozen=True)
class Naming:
    """By what names a form of checkpoints stores a model.

    `prefixes`: which may stand in front, the longest first. `theirs`: its name of a parameter or of a layer's
    rotary frequencies, by fair-esm's. `shared_frequencies`: its name of those that all layers share. `unused`:
    whether a name belongs to a part that embeddings do not need. `other_endings`: how names also end, and how
    those of `theirs` do instead.
    """

    prefixes: tuple[str, ...]
    theirs: Callable[[str], str]
    unused: Callable[[str], bool]
    shared_frequencies: str | None = None
    other_endings: tuple[tuple[str, str], ...] = ()

    def bare(self, stored: str) -> str:
        """A stored name without its prefix, and with the ending of `theirs`."""
        name = stored.removeprefix(next(filter(stored.startswith, self.prefixes), ""))
        for other, ending in self.other_endings:
            if name.endswith(other):
                return name.removesuffix(other) + ending
        return name


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of its model. `rope_base`: of frequencies, where none are stored."""

    shape: ESM2Shape
    token_dropout: bool
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0


def unpickled(path: Path) -> Any:
    """What PyTorch saved in a file, on the CPU; nothing in it is run. ReadError says why it cannot be read."""
    if not path.is_file():  # opening a pipe would wait for someone who writes
        raise ReadError("it is not a regular file")
    try:
        # fair-esm's configuration is a Namespace; PyTorch's warnings are about files that are refused anyway
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile each raise their own
        raise ReadError(why_unreadable(path, error)) from error


def why_unreadable(path: Path, error: Exception) -> str:
    """What is the matter with a file that is no checkpoint, by its first bytes, or else what was raised.

    PyTorch advises to read what it refuses without its checks, which lets the file run any program.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as unreadable:
        return unreadable.strerror or str(unreadable)
    if not start:
        return "it is empty"
    if start.lstrip().startswith(b"<"):
        return "it is a web page (HTML) or XML, as servers send instead of a file"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS and not the file itself: git lfs pull"
    if not start.startswith((b"PK", b"\x80")):
        return "PyTorch did not write it"
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or has objects of Python that are no tensors"
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """What an error says first."""
    return str(error).partition("\n")[0] or "no details"


def checked(
    stored: Mapping[Any, Any], about: Description, naming: Naming, model_name: str, source: Path
) -> Checkpoint:
    """The encoder of `model_name` out of all that a checkpoint stores; CheckpointError for anything else."""
    shape = SHAPES[model_name]
    if about.shape != shape:
        name = next((name for name, each in SHAPES.items() if each == about.shape), None)
        remedy = f": it is {name}" if name else ""
        raise CheckpointError(
            f"{source} holds another model than {model_name}: {about.shape}, not {shape}{remedy}"
        )
    with torch.device("meta"):
        expected = {
            naming.theirs(name): (name, values.shape) for name, values in ESM2(shape).fair_esm_state().items()
        }
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in stored.items():
        bare = naming.bare(name) if isinstance(name, str) else str(name)
        if naming.unused(bare):
            continue
        if bare not in expected and bare != naming.shared_frequencies:
            raise CheckpointError(unknown(source, str(name), model_name))
        if bare in found:
            raise CheckpointError(f"{source} has {bare} twice: as {names[bare]} and as {name}")
        found[bare], names[bare] = value, name
    of_layers = {naming.theirs(name) for name in frequency_names(shape)}
    parameters = {theirs: each for theirs, each in expected.items() if theirs not in of_layers}
    wrong = [theirs for theirs, (_, size) in parameters.items() if not is_parameter(found.get(theirs), size)]
    if wrong:
        there = f" (it is {described(found[wrong[0]])})" if wrong[0] in found else ""
        raise CheckpointError(
            f"{source} lacks {len(wrong)} of {model_name}'s {len(parameters)} parameters, first {wrong[0]}{there}"
        )
    own = {theirs: found[theirs] for theirs in (naming.shared_frequencies, *sorted(of_layers)) if theirs in found}
    constants = constants_of(own, of_layers, about, source)
    return Checkpoint({name: found[theirs].detach() for theirs, (name, _) in parameters.items()}, constants)


def constants_of(
    stored: Mapping[Any, Any], of_layers: Collection[str], about: Description, source: Path
) -> Constants:
    """The constants, with the frequencies that are `stored`, one for all layers or one for each, or exact ones."""
    head_dim = about.shape.dim // about.shape.heads
    if not stored:
        return Constants(exact_frequencies(head_dim, about.rope_base), about.token_dropout, about.norm_eps)
    for name, value in stored.items():
        if not is_parameter(value, torch.Size([head_dim // 2])):
            raise CheckpointError(
                f"{source}: {name} is {described(value)}, and not {head_dim // 2} rotary frequencies"
            )
        if not value.isfinite().all():
            raise CheckpointError(f"{source}: the rotary frequencies {name} are not all finite")
    (first, frequencies), *others = stored.items()
    for name, value in others:
        if not torch.equal(value.float(), frequencies.float()):
            raise CheckpointError(
                f"{source}: the rotary frequencies {name} are not those of {first}, and ESM-2's are"
            )
    missing = sorted(set(of_layers) - set(stored))
    if first in of_layers and missing:
        raise CheckpointError(f"{source} has rotary frequencies for some layers, and lacks {missing[0]}")
    return Constants(tuple(frequencies.float().tolist()), about.token_dropout, about.norm_eps, stored=True)


def unknown(source: Path, name: str, model_name: str) -> str:
    """What to say of a name that no part of the model has."""
    if any(part in name for part in ADAPTED):
        return f"{source} has {name}, which is of an adapter (LoRA): {MERGE}"
    return (
        f"{source} has {name}, which is no part of {model_name}: embeddings without it could be wrong; "
        "pass a checkpoint of ESM-2 alone"
    )


def is_parameter(value: Any, shape: torch.Size) -> bool:
    """Whether it is a tensor of floating-point numbers with this shape, and not packed in some way."""
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in FLOATS
        and value.shape == shape
    )


def whole_number(value: Any, name: str, source: Path) -> int:
    """A size in a configuration, which may also be a tensor of one number; CheckpointError where it is none."""
    try:
        number = operator.index(value)
    except (TypeError, RuntimeError, ValueError):
        number = 0
    if not 0 < number < 2**31:
        raise CheckpointError(f"{source}: its {name} is no whole number above 0 but {shown(value)}")
    return number


def shown(value: Any) -> str:
    """What a configuration has in the place of something else, in few letters."""
    return reprlib.repr(value)


def described(value: Any) -> str:
    """What stands in the place of a parameter."""
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__}"
    if value.is_nested:
        return "a nested tensor"
    kind = "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} "
    return f"a {kind}tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
