"""VGG (Simonyan and Zisserman, 2014), table 1, with torchvision's keys where it has the network.

name          column   parameters (1000 classes)   with BatchNorm (`_bn`)
vgg11         A        132,863,336                 132,868,840
vgg11_lrn     A-LRN    132,863,336
vgg13         B        133,047,848                 133,053,736
vgg16_c       C        133,638,952
vgg16         D        138,357,544                 138,365,992
vgg19         E        143,667,240                 143,678,248

The BatchNorm forms are torchvision's, not the paper's; their convolutions keep their biases. torchvision pools to 7 x 7
before the head, which does nothing at native size and is left out here.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from export.models.normalization import LocalResponseNorm

Layer = int | Literal["M", "L", "1x1"]
"""The width of a 3x3 convolution; max pooling; local response normalisation; a 1x1 convolution that keeps the width."""

CONFIGS: dict[str, tuple[Layer, ...]] = {
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg11_lrn": (64, "L", "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg13": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg16": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    "vgg16_c": (64, 64, "M", 128, 128, "M", 256, 256, "1x1", "M", 512, 512, "1x1", "M", 512, 512, "1x1", "M"),
    "vgg19": (
        *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
    ),
}


class VGG(nn.Module):
    def __init__(
        self, config: Sequence[Layer], classes: int = 1000, channels: int = 3, *, batchnorm: bool = False
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers(config, channels, batchnorm=batchnorm))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 3 x 224 x 224
        # The grid is 224 x 224 for 64 channels, 112 for 128, 56 for 256, 28 and then 14 for 512.
        x = self.features(x)  # N x 512 x 7 x 7
        logits: torch.Tensor = self.classifier(x.flatten(1))  # N x classes
        return logits


def _layers(config: Sequence[Layer], channels: int, *, batchnorm: bool) -> Iterator[nn.Module]:
    inside = channels
    for layer in config:
        if layer == "M":
            yield nn.MaxPool2d(2, 2)
            continue
        if layer == "L":
            yield LocalResponseNorm()  # the constants are AlexNet's, says section 2.1
            continue
        width, kernel = (inside, 1) if layer == "1x1" else (layer, 3)
        yield nn.Conv2d(inside, width, kernel, padding=kernel // 2)
        if batchnorm:
            yield nn.BatchNorm2d(width)
        yield nn.ReLU(inplace=True)
        inside = width
