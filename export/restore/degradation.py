"""What was done to a picture before it was seen: pixels left out, noise, a smaller size.

A degradation is a module that takes pictures [1, 3, H, W] with colours from 0 to 1, and can be differentiated.
"""

import math

import torch
from torch import nn
from torch.nn.functional import conv2d, pad

KERNEL_SIZE = 4
"""Of Lanczos2, in pixels of the smaller picture: it reaches two to either side."""


class Masked(nn.Module):
    """Only some pixels are known; the others are 0, whatever they are in the picture.

    Args:
        known: [1, 1, H, W], 1 where the picture is known and 0 elsewhere.
    """

    known: torch.Tensor

    def __init__(self, known: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return picture * self.known


class Downsampled(nn.Module):
    """The picture at a fraction of its size: Lanczos2 with a phase of one half, repeated pixels around the border.

    Args:
        factor: a divisor of height and width; even.
    """

    rows: torch.Tensor

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.border = (KERNEL_SIZE - 1) * factor // 2  # so that H / factor places are left
        self.register_buffer("rows", lanczos2(factor).float().reshape(1, 1, -1, 1).repeat(3, 1, 1, 1))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        around = pad(picture, [self.border] * 4, mode="replicate")
        flat = conv2d(around, self.rows, stride=(self.factor, 1), groups=3)
        return conv2d(flat, self.rows.transpose(2, 3), stride=(1, self.factor), groups=3)


def lanczos2(factor: int) -> torch.Tensor:
    """The kernel along one axis, float64 [4 factor], of sum 1; the kernel of both axes is its product with itself.

    sinc(x) sinc(x / 2) of x within 2, at pixels whose centres lie a half to either side of the kernel's.
    """
    places = (torch.arange(KERNEL_SIZE * factor, dtype=torch.float64) + 0.5) / factor - KERNEL_SIZE / 2
    kernel = torch.sinc(places) * torch.sinc(places / 2)
    return kernel / kernel.sum()


def random_mask(height: int, width: int, missing: float, generator: torch.Generator) -> torch.Tensor:
    """[1, 1, height, width] with 0 at a share of the pixels, to the nearest pixel."""
    count = height * width
    known = torch.ones(count)
    known[torch.randperm(count, generator=generator)[: round(missing * count)]] = 0
    return known.reshape(1, 1, height, width)


def add_noise(picture: torch.Tensor, levels: float, generator: torch.Generator) -> torch.Tensor:
    """With Gaussian noise of that standard deviation in levels of 255, within 0 and 1."""
    return (picture + torch.randn(picture.shape, generator=generator) * levels / 255).clamp(0, 1)


def psnr(error: float) -> float:
    """In dB, of a mean squared error of colours from 0 to 1."""
    return math.inf if error == 0 else -10 * math.log10(error)
