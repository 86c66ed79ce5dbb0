"""ONNX Runtime as a peer on CPUs: Transformers' model, exported, with any batch size.

INT8 is its dynamic quantisation: weights with a scale for each output channel, activations with one for a tensor.
"""

import importlib
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..measure.gemms import Shape
from .base import Encode, State
from .open_vino import WithMask, example, feeds
from .transformers import esm_model

PRECISIONS = ("fp32", "int8")


def missing() -> str | None:
    """Why ONNX Runtime cannot be measured here; None where it can."""
    lacking = [name for name in ("onnxruntime", "onnx", "transformers") if find_spec(name) is None]
    return f"without {', '.join(lacking)}: pip install onnxruntime onnx transformers" if lacking else None


def onnx_runtime(shape: Shape, precision: str, device: str, state: State | None) -> Encode:
    """ONNX Runtime's session of the model."""
    runtime = importlib.import_module("onnxruntime")
    model = WithMask(esm_model(shape, "fp32", "cpu", state))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    sizes = {0: "proteins", 1: "tokens"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        with warnings.catch_warnings():  # that the exporter is the older one, which needs no further package
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                example(),
                str(path),
                input_names=["ids", "mask"],
                output_names=["hidden"],
                dynamic_axes=dict.fromkeys(("ids", "mask", "hidden"), sizes),
                opset_version=17,
                dynamo=False,
            )
        if precision == "int8":
            quantization = importlib.import_module("onnxruntime.quantization")
            path, exported = Path(folder, "int8.onnx"), path
            signed = quantization.QuantType.QInt8
            quantization.quantize_dynamic(exported, path, weight_type=signed, per_channel=True)
        session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def encode(tokens: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, feeds(tokens))[0])

    return encode
