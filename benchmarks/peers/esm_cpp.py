"""esm-cpp (Python package esm_cpp) as a peer on CPUs: the fastest INT8 ESM-2 of others that we know, in C++.

It reads weights from a file, which is written for it, and runs on threads of its own. Its packed path ends in the
language model's head, whose logits are all that it returns: for 8M 1.4 % more work in GEMMs, for larger ones less.
Hidden states, by which it is checked, it gives protein by protein only.
"""

import importlib
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import esm
import torch
from torch import Tensor

from ..measure.gemms import Shape
from ..suite.workloads import Protein
from .base import Peer, State
from .transformers import transformers_name

VERSION = "0.2.1"

PRECISIONS = ("fp32", "int8")


def missing() -> str | None:
    """Why esm-cpp cannot be measured here; None where it can."""
    lacking = [name for name in ("esm_cpp", "safetensors") if find_spec(name) is None]
    if lacking:
        return f"without {', '.join(lacking)}: pip install esm-cpp=={VERSION} safetensors"
    return None


def package() -> Any:
    """esm-cpp, which is not among this project's dependencies."""
    return importlib.import_module("esm_cpp")


def esm_cpp(shape: Shape, precision: str, device: str, state: State | None) -> Any:
    """esm-cpp's model with these weights, or with random ones; in INT8 it quantises them itself, uncalibrated."""
    from safetensors.torch import save_file

    if state is None:
        state = {
            name: values
            for name, values in esm.ESM2(shape.layers, shape.dim, shape.heads).state_dict().items()
            if not name.startswith(("lm_head", "contact_head"))
        }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_file(its_names(shape, state), path)
        model = package().Model.load_from_safetensors(str(path))
    if precision == "int8":
        model.quantize_weights()
    return model


def its_names(shape: Shape, state: State) -> dict[str, Tensor]:
    """An encoder's parameters, by fair-esm's names, as in Transformers' files, and a head: it insists on one."""
    dim, head = shape.dim, shape.dim // shape.heads
    found = {f"esm.{transformers_name(name)}": values for name, values in state.items()}
    frequencies = 10_000 ** -(torch.arange(0, head, 2) / head)
    for layer in range(shape.layers):
        place = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
        found[place] = found.get(place, frequencies).clone()  # safetensors takes no tensor twice
    found |= {
        "lm_head.dense.weight": torch.eye(dim),
        "lm_head.dense.bias": torch.zeros(dim),
        "lm_head.layer_norm.weight": torch.ones(dim),
        "lm_head.layer_norm.bias": torch.zeros(dim),
        "lm_head.bias": torch.zeros(33),
    }
    return {name: values.float().contiguous() for name, values in found.items()}


class EsmCppPeer(Peer):
    """All proteins in one call: it cuts them into packs itself. `encode` is the model."""

    unit = "calls"

    def __init__(
        self,
        encode: Any,
        entries: Sequence[Protein],
        precision: str,
        device: str,
        sizes: Sequence[int] | None = None,
    ):
        import numpy

        tokenizer = package().Tokenizer()

        def cut(some: Sequence[Protein], size: int) -> list[Any]:
            return [(label, numpy.array(tokenizer.encode(protein), numpy.int32)) for label, protein in some]

        self.model = encode
        super().__init__(encode, entries, cut, precision, device, sizes or [len(entries)])

    def run(self, passes: int) -> None:
        """Embed the workload that many times, up to logits."""
        proteins = [tokens for _, tokens in self.batches[self.size]]
        for _ in range(passes):
            self.model.forward_scheduled(proteins)

    def embeddings(self) -> dict[str, Tensor]:
        """Each protein's embedding ``[D]``: the mean over its residues."""
        return {
            label: torch.from_numpy(self.model.forward_with_hidden_states(tokens)[1][-1])[1:-1].mean(0)
            for label, tokens in self.batches[self.size]
        }
