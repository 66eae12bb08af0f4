"""ResNet for ImageNet (He et al., 2015), table 1, with torchvision's names of layers.

name        blocks        parameters (1000 classes)
resnet18    2  2  2  2    11,689,512   two 3x3
resnet34    3  4  6  3    21,797,672   two 3x3
resnet50    3  4  6  3    25,557,032   1x1, 3x3, 1x1
resnet101   3  4  23 3    44,549,160   1x1, 3x3, 1x1
resnet152   3  8  36 3    60,192,808   1x1, 3x3, 1x1

A bottleneck halves the grid at its 3x3 (v1.5: torchvision, fb.resnet.torch); `_v1` at its first 1x1, as the paper and
Caffe do. The two have the same keys and shapes, so weights of one load into the other and answer wrongly: the name
decides.

Shortcuts that change shape are a 1x1 convolution (option B), unless the name says otherwise (section 4.1):
resnet18_a, resnet34_a    11,515,688, 21,623,848   no parameters (A)
resnet34_c                22,716,840               every shortcut is a 1x1 convolution (C)
plain18, plain34          as _a                    no shortcuts at all
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import pad

Shortcuts = Literal["A", "B", "C", "plain"]


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inside: int, width: int, stride: int, shortcuts: Shortcuts = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inside, width, stride, shortcuts)
        self.plain = shortcuts == "plain"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        out: torch.Tensor = self.relu(x if self.plain else x + identity)
        return out


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inside: int, width: int, stride: int, *, v1: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, stride if v1 else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1 if v1 else stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inside, width * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        out: torch.Tensor = self.relu(x + identity)
        return out


class Subsample(nn.Module):
    """Option A: every second pixel, and zeros for the new channels, behind the old ones as in fb.resnet.torch."""

    def __init__(self, zeros: int) -> None:
        super().__init__()
        self.zeros = zeros

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.zeros))


def shortcut(inside: int, outside: int, stride: int, shortcuts: Shortcuts = "B") -> nn.Module | None:
    """What the input of a block goes through before the sum; None: nothing."""
    same = stride == 1 and inside == outside
    if shortcuts == "plain" or (same and shortcuts != "C"):
        return None
    if shortcuts == "A":
        return Subsample(outside - inside)
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


class ResNet(nn.Module):
    def __init__(
        self,
        block: Callable[[int, int, int], BasicBlock | Bottleneck],
        blocks: Sequence[int],
        classes: int = 1000,
        channels: int = 3,
    ) -> None:
        """`block` makes one of (channels that come in, width, stride); `blocks` are their numbers at each grid."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inside, stages = 64, []
        for width, stride, count in zip((64, 128, 256, 512), (1, 2, 2, 2), blocks, strict=True):
            first = block(inside, width, stride)
            inside = width * first.expansion
            stages.append(nn.Sequential(first, *(block(inside, width, 1) for _ in range(count - 1))))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inside, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 3 x 224 x 224
        x = self.relu(self.bn1(self.conv1(x)))  # N x 64 x 112 x 112
        x = self.maxpool(x)  # N x 64 x 56 x 56
        x = self.layer1(x)  # N x 64 (256) x 56 x 56
        x = self.layer2(x)  # N x 128 (512) x 28 x 28
        x = self.layer3(x)  # N x 256 (1024) x 14 x 14
        x = self.layer4(x)  # N x 512 (2048) x 7 x 7
        x = x.mean((2, 3))  # N x 512 (2048); exported as one ReduceMean, for every size of the grid
        logits: torch.Tensor = self.fc(x)  # N x classes
        return logits
