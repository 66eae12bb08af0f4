"""The kernels of a network's first layer as a picture: what it looks for in an image, one tile each."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from PIL import Image

from bundle.preprocess import Pixels
from export.architectures import find
from export.errors import ExportError
from export.jobs import FiltersJob
from export.target import find_bundle
from export.weights import load

TILE = 64
"""About as many pixels as a kernel is high in the picture."""
BORDER = 2
SHADE = 24
"""Of the border: almost black."""

Kernels = npt.NDArray[np.float32]
"""[n, channels, height, width]"""


def write_filters(job: FiltersJob) -> Path:
    """Draws the kernels of a bundle, or of a network with weights, as a PNG file.

    Raises:
        ExportError, BundleError: there is nothing to draw, or what was asked is not there.
    """
    if job.out.suffix.lower() != ".png":
        raise ExportError(f"{job.out.name}: the picture is a PNG file; give it a name that ends in .png")
    kernels = _of_bundle(Path(job.source)) if "/" in job.source else _of_network(job.source, job.weights)
    Image.fromarray(grid(kernels)).save(job.out, "PNG")
    return job.out


def grid(kernels: Kernels) -> Pixels:
    """The picture: uint8 [height, width, 3], or [height, width] for kernels of one channel.

    Each kernel is stretched to 0..255 by itself (all its channels together), a constant one is grey; each value becomes
    a square of equal pixels.
    """
    count, channels, height, width = kernels.shape
    if channels not in (1, 3):
        raise ExportError(f"the first layer takes {channels} channels; only kernels of 1 or 3 make a picture")
    scale = max(1, round(TILE / height))
    columns = _columns(count)
    rows = math.ceil(count / columns)
    step_y, step_x = height * scale + BORDER, width * scale + BORDER
    picture = np.full((rows * step_y + BORDER, columns * step_x + BORDER, channels), SHADE, np.uint8)
    for index, tile in enumerate(_tiles(kernels, scale)):
        top, left = BORDER + index // columns * step_y, BORDER + index % columns * step_x
        picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return picture[:, :, 0] if channels == 1 else picture


def first_convolution(model: onnx.ModelProto) -> Kernels:
    """The weights of the graph's first Conv.

    Raises:
        ExportError: there is none, or its weights are computed in the graph.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            if node.input[1] not in weights:
                raise ExportError("the first convolution's weights are computed in the graph; take the fp32 bundle")
            return np.asarray(numpy_helper.to_array(weights[node.input[1]]), np.float32)
    raise ExportError("the graph has no convolution")


def _of_bundle(path: Path) -> Kernels:
    return first_convolution(onnx.load_model_from_string(find_bundle(path).bundle.model))


def _of_network(name: str, weights: str | None) -> Kernels:
    architecture = find(name)
    if weights is None:
        raise ExportError(f"say whose kernels of {name} with --weights, or name a bundle as REPOSITORY/NAME")
    loaded = load(architecture, weights)
    return np.asarray(loaded.network.get_parameter(loaded.architecture.stem).numpy())


def _tiles(kernels: Kernels, scale: int) -> Pixels:
    """uint8 [n, height * scale, width * scale, channels]"""
    low = kernels.min((1, 2, 3), keepdims=True)
    span = kernels.max((1, 2, 3), keepdims=True) - low
    levels = np.where(span > 0, (kernels - low) / np.where(span > 0, span, 1), 0.5)
    pixels: Pixels = np.rint(levels * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels.repeat(scale, 1).repeat(scale, 2)


def _columns(count: int) -> int:
    """As many as fill all rows of a picture at most twice as wide as high; else about a square."""
    least = math.isqrt(count - 1) + 1
    return next((columns for columns in range(least, 2 * least) if count % columns == 0), least)
