"""What decides the bytes of an output: settings, weights, versions and the input, to tell one run from another."""

import hashlib
import platform
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from virnucpro.data.fasta import FastaError
from virnucpro.data.packing import Pack
from virnucpro.models.esm2 import ESM2
from virnucpro.models.token_budget import token_budget
from virnucpro.pipeline.async_inference import layer_index
from virnucpro.pipeline.options import Options
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.formats import TABLE, Format
from virnucpro.store.hdf5 import attribute
from virnucpro.store.journal import Committed, StoreError, check_same


def settings_of(model: ESM2, options: Options, begun: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the bytes of the datasets, for JSON; what was found out when the run was begun is kept."""
    device = next(model.parameters()).device
    on_cpu = device.type == "cpu"
    return {
        "precision": model.precision,
        "weights_checksum": checksum(model),
        "pool": options.pool,
        "layers": [layer_index(model, layer) for layer in options.layers],
        "max_length": options.max_length,
        "chunk": options.chunk,
        "dtype": options.dtype,
        "token_budget": options.token_budget or int(begun.get("token_budget") or token_budget(model)),
        "device": device_name(device),
        "threads": int(begun.get("threads") or torch.get_num_threads()) if on_cpu else 0,
        **{name: version_of(name) for name in ("virnucpro", "torch", "fair-esm")},
    }


def checksum(model: nn.Module) -> str:
    """Of the parameters' bits: sums of integers, which are exact in any order and quick where the model is."""
    integers = {2: torch.int16, 4: torch.int32}
    sums = [
        parameter.detach().view(integers[parameter.element_size()]).sum(dtype=torch.int64)
        for _, parameter in sorted(model.named_parameters())
    ]
    return f"{zlib.crc32(repr(torch.stack(sums).tolist()).encode()):08x}"


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


def remaining(packs: Iterable[Pack], before: Committed) -> Iterator[tuple[Pack, str]]:
    """The packs after those that an earlier run embedded, each with a digest of all the input up to its end.

    Raises FastaError where the input does not begin with what was embedded.
    """
    digest = hashlib.blake2b(digest_size=16)
    sequences = 0
    for each in packs:
        begins, sequences = sequences, sequences + len(each)
        digest.update("\n".join(each.sequence_ids).encode("utf-8", "surrogatepass"))
        digest.update(each.input_ids.numpy().astype(np.uint8).tobytes())
        if begins >= before.sequences:
            yield each, digest.hexdigest()
        elif sequences > before.sequences or (
            sequences == before.sequences and digest.hexdigest() != before.digest
        ):
            raise changed(before)
    if sequences < before.sequences:
        raise changed(before)


def changed(before: Committed) -> FastaError:
    """What to say where the input is not the one that was begun."""
    return FastaError(
        f"the input does not begin with the {before.sequences:,} sequences that were embedded: resume with the "
        "same input, or begin anew with --force"
    )


def settings_in(output: Path) -> dict[str, Any]:
    """The settings that a complete file was made with."""
    with Embeddings(output) as file:
        return file.settings


def check_complete(
    output: Path, settings: Mapping[str, Any], packs: Iterable[Pack], format: Format = TABLE
) -> tuple[int, int]:
    """How many sequences and residues `output` has; raises unless they are this input's, with these settings."""
    with Embeddings(output) as file:
        check_made_with(file, output, settings, format)
        before = Committed(len(file), int(file.lengths.sum()), digest=file.settings["input_digest"])
    for _ in remaining(packs, before):
        raise changed(before)
    return before.sequences, before.residues


def check_made_with(file: Embeddings, output: Path, settings: Mapping[str, Any], format: Format) -> None:
    """Raise StoreError unless a complete output has this format and was made with these settings."""
    if file.settings["format"] != format.content:
        raise StoreError(
            f"{output} is complete, and not in the format {format.name}: name another output, or "
            "--force to replace it"
        )
    now = {name: attribute(value) for name, value in settings.items()}
    then = {name: file.settings.get(name) for name in (*now, *(["shard"] if "shard" in file.settings else []))}
    check_same(then, now, f"{output} is complete and was made")
