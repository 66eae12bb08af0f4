"""torch's two ways to ONNX: through `torch.export`, and the older one through TorchScript, for when that fails."""

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import onnx
import torch
from onnxscript import opset18
from torch import nn
from torch.onnx.symbolic_helper import parse_args
from torch.onnx.utils import register_custom_op_symbolic

from bundle.manifest import Input
from export.models import normalization  # noqa: F401 it registers multicrop::lrn
from export.quiet import quiet

OPSET = 18
"""The first exporter's own; asked for another, it would convert."""

INPUT, OUTPUTS = "images", ("logits", "probabilities")

Exporter = Callable[[nn.Module, Input, int], onnx.ModelProto]
"""(module, its input, the smallest H and W where they are dynamic) -> graph; raises whatever torch raises."""


def from_program(module: nn.Module, wanted: Input, smallest: int) -> onnx.ModelProto:
    """The current exporter."""
    shape = {0: torch.export.Dim("N", min=1)}
    if wanted.dynamic:
        shape |= {1: torch.export.Dim("H", min=smallest), 2: torch.export.Dim("W", min=smallest)}
    return export_program(module, _example(wanted), (INPUT,), OUTPUTS, shape)


def export_program(
    module: nn.Module,
    example: torch.Tensor,
    inputs: Sequence[str],
    outputs: Sequence[str],
    shape: Mapping[int, Any] | None = None,
) -> onnx.ModelProto:
    """Any module of one tensor by the current exporter; `shape` has the axes that are free. Raises what torch does."""
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=None if shape is None else (shape,),
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            custom_translation_table={torch.ops.multicrop.lrn.default: _lrn},
        )
    if program is None:
        raise RuntimeError("it returned nothing")
    return program.model_proto


def from_script(module: nn.Module, wanted: Input, smallest: int) -> onnx.ModelProto:  # noqa: ARG001 one size is traced
    """The older exporter."""
    axes = {0: "N", 1: "H", 2: "W"} if wanted.dynamic else {0: "N"}
    register_custom_op_symbolic("multicrop::lrn", _script_lrn, OPSET)
    buffer = io.BytesIO()
    with _quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # it is deprecated, it traces, it prints whole graphs
        torch.onnx.export(
            module,
            (_example(wanted),),
            buffer,  # type: ignore[arg-type]  # it takes files too
            dynamo=False,
            dynamic_axes={INPUT: axes, **{name: {0: "N"} for name in OUTPUTS}},
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
        )
    return onnx.load_from_string(buffer.getvalue())


EXPORTERS: dict[str, Exporter] = {"torch.export": from_program, "TorchScript": from_script}
"""In the order in which they are tried; the manifest says which one it was."""


def _example(wanted: Input) -> torch.Tensor:
    """Two images: of one, the first exporter would make a constant."""
    return torch.zeros(2, wanted.height, wanted.width, wanted.channels, dtype=torch.uint8)


def _lrn(x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    """The torch operator of `export.models.normalization` as ONNX's, which also divides alpha by the size."""
    return opset18.LRN(x, size=size, alpha=alpha, beta=beta, bias=k)


@parse_args("v", "i", "f", "f", "f")
def _script_lrn(graph: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
    """The same for the older exporter."""
    return graph.op("LRN", x, size_i=size, alpha_f=alpha, beta_f=beta, bias_f=k)


def _quiet() -> AbstractContextManager[None]:
    """Keeps the exporters' talk about themselves from the user: it is not about the network."""
    # "torchvision is not installed", and a line for every shape that is guessed
    return quiet("torch.onnx", "torch.fx.experimental.symbolic_shapes", warned=((".*LeafSpec.*", FutureWarning),))
