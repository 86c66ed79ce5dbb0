"""OpenVINO as a peer on CPUs: Transformers' model, converted, with any numbers of proteins and tokens in a batch.

INT8 is quantised by NNCF, which calibrates a scale for each tensor of activations with other proteins than those
that are timed; what is not INT8 is BF16 where the CPU has it, as it was faster.
"""

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ..measure.gemms import Shape
from ..suite.program import padded
from ..suite.workloads import Protein, fidelity_proteins
from .base import PaddedPeer, State
from .transformers import esm_model

PRECISIONS = ("fp32", "bf16", "int8")
SIZES = (1, 2, 4, 8, 16, 32)
CALIBRATED_WITH = 32
"""Proteins, in batches of 8; NNCF's own default is 300 samples."""


def missing() -> str | None:
    """Why OpenVINO cannot be measured here; None where it can."""
    lacking = [name for name in ("openvino", "nncf", "transformers") if find_spec(name) is None]
    return f"without {', '.join(lacking)}: pip install openvino nncf transformers" if lacking else None


def lacks(precision: str) -> str | None:
    """Why this CPU does not run OpenVINO in a precision; None where it does."""
    if precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        return "this CPU has no BF16: it would compute in FP32"
    return None


class WithMask(nn.Module):
    """Transformers' model from tokens and mask to the last layer."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``[B, T]`` to ``[B, T, D]``."""
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden


def example() -> tuple[Tensor, Tensor]:
    """Tokens of three proteins and their mask, by which a model is traced."""
    _, _, tokens = padded([("a", "MKTAYIAK"), ("b", "LQRS"), ("c", "GAVLIPFWK")], 3)[0]
    return tokens, tokens.ne(1).long()


def feeds(tokens: Tensor) -> dict[str, Any]:
    """A batch as OpenVINO and ONNX Runtime take it."""
    return {"ids": tokens.numpy(), "mask": tokens.ne(1).long().numpy()}


def one_by_one(shape: Shape, precision: str, device: str, state: State | None) -> Any:
    """A queue of one request, on all threads."""
    return queue(shape, precision, state, "LATENCY")


def in_streams(shape: Shape, precision: str, device: str, state: State | None) -> Any:
    """A queue of as many requests at a time as OpenVINO takes for the best, each on some of the threads."""
    return queue(shape, precision, state, "THROUGHPUT")


def queue(shape: Shape, precision: str, state: State | None, hint: str) -> Any:
    """OpenVINO's model as a queue of requests."""
    openvino = importlib.import_module("openvino")
    of_any_size = [(name, [-1, -1], openvino.Type.i64) for name in ("ids", "mask")]
    floats = {name: values.float() for name, values in (state or {}).items()}
    traced = WithMask(esm_model(shape, "fp32", "cpu", floats))
    model = openvino.convert_model(traced, example_input=example(), input=of_any_size)
    core = openvino.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not has_bf16:
        raise RuntimeError("OpenVINO does not compute in BF16 on this CPU")
    if precision == "int8":
        nncf = importlib.import_module("nncf")
        samples = [feeds(tokens) for _, _, tokens in padded(calibration(), 8)]
        model = nncf.quantize(
            model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
        )
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" or not has_bf16 else "bf16",
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return openvino.AsyncInferQueue(core.compile_model(model, "CPU", options))


def calibration() -> Sequence[Protein]:
    """Proteins with the composition of real ones."""
    found = fidelity_proteins("mixed")
    return found[:: len(found) // CALIBRATED_WITH]


class OpenVinoPeer(PaddedPeer):
    """Padded batches through a queue, which is `encode`."""

    def embeddings(self) -> dict[str, Tensor]:
        """Each protein's embedding ``[D]``: the mean over its residues."""
        found: dict[str, Tensor] = {}

        def collect(request: Any, batch: Any) -> None:
            labels, proteins, _ = batch
            hidden = request.get_output_tensor().data
            for row, (label, protein) in enumerate(zip(labels, proteins, strict=True)):
                found[label] = torch.from_numpy(hidden[row, 1 : 1 + len(protein)].mean(0))

        requests: Any = self.encode
        requests.set_callback(collect)
        for batch in self.batches[self.size]:
            requests.start_async(feeds(batch[2]), batch)
        requests.wait_all()
        return found
