"""What decides the bytes of an output: settings, weights, versions and the input, to tell one run from another."""

import ast
import functools
import hashlib
import importlib.resources
import itertools
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro.data.packing import Pack
from virnucpro.errors import FastaError
from virnucpro.models.esm2 import ESM2, Constants
from virnucpro.models.precision import PRECISIONS
from virnucpro.models.token_budget import token_budget
from virnucpro.pipeline.async_inference import layer_index
from virnucpro.pipeline.options import Options
from virnucpro.store.committed import Committed
from virnucpro.store.hdf5 import attribute
from virnucpro.store.unfinished import check_same

RECORDED = ("weights", "rotary_frequencies", "virnucpro")
"""What an output tells and need not be the same when it is continued: `weights_checksum` and `engine` must."""

CHANNELS_APART = "channels_apart"
"""The setting that tells, in JSON, the channels that INT8 keeps apart: a run that is continued does not choose."""

NOT_IN_ROWS = (
    *("apart.py", "checkpoint.py", "esm2_flash.py", "fair_esm_form.py", "huggingface.py"),
    *("layerwise.py", "precision.py", "stored.py", "token_budget.py", "weights.py"),
)
"""Of `virnucpro.models`, what does not compute: its results are the weights and other settings."""
COMPUTING = ("data/tokens.py", "data/packing.py", "pipeline/async_inference.py")
"""Beside the models, what turns letters into rows."""

CHUNK = 2**16  # 8-byte words mixed at a time: they stay in a core's cache
CHUNK_ON_GPU = 2**22
# MurmurHash3's constants (Appleby, fmix64) and the golden ratio's 64 bits, as signed numbers
MIX_1, MIX_2, GOLDEN = (
    constant - 2**64 for constant in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, 0x9E3779B97F4A7C15)
)


@dataclass(frozen=True)
class Place:
    """A pack's place in the input: how many sequences come before it, and a digest of the input up to its end."""

    begins: int
    digest: str


