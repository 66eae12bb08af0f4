"""The generators of "Deep Image Prior" (Ulyanov et al., CVPR 2018), as in its public notebooks.

name              use there                    input z   parameters
skip              denoise, super-resolution    32        2,217,831
skip128           inpainting of text           32        3,002,627
hourglass         inpainting of a large hole    2        2,157,955
small             removal of JPEG's traces      3          572,827
encoder_decoder   figure 8d, depth 2, 4, 6      1           59,635, 1,060,339, 2,996,467
resnet            figure 8e, 8 blocks           1          158,979
unet              figure 8f, 5 times halved     1        1,616,315

All give colours from 0 to 1, [N, 3, H, W], of z [N, channels, H, W]. H and W are multiples of `multiple`, and no less
than `smallest`; the public code cuts grids where two do not match, here they always do. The generators are fitted and
asked in training mode: their BatchNorms use the statistics of the one picture that they draw.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

Interpolation = Literal["nearest", "bilinear"]

COLOURS = 3
WIDTHS = (16, 32, 64, 128, 128, 128)
"""Of the six scales of figure 8d, the finest first."""


def _convolve(inside: int, width: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    # 1x1 pads nothing, and reflecting nothing would cost a copy
    mode: Literal["reflect", "zeros"] = "reflect" if kernel > 1 else "zeros"
    convolution = nn.Conv2d(inside, width, kernel, stride, kernel // 2, padding_mode=mode)
    return [convolution, nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True)]


class Scale(nn.Module):
    """Halves the grid, passes it through `below`, doubles it again, and joins it with what skipped all that."""

    def __init__(
        self,
        inside: int,
        width: int,
        skip: int,
        below: nn.Module,
        deeper: int,
        *,
        kernel: int,
        mix: bool,
        interpolation: Interpolation,
    ) -> None:
        super().__init__()
        self.skip = nn.Sequential(*_convolve(inside, skip, 1)) if skip else None
        self.down = nn.Sequential(*_convolve(inside, width, kernel, stride=2), *_convolve(width, width, kernel))
        self.below = below
        self.upsample = nn.Upsample(scale_factor=2, mode=interpolation)
        mixed = _convolve(width, width, 1) if mix else []
        self.up = nn.Sequential(nn.BatchNorm2d(skip + deeper), *_convolve(skip + deeper, width, 3), *mixed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.upsample(self.below(self.down(x)))
        joined = y if self.skip is None else torch.cat([self.skip(x), y], 1)
        up: torch.Tensor = self.up(joined)
        return up


class EncoderDecoder(nn.Module):
    """An hourglass, with or without skip connections.

    Args:
        inside: channels of z.
        widths: of each scale, the finest first.
        skips: channels of each skip connection; 0 for none.
        kernel: of the convolutions on the way down.
        mix: whether a 1x1 convolution ends each scale.
        interpolation: of the way up.
    """

    def __init__(
        self,
        inside: int,
        widths: Sequence[int],
        skips: Sequence[int],
        *,
        kernel: int = 3,
        mix: bool = True,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__()
        below: nn.Module = nn.Identity()
        deeper = widths[-1]
        for scale in reversed(range(len(widths))):
            above = widths[scale - 1] if scale else inside
            width, skip = widths[scale], skips[scale]
            below = Scale(above, width, skip, below, deeper, kernel=kernel, mix=mix, interpolation=interpolation)
            deeper = width
        self.scales = below
        self.colours = nn.Conv2d(widths[0], COLOURS, 1)
        self.multiple = 2 ** len(widths)
        self.smallest = self.multiple * (kernel // 2 + 1)  # only a grid wider than its border reflects

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.colours(self.scales(z)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.leaky_relu(self.bn1(self.conv1(x)), 0.2)
        y = self.bn2(self.conv2(y))
        added: torch.Tensor = x + y
        return added


class ResNet(nn.Module):
    """Residual blocks on one grid: no scale is smaller than the picture, and nothing follows the addition."""

    multiple, smallest = 1, 2

    def __init__(self, inside: int, blocks: int = 8, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, width, 3, padding=1, padding_mode="reflect")
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.colours = nn.Conv2d(width, COLOURS, 3, padding=1, padding_mode="reflect")

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu(self.first(z), 0.2)
        x = self.norm(self.last(self.blocks(x)))
        return torch.sigmoid(self.colours(x))


def _double(inside: int, width: int, *, normalized: bool) -> nn.Sequential:
    def layers(channels: int) -> list[nn.Module]:
        norm: list[nn.Module] = [nn.InstanceNorm2d(width)] if normalized else []  # without scale and shift
        return [nn.Conv2d(channels, width, 3, padding=1), *norm, nn.ReLU()]

    return nn.Sequential(*layers(inside), *layers(width))


class Rise(nn.Module):
    """Doubles the grid of `below` and joins it with the one of `width` channels that was there on the way down."""

    def __init__(self, below: int, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(below, width, 4, stride=2, padding=1)
        self.conv = _double(2 * width, width, normalized=False)

    def forward(self, x: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        risen: torch.Tensor = self.conv(torch.cat([self.up(x), across], 1))
        return risen


class UNet(nn.Module):
    """U-Net with InstanceNorm on the way down, which is the same in training and in evaluation, and is never folded."""

    multiple, smallest = 32, 64  # an InstanceNorm of one pixel would be 0

    def __init__(self, inside: int, widths: Sequence[int] = (8, 16, 32, 64, 128, 128)) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.first = _double(inside, widths[0], normalized=True)
        self.downs = nn.ModuleList(_double(above, below, normalized=True) for above, below in pairs)
        self.ups = nn.ModuleList(Rise(below, above) for above, below in reversed(pairs))
        self.colours = nn.Conv2d(widths[0], COLOURS, 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.first(z)
        passed = []
        for down in self.downs:
            passed.append(x)
            x = down(nn.functional.max_pool2d(x, 2))
        for up in self.ups:
            x = up(x, passed.pop())
        return torch.sigmoid(self.colours(x))


Generator = EncoderDecoder | ResNet | UNet


def skip(channels: int = 4) -> EncoderDecoder:
    """Five scales of 128 channels with skip connections of few (4, bilinear) or as many (128, nearest)."""
    interpolation: Interpolation = "bilinear" if channels == 4 else "nearest"  # noqa: PLR2004 as published
    return EncoderDecoder(32, [128] * 5, [channels] * 5, interpolation=interpolation)


def hourglass() -> EncoderDecoder:
    return EncoderDecoder(2, [128] * 5, [0] * 5, interpolation="nearest")


def small() -> EncoderDecoder:
    return EncoderDecoder(3, [8, 16, 32, 64, 128], [0, 0, 0, 4, 4])


def encoder_decoder(depth: int = 6) -> EncoderDecoder:
    """Figure 8d, with 1 to 6 scales."""
    return EncoderDecoder(1, WIDTHS[:depth], [0] * depth, kernel=5, mix=False, interpolation="nearest")
