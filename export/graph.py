"""From a network to an ONNX graph that keeps the bundle's promises.

Input `images` uint8 [N, H, W, C]; outputs `logits` and `probabilities`, float32 [N, K]. N is free, H and W where the
network has a dense form. The same weights and options give the same bytes.
"""

from typing import Any

import onnx
import torch
from onnx import TensorProto
from torch import nn

from bundle.manifest import Manifest
from export.architectures import Architecture, Preprocessing
from export.errors import GraphError
from export.exporters import OUTPUTS, Exporter, from_program


class Normalize(nn.Module):
    """A network with the arithmetic of its pixels in front: uint8 NHWC in, logits and probabilities out."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.bgr = preprocessing.channels == "bgr"
        self.divisor = 1 / preprocessing.scale  # 255 exactly: what trainings do, and one rounding less than the product
        self.register_buffer("mean", torch.tensor(preprocessing.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(preprocessing.std, dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits: torch.Tensor = self.network(self.normalized(images))
        return logits, logits.softmax(1)

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """What the network takes, [N, C, H, W], of images in uint8 [N, H, W, C]."""
        pixels = (images.flip(3) if self.bgr else images).to(self.mean.dtype)
        pixels = (pixels / self.divisor - self.mean) / self.std
        return pixels.permute(0, 3, 1, 2)


def to_onnx(network: nn.Module, architecture: Architecture, exporter: Exporter = from_program) -> onnx.ModelProto:
    """Freezes a folded network, with its normalisation, to a checked graph without traces of this machine.

    Raises:
        GraphError: the exporter fails, or the graph is not what a bundle promises.
    """
    module = Normalize(network, architecture.preprocessing).eval()
    try:
        model = exporter(module, architecture.input, architecture.smallest)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise GraphError(f"the exporter fails: {type(error).__name__}: {reason}") from error
    strip(model)
    check(model, architecture)
    return model


def serialize(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def check(model: onnx.ModelProto, promised: Architecture | Manifest) -> None:
    """Asks the graph for everything that docs/bundle.md promises of it.

    Raises:
        GraphError: naming what is there and should not be, or the other way round.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the exporter wrote an invalid graph: {error}") from error
    operators = {node.op_type for node in model.graph.node}
    domains = {node.domain for node in model.graph.node} | {opset.domain for opset in model.opset_import}
    if "BatchNormalization" in operators:
        raise GraphError("the graph holds BatchNormalization; fold the network first")
    if model.functions or domains - {"", "ai.onnx"}:
        raise GraphError(f"the graph needs functions or domains that are not ONNX's own: {sorted(domains)}")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise GraphError("the graph keeps weights in another file; a bundle's graph is one file")
    _check_signature(model, promised)


def strip(message: Any) -> None:
    """Removes metadata and doc strings everywhere (they hold stack traces with paths), and inner shapes."""
    if isinstance(message, onnx.GraphProto):
        message.ClearField("value_info")
    if isinstance(message, TensorProto):
        message.ClearField("doc_string")
        return  # nothing below but the weights
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                strip(part)


def _check_signature(model: onnx.ModelProto, promised: Architecture | Manifest) -> None:
    wanted = promised.input
    size = ("H", "W") if wanted.dynamic else (wanted.height, wanted.width)
    found = [_signature(value) for value in (*model.graph.input, *model.graph.output)]
    wanted_input = ("images", TensorProto.UINT8, ("N", *size, wanted.channels))
    wanted_outputs = [(name, TensorProto.FLOAT, ("N", promised.classes)) for name in OUTPUTS]
    if found != [wanted_input, *wanted_outputs]:
        raise GraphError(f"the graph takes and gives {found}, expected {[wanted_input, *wanted_outputs]}")


def _signature(value: onnx.ValueInfoProto) -> tuple[str, int, tuple[str | int, ...]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