def settings_of(model: ESM2, options: Options, begun: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the bytes of the datasets, for JSON; what was found out when the run was begun is kept."""
    device = next(model.parameters()).device
    on_cpu = device.type == "cpu"
    return {
        "precision": model.precision,
        "weights_checksum": checksum(model, model.constants),
        "rotary_frequencies": "of the checkpoint" if model.constants.stored else "computed",
        CHANNELS_APART: json.dumps(model.channels_apart(), sort_keys=True),
        "pool": options.pool,
        "layers": [layer_index(model, layer) for layer in options.layers],
        "max_length": options.max_length,
        "chunk": options.chunk,
        "dtype": options.dtype,
        "token_budget": options.token_budget or number_in(begun, "token_budget") or token_budget(model),
        "device": device_name(device),
        "threads": (number_in(begun, "threads") or torch.get_num_threads()) if on_cpu else 0,
        "engine": engine_digest(model.precision),
        **{name: version_of(name) for name in ("virnucpro", "fair-esm")},
        "torch": str(torch.__version__),  # with the build, as +cu130, which a package's metadata may lack
    }


def compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be the same when a run is continued."""
    return {name: value for name, value in settings.items() if name not in RECORDED}


def number_in(begun: Mapping[str, Any], name: str) -> int | None:
    """A number of at least 1 that an earlier run has kept; None for anything else."""
    value = begun.get(name)
    return int(value) if isinstance(value, int | np.integer) and value >= 1 else None


@functools.cache
def engine_digest(precision: str) -> str:
    """Of the code that computes rows in a precision, without comments, docstrings and layout."""
    package = importlib.resources.files("virnucpro")
    models = package / "models"
    parts = [part for folder in (models, models / "kernels") for part in folder.iterdir()]
    sources = {str(part): part for part in parts if part.name.endswith(".py") and part.name not in NOT_IN_ROWS}
    sources |= {name: package / name for name in COMPUTING}
    found = sorted((source.name, meaning_of(source.read_text("utf-8"))) for source in sources.values())
    how = PRECISIONS[precision]
    decides = (how.storage, how.compute, how.compute_on_cpu, how.matmul, how.float32_mode, found)
    return hashlib.blake2b(repr(decides).encode(), digest_size=8).hexdigest()


def meaning_of(source: str) -> str:
    """Python code without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ] or [ast.Pass()]
    return ast.unparse(tree)


def checksum(model: nn.Module, constants: Constants | None = None) -> str:
    """Of the bits of all parameters and persistent buffers, and of their names, types and shapes; of `constants`.

    Each 8 bytes are mixed with their position, and the results summed up: integers, so that the sum is exact in
    any order and the same on every device.
    """
    state = sorted(model.state_dict().items())
    about = ([(name, str(values.dtype), tuple(values.shape)) for name, values in state], constants)
    total = mixed_sum([words_of(values) for _, values in state])
    return hashlib.blake2b(repr((about, total)).encode(), digest_size=8).hexdigest()


def words_of(values: Tensor) -> Tensor:
    """The bits of a tensor as int64 ``[W]``, the last one filled up with zeros."""
    raw = values.detach().contiguous().reshape(-1).view(torch.uint8)
    if len(raw) % 8 or raw.storage_offset() % 8:
        raw = F.pad(raw, (0, -len(raw) % 8))
    return raw.view(torch.int64)


def mixed_sum(tensors: Sequence[Tensor]) -> int:
    """Sum, modulo 2^64, of all words of int64 tensors of one device, each mixed with its position among all."""
    if not tensors:
        return 0
    device = tensors[0].device
    total = torch.zeros((), dtype=torch.int64, device=device)
    position = 1
    for words in joined(tensors, CHUNK_ON_GPU if device.type == "cuda" else CHUNK):
        mixed = torch.arange(position, position + len(words), device=device).mul_(GOLDEN)
        mixed.bitwise_xor_(words)
        for constant in (MIX_1, MIX_2):
            mixed.mul_(constant).bitwise_xor_(mixed >> 32)
        total += mixed.sum()
        position += len(words)
    return int(total)


def joined(tensors: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same values in tensors of at most `size`: a model has hundreds of small ones, and a kernel its cost."""
    held: list[Tensor] = []
    for part in itertools.chain.from_iterable(tensor.split(size) for tensor in tensors):
        if held and sum(map(len, held)) + len(part) > size:
            yield torch.cat(held)
            held = []
        if len(part) == size:  # held is empty now
            yield part
        else:
            held.append(part)
    if held:
        yield torch.cat(held)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's architecture and widest instructions, which the rounding depends on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def version_of(distribution: str) -> str:
    """The installed version; ``not installed`` for a program that runs from its source tree."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


class InputDigest:
    """Of the names and tokens of all packs so far, and how many `sequences` those are."""

    def __init__(self) -> None:
        self.sequences = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, pack: Pack, count: int | None = None) -> "InputDigest":
        """Itself, with a pack more, or with its first `count` sequences."""
        count = len(pack) if count is None else count
        tokens = pack.input_ids.numpy()[: int(pack.cu_seqlens[count])]
        self._hash.update("\n".join(pack.sequence_ids[:count]).encode("utf-8", "surrogatepass"))
        self._hash.update(tokens.astype(np.uint8).tobytes())
        self.sequences += count
        return self

    def copy(self) -> "InputDigest":
        """One that goes on by itself."""
        other = InputDigest()
        other.sequences, other._hash = self.sequences, self._hash.copy()
        return other

    def __str__(self) -> str:
        return self._hash.hexdigest() if self.sequences else ""


class InputChangedError(FastaError):
    """The input does not begin with what was embedded."""

    resume_helps = False


def remaining(packs: Iterable[Pack], before: Committed) -> Iterator[tuple[Pack, Place]]:
    """The packs after those that an earlier run embedded, each with its place in the input.

    Raises InputChangedError where the input does not begin with what was embedded.
    """
    digest = InputDigest()
    for each in packs:
        begins = digest.sequences
        digest.add(each)
        if begins >= before.taken:
            yield each, Place(begins, str(digest))
        elif digest.sequences > before.taken or (
            digest.sequences == before.taken and str(digest) != before.digest
        ):
            raise changed(before)
    if digest.sequences < before.taken:
        raise changed(before)


def added(packs: Iterable[Pack], complete: Committed) -> tuple[Place, Iterator[tuple[Pack, Place]]]:
    """What to do where a complete file's input may have grown: how much of it stays, and the packs to compute.

    The last pack of the complete file may have ended only because its input did. So it is computed again with what
    comes after it, if anything does. The place is that of what stays: how many sequences, and their digest.
    Raises InputChangedError where the input does not begin with that of the complete file.
    """
    packs, digest = iter(packs), InputDigest()
    for each in packs:
        begins, stays = digest.sequences, str(digest)
        if begins + len(each) > complete.taken:
            if str(digest.copy().add(each, complete.taken - begins)) != complete.digest:
                raise changed(complete)
            digest.add(each)
            rest = ((pack, Place(digest.sequences, str(digest.add(pack)))) for pack in packs)
            return Place(begins, stays), itertools.chain([(each, Place(begins, str(digest)))], rest)
        digest.add(each)
    if str(digest) != complete.digest:
        raise changed(complete)
    return Place(digest.sequences, str(digest)), iter(())


def changed(before: Committed) -> InputChangedError:
    """What to say where the input is not the one that was begun."""
    return InputChangedError(
        f"the input does not begin with the {before.taken:,} sequences that were embedded: resume with the same "
        "input, or begin anew with --force"
    )


def check_complete(output: Path, then: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise StoreError unless a complete file was made with these settings; `then`: its attributes."""
    now = {name: attribute(value) for name, value in settings.items()}
    names = (*now, *(["shard"] if "shard" in then else []))
    check_same({name: then.get(name) for name in names}, now, f"{output} is complete and was made")
