"""What decides the bytes of an output: settings, weights and versions, to tell one run from another."""

import hashlib
import itertools
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro.models.esm2 import ESM2, Constants
from virnucpro.models.token_budget import token_budget
from virnucpro.pipeline.async_inference import layer_index
from virnucpro.pipeline.options import DEDUPE_TOKENS, Options
from virnucpro.store.hdf5 import attribute
from virnucpro.store.settings import check_same

RECORDED = ("weights", "rotary_frequencies", "virnucpro")
"""What an output tells and need not be the same when it is continued: `weights_checksum` and `engine` must."""

CHANNELS_APART = "channels_apart"
"""The setting that tells, in JSON, the channels that INT8 keeps apart: a run that is continued does not choose."""

ENGINE = "2"
"""The version of what computes rows: raised by hand when the same settings give other bytes.

tests/engine/sources.txt has a hash of each file that computes; a test fails where one has changed and nobody said
whether results did.
"""

MOST_THREADS = 2**12  # more can hardly be started

CHUNK = 2**16  # 8-byte words mixed at a time: they stay in a core's cache
CHUNK_ON_GPU = 2**22
# MurmurHash3's constants (Appleby, fmix64) and the golden ratio's 64 bits, as signed numbers
MIX_1, MIX_2, GOLDEN = (
    constant - 2**64 for constant in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, 0x9E3779B97F4A7C15)
)


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
        "long": None if options.long is None else str(options.long),
        "dedupe": DEDUPE_TOKENS if options.dedupe else None,
        "chunk": options.chunk,
        "genetic_code": None if options.chunk is None else options.genetic_code,
        "dtype": options.dtype,
        "token_budget": options.token_budget or number_in(begun, "token_budget") or token_budget(model),
        "device": device_name(device),
        "threads": (number_in(begun, "threads", MOST_THREADS) or torch.get_num_threads()) if on_cpu else 0,
        "engine": ENGINE,
        **{name: version_of(name) for name in ("virnucpro", "fair-esm")},
        "torch": str(torch.__version__),  # with the build, as +cu130, which a package's metadata may lack
    }


def compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be the same when a run is continued."""
    return {name: value for name, value in settings.items() if name not in RECORDED}


def number_in(begun: Mapping[str, Any], name: str, most: int = 2**62) -> int | None:
    """A number of at least 1 that an earlier run has kept; None for anything else."""
    value = begun.get(name)
    return int(value) if isinstance(value, int | np.integer) and 1 <= value <= most else None


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


def check_complete(output: Path, then: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise StoreError unless a complete file was made with these settings; `then`: its attributes."""
    now = {name: attribute(value) for name, value in settings.items()}
    names = (*now, *(["shard"] if "shard" in then else []))
    check_same({name: then.get(name) for name in names}, now, f"{output} is complete and was made")
