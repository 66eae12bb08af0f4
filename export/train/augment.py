"""Where a training image is cut, and what happens to its colours.

Crops are views, drawn as the service draws them: kornia's crops resize without antialiasing, so the network would train
on pixels that it never sees later. Colours are kornia's, on the batch, on its device.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from kornia.augmentation import ColorJitter
from torch import nn
from torch.nn.functional import affine_grid, grid_sample

from bundle.manifest import Input
from bundle.views import Box, Size, View, center_view, centre, shorter_side
from export.errors import ExportError
from export.train.recipe import Area, Augmentation, Centre, Crop, Padded, Scale, Square, Warp

PCA_EIGENVALUES = (0.2175, 0.0188, 0.0045)
"""Of the colours of ImageNet, from 0 to 1, as fb.resnet.torch has them."""
PCA_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""The eigenvectors: rows are red, green and blue, columns the components."""

ATTEMPTS = 10
"""To find a part of the image of the area and aspect drawn, before its centre is taken."""


def draw_view(crop: Crop, image: Size, wanted: Input, generator: np.random.Generator) -> View:
    """A random view of an image of this size, for an input of a network."""
    match crop:
        case Centre():
            return center_view(image, wanted.size, wanted.resize)
        case Warp():
            side = Size(wanted.resize, wanted.resize)
            return center_view(image, side, wanted.resize)
        case Area():
            return _part(crop, image, wanted.size, generator)
        case Padded():
            resized, margin = shorter_side(image, wanted.resize), crop.padding
            around = Box(-margin, -margin, resized.width + 2 * margin, resized.height + 2 * margin)
        case Square():
            resized = shorter_side(image, crop.side)
            around = centre(Box(0, 0, *resized), Size(crop.side, crop.side))
        case Scale():
            resized = shorter_side(image, int(generator.integers(crop.shortest, crop.longest + 1)))
            around = Box(0, 0, *resized)
    return View(resized, _place(around, wanted.size, generator), wanted.size)


def mirror(view: View) -> View:
    return replace(view, mirrored=not view.mirrored)


def fixed_scale(crop: Crop, wanted: Input) -> int | None:
    """The shorter side to which every image is resized, where that is one number."""
    if isinstance(crop, Square):
        return crop.side
    return wanted.resize if isinstance(crop, Centre | Padded | Warp) else None


def require_fits(crop: Crop, wanted: Input) -> None:
    """Refuses a crop from an image that is smaller than it.

    Raises:
        ExportError: naming both.
    """
    least = {Square: getattr(crop, "side", None), Scale: getattr(crop, "shortest", None)}.get(type(crop))
    if least is not None and least < max(wanted.size):
        raise ExportError(
            f"the recipe cuts {wanted.width} x {wanted.height} of images resized to {least}; take a larger side in "
            "[augmentation.crop] of a recipe of your own"
        )


def _place(around: Box, size: Size, generator: np.random.Generator) -> Box:
    left = around.left + int(generator.integers(0, around.width - size.width + 1))
    top = around.top + int(generator.integers(0, around.height - size.height + 1))
    return Box(left, top, *size)


def _part(crop: Area, image: Size, size: Size, generator: np.random.Generator) -> View:
    """The box that becomes the input when the image is stretched so that the part has the input's size."""
    width, height = _draw_part(crop, image, generator)
    resized = Size(round(image.width * size.width / width), round(image.height * size.height / height))
    resized = Size(max(resized.width, size.width), max(resized.height, size.height))
    return View(resized, _place(Box(0, 0, *resized), size, generator), size)


def _draw_part(crop: Area, image: Size, generator: np.random.Generator) -> tuple[float, float]:
    bound = math.log(crop.aspect)
    for _ in range(ATTEMPTS):
        area = image.width * image.height * generator.uniform(crop.least, 1)
        aspect = math.exp(generator.uniform(-bound, bound))
        width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if width <= image.width and height <= image.height:
            return width, height
    return float(min(image)), float(min(image))


class Colours(nn.Module):
    """What is done to a batch of pixels from 0 to 255, [N, H, W, C], before it is normalised; grey has no colours."""

    def __init__(self, augmentation: Augmentation) -> None:
        super().__init__()
        self.pca = augmentation.pca
        bound = augmentation.jitter
        self.jitter = ColorJitter(bound, bound, bound, p=1.0) if bound else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[3] == 1:
            return images
        if self.jitter is not None:
            images = 255 * self.jitter(images.permute(0, 3, 1, 2) / 255).permute(0, 2, 3, 1)
        if self.pca:
            alphas = self.pca * torch.randn(len(images), 3, device=images.device)
            images = images + 255 * pca_shift(alphas)[:, None, None]
        return images


def pca_shift(alphas: torch.Tensor) -> torch.Tensor:
    """What is added to red, green and blue from 0 to 1: [N, 3] of [N, 3] weights of the components."""
    components = alphas.new_tensor(PCA_COMPONENTS)
    return alphas * alphas.new_tensor(PCA_EIGENVALUES) @ components.T


def warp(images: torch.Tensor, size: Size, how: Warp) -> torch.Tensor:
    """A crop of `size` of each [n, height, width, c] image at a random place, turned and zoomed a little."""
    count, height, width = images.shape[:3]

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return torch.empty(count, *shape, device=images.device).uniform_(-bound, bound)

    angle, zoom = uniform(math.radians(how.degrees)), 1 + uniform(how.zoom)
    across, down = zoom * size.width / width, zoom * size.height / height
    turn = torch.stack([across * angle.cos(), -down * angle.sin(), across * angle.sin(), down * angle.cos()], 1)
    maps = torch.cat([turn.reshape(count, 2, 2), uniform(how.shift, 2, 1)], 2)
    grid = affine_grid(maps, [count, 1, size.height, size.width], align_corners=False)
    return grid_sample(images.permute(0, 3, 1, 2).float(), grid, align_corners=False).permute(0, 2, 3, 1)
