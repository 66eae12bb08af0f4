"""GoogLeNet (Szegedy et al., 2014), table 1, twice: as the paper has it, and as torchvision does.

name              parameters (1000 classes)   with both auxiliary heads
googlenet_2014     6,998,552                  13,378,280
googlenet          6,624,904                  13,004,888

torchvision's departs from the paper in everything that `Form` lists. Its keys are used for both. The parameters that
the paper's table prints do not follow from its own widths.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from export.models.normalization import LocalResponseNorm
from export.models.pooling import max_pool_up

AUXILIARY_WEIGHT = 0.3
"""Of the loss of each auxiliary head beside the network's own."""


class ConvRelu(nn.Module):
    """A convolution with a bias, and ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.conv(x))
        return y


class ConvNormRelu(nn.Module):
    """A convolution without a bias, BatchNorm, and ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=1e-3)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.bn(self.conv(x)))
        return y


@dataclass(frozen=True)
class Form:
    """What differs between the paper's network and torchvision's."""

    unit: type[ConvRelu | ConvNormRelu]
    norm: Callable[[], nn.Module]
    """After the first pooling and before the second."""
    large: int
    """The larger kernel of a module."""
    last_pool: int
    """The kernel of the pooling before 5a."""
    aux_pool: Callable[[], nn.Module]
    """14 x 14 to 4 x 4."""
    dropout: float


# The paper names no constants for its normalisation; these are Caffe's, whose alpha is divided by the size.
PAPER = Form(
    ConvRelu,
    norm=lambda: LocalResponseNorm(5, 1e-4 / 5, 0.75, 1.0),
    large=5,
    last_pool=3,
    aux_pool=lambda: nn.AvgPool2d(5, 3),
    dropout=0.4,
)

# The 3x3 for 5x5 is a mistake that torchvision keeps, as the public weights have it (its issue 906).
TORCHVISION = Form(
    ConvNormRelu,
    norm=nn.Identity,
    large=3,
    last_pool=2,
    aux_pool=lambda: nn.AdaptiveAvgPool2d(4),
    dropout=0.2,
)


class Inception(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and a pooling side by side, the larger ones behind 1x1 reductions."""

    def __init__(
        self, form: Form, inside: int, one: int, reduce3: int, three: int, reduce5: int, five: int, projection: int
    ) -> None:
        super().__init__()
        unit, large = form.unit, form.large
        self.branch1 = unit(inside, one, 1)
        self.branch2 = nn.Sequential(unit(inside, reduce3, 1), unit(reduce3, three, 3, padding=1))
        self.branch3 = nn.Sequential(unit(inside, reduce5, 1), unit(reduce5, five, large, padding=large // 2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), unit(inside, projection, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Auxiliary(nn.Module):
    """A second classifier half-way up, for training."""

    def __init__(self, form: Form, inside: int, classes: int) -> None:
        super().__init__()
        self.pool = form.aux_pool()
        self.conv = form.unit(inside, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 512 (528) x 14 x 14
        x = self.conv(self.pool(x))  # N x 128 x 4 x 4
        x = self.relu(self.fc1(x.flatten(1)))  # N x 1024
        logits: torch.Tensor = self.fc2(self.dropout(x))  # N x classes
        return logits


class GoogLeNet(nn.Module):
    """With `auxiliary`, training gives (logits, those of the head on 4a, those of the head on 4d)."""

    def __init__(self, form: Form, classes: int = 1000, channels: int = 3, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.conv1 = form.unit(channels, 64, 7, 2, padding=3)
        self.norm1 = form.norm()
        self.conv2 = form.unit(64, 64, 1)
        self.conv3 = form.unit(64, 192, 3, padding=1)
        self.norm2 = form.norm()
        # what comes in: 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection
        self.inception3a = Inception(form, 192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(form, 256, 128, 128, 192, 32, 96, 64)
        self.inception4a = Inception(form, 480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(form, 512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(form, 512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(form, 512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(form, 528, 256, 160, 320, 32, 128, 128)
        self.inception5a = Inception(form, 832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(form, 832, 384, 192, 384, 48, 128, 128)
        self.last_pool = form.last_pool
        self.aux1 = Auxiliary(form, 512, classes) if auxiliary else None
        self.aux2 = Auxiliary(form, 528, classes) if auxiliary else None
        self.dropout = nn.Dropout(form.dropout)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:  # N x 3 x 224 x 224
        x = self.norm1(max_pool_up(self.conv1(x)))  # N x 64 x 56 x 56
        x = self.norm2(self.conv3(self.conv2(x)))  # N x 192 x 56 x 56
        x = self.inception3a(max_pool_up(x))  # N x 256 x 28 x 28
        x = self.inception3b(x)  # N x 480 x 28 x 28
        x = lower = self.inception4a(max_pool_up(x))  # N x 512 x 14 x 14
        x = self.inception4c(self.inception4b(x))  # N x 512 x 14 x 14
        x = upper = self.inception4d(x)  # N x 528 x 14 x 14
        x = self.inception4e(x)  # N x 832 x 14 x 14
        x = self.inception5a(max_pool_up(x, self.last_pool))  # N x 832 x 7 x 7
        x = self.inception5b(x)  # N x 1024 x 7 x 7
        x = self.dropout(x.mean((2, 3)))  # N x 1024
        logits: torch.Tensor = self.fc(x)  # N x classes
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return logits, self.aux1(lower), self.aux2(upper)
        return logits
