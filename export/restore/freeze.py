"""A fitted generator as an ONNX graph that draws the same picture.

The fitted generator normalises with the statistics of its own picture (training mode). So these are noted once, for the
z that it was fitted with; with them, and for this z and size alone, it is the same in evaluation, and its BatchNorms
fold.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from bundle.beside import write_atomically
from export.errors import ExportError, GraphError
from export.exporters import export_program
from export.fold import fold_batchnorm
from export.graph import serialize, strip
from export.restore.fit import Canvas

INPUT, OUTPUT = "z", "picture"

TOLERANCE = 1e-4
"""Of a colour from 0 to 1."""


def freeze(generator: Canvas, z: torch.Tensor, path: Path) -> float:
    """Writes the generator, and returns the largest difference of its picture from the fitted generator's.

    The graph's input `z`, float32 [1, channels, H, W], has the z of the fit as its default: run without any input it
    draws the fitted picture. Its output `picture` is float32 [1, 3, height, width], from 0 to 1.

    Raises:
        ExportError: it cannot be exported or written, or its picture is not the same.
    """
    with torch.no_grad():
        fitted = generator(z)
    model = to_onnx(generator, z)
    difference = float(np.abs(draw(model) - fitted.numpy()).max())
    if not difference <= TOLERANCE:  # a NaN is refused too
        raise GraphError(
            f"the frozen generator's picture differs from the fitted one's by {difference:.2g} ({TOLERANCE:.0e} is "
            "allowed); nothing was written, fit it with another --seed"
        )
    try:
        write_atomically(path, model)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror}; choose another --freeze") from error
    return difference


def to_onnx(generator: Canvas, z: torch.Tensor) -> bytes:
    """The graph; raises GraphError where the exporter or the checker fails."""
    recorded = copy.deepcopy(generator).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    z = z.contiguous()
    record_statistics(recorded, z)
    folded, _ = fold_batchnorm(recorded.eval())
    try:
        model = export_program(folded, z, (INPUT,), (OUTPUT,))
        strip(model)
        model.graph.initializer.append(numpy_helper.from_array(z.numpy(), INPUT))
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise GraphError(f"the exporter fails: {type(error).__name__}: {reason}") from error
    return serialize(model)


def record_statistics(network: nn.Module, z: torch.Tensor) -> None:
    """Makes every BatchNorm's running statistics those with which it normalises in training mode, given this z.

    That is the variance of the values as they are. torch's own running variance is the unbiased estimate, n / (n - 1)
    times as large for n values, which is seen in the picture where a grid is small.
    """

    def record(norm: nn.BatchNorm2d, values: Sequence[Any]) -> None:
        mean, variance = values[0].double().mean((0, 2, 3)), values[0].double().var((0, 2, 3), correction=0)
        norm.running_mean, norm.running_var = mean.float(), variance.float()

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(record) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0  # torch leaves them alone
    with torch.no_grad():
        network.train()(z)
    for norm, handle, momentum in zip(norms, handles, momenta, strict=True):
        handle.remove()
        norm.momentum = momentum


def draw(model: bytes) -> Any:
    """What the graph draws of its own z, float32 [1, 3, height, width]."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # that a default may be replaced, and is no constant, is what it warns of
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {})[0]
