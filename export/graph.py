"""From a network to an ONNX graph that keeps the bundle's promises.

Input `images` uint8 [N, H, W, C]; outputs `logits` and `probabilities`, float32 [N, K]. N is free, H and W where the
network has a dense form. The same weights and options give the same bytes.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from onnx import TensorProto
from torch import nn

from export.architectures import Architecture
from export.errors import GraphError

OPSET = 18
"""The exporter's own; asked for another, it would convert."""

OUTPUTS = ("logits", "probabilities")


class Normalize(nn.Module):
    """A network with the arithmetic of its pixels in front: uint8 NHWC in, logits and probabilities out."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = images.to(self.mean.dtype) / 255
        pixels = (pixels - self.mean) / self.std
        logits: torch.Tensor = self.network(pixels.permute(0, 3, 1, 2))
        return logits, logits.softmax(1)


def to_onnx(network: nn.Module, architecture: Architecture) -> onnx.ModelProto:
    """Freezes a folded network, with its normalisation, to a checked graph without traces of this machine.

    Raises:
        GraphError: the graph is not what a bundle promises.
    """
    model = _export(Normalize(network, architecture.mean, architecture.std).eval(), architecture)
    _strip(model)
    check(model, architecture)
    return model


def serialize(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def check(model: onnx.ModelProto, architecture: Architecture) -> None:
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
    _check_signature(model, architecture)


def _export(module: Normalize, architecture: Architecture) -> onnx.ModelProto:
    size = architecture.size
    example = torch.zeros(2, size, size, architecture.channels, dtype=torch.uint8)  # 1 would become a constant
    shape = {0: torch.export.Dim("N", min=1)}
    if architecture.dynamic:
        shape |= {1: torch.export.Dim("H", min=8), 2: torch.export.Dim("W", min=8)}
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=(shape,),
            input_names=["images"],
            output_names=OUTPUTS,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise GraphError("the exporter returned nothing")
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's talk about itself from the user: it is not about the network."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # "torchvision is not installed. Skipping ..."
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _strip(message: Any) -> None:
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
                _strip(part)


def _check_signature(model: onnx.ModelProto, architecture: Architecture) -> None:
    size = ("H", "W") if architecture.dynamic else (architecture.size, architecture.size)
    found = [_signature(value) for value in (*model.graph.input, *model.graph.output)]
    wanted_input = ("images", TensorProto.UINT8, ("N", *size, architecture.channels))
    wanted_outputs = [(name, TensorProto.FLOAT, ("N", architecture.classes)) for name in OUTPUTS]
    if found != [wanted_input, *wanted_outputs]:
        raise GraphError(f"the graph takes and gives {found}, expected {[wanted_input, *wanted_outputs]}")


def _signature(value: onnx.ValueInfoProto) -> tuple[str, int, tuple[str | int, ...]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
