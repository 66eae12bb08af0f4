"""Inception-v2 and v3 of "Rethinking the Inception Architecture" (Szegedy et al., 2015).

name            parameters (1000 classes)   with the auxiliary head
inception_v3    23,834,568                  27,161,264   the published network, torchvision's keys
inception_v2    25,954,248                             the paper's table 1

The published network is not the table's: a 1x1 convolution for a 3x3 in the stem, and a pooling for a strided one; a
5x5 branch kept at 35 x 35; four modules at 17 x 17 and not five. (slim calls another network inception_v2; that is
bn_inception_slim here.) The table prints grids and depths; the widths inside its modules are v3's where they fit, and
ours else. It has no auxiliary head here.
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d

AUXILIARY_WEIGHT = 0.4
"""Of the loss of the auxiliary head beside the network's own; the paper gives none, this is slim's."""


class Unit(nn.Module):
    """A convolution, BatchNorm, ReLU."""

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=1e-3)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.bn(self.conv(x)))
        return y


def row7(inside: int, outside: int) -> Unit:
    return Unit(inside, outside, (1, 7), padding=(0, 3))


def column7(inside: int, outside: int) -> Unit:
    return Unit(inside, outside, (7, 1), padding=(3, 0))


def average(x: torch.Tensor) -> torch.Tensor:
    """3 x 3 with a border of zeros that counts, as torchvision has it; TensorFlow's does not count."""
    return avg_pool2d(x, 3, 1, padding=1)


class InceptionA(nn.Module):
    """35 x 35. The second branch is a 5x5 (v3), or a 3x3 with the other branch as its two 3x3 (figure 5)."""

    def __init__(self, inside: int, pool: int, kernel: int = 5) -> None:
        super().__init__()
        self.branch1x1 = Unit(inside, 64)
        self.branch5x5_1 = Unit(inside, 48)
        self.branch5x5_2 = Unit(48, 64, kernel, padding=kernel // 2)
        self.branch3x3dbl_1 = Unit(inside, 64)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(inside, pool)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(average(x))], 1)


class InceptionB(nn.Module):
    """35 x 35 to 17 x 17, 768 channels (figure 10)."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(inside, 384, 3, 2)
        self.branch3x3dbl_1 = Unit(inside, 64)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """17 x 17, 768 channels: 7x7 convolutions as rows and columns (figure 6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(768, 192)
        self.branch7x7_1 = Unit(768, width)
        self.branch7x7_2 = row7(width, width)
        self.branch7x7_3 = column7(width, 192)
        self.branch7x7dbl_1 = Unit(768, width)
        self.branch7x7dbl_2 = column7(width, width)
        self.branch7x7dbl_3 = row7(width, width)
        self.branch7x7dbl_4 = column7(width, width)
        self.branch7x7dbl_5 = row7(width, 192)
        self.branch_pool = Unit(768, 192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x))], 1)


class InceptionD(nn.Module):
    """17 x 17 to 8 x 8, 1280 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(768, 192)
        self.branch3x3_2 = Unit(192, 320, 3, 2)
        self.branch7x7x3_1 = Unit(768, 192)
        self.branch7x7x3_2 = row7(192, 192)
        self.branch7x7x3_3 = column7(192, 192)
        self.branch7x7x3_4 = Unit(192, 192, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """8 x 8, 2048 channels: rows and columns side by side (figure 7)."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(inside, 320)
        self.branch3x3_1 = Unit(inside, 384)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Unit(inside, 448)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(inside, 192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        sides = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        sides += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *sides, self.branch_pool(average(x))], 1)


class Auxiliary(nn.Module):
    """A second classifier on the last 17 x 17 grid, for training."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv0 = Unit(768, 128)
        self.conv1 = Unit(128, 768, 5)
        self.fc = nn.Linear(768, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 768 x 17 x 17
        x = self.conv0(avg_pool2d(x, 5, 3))  # N x 128 x 5 x 5
        x = self.conv1(x)  # N x 768 x 1 x 1
        logits: torch.Tensor = self.fc(x.mean((2, 3)))  # N x classes
        return logits


class InceptionV3(nn.Module):
    """torchvision's, with its keys. With `auxiliary`, training gives (logits, those of the auxiliary head).

    torchvision's `transform_input` is no part of it: it belongs to the preprocessing.
    """

    def __init__(self, classes: int = 1000, channels: int = 3, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(channels, 32, 3, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(InceptionC, (128, 160, 160, 192))
        self.AuxLogits = Auxiliary(classes) if auxiliary else None
        self.Mixed_7a = InceptionD()
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:  # N x 3 x 299 x 299
        x = self.Conv2d_1a_3x3(x)  # N x 32 x 149 x 149
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(x))  # N x 64 x 147 x 147
        x = max_pool2d(x, 3, 2)  # N x 64 x 73 x 73
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # N x 192 x 71 x 71
        x = max_pool2d(x, 3, 2)  # N x 192 x 35 x 35
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # N x 288 x 35 x 35
        x = self.Mixed_6a(x)  # N x 768 x 17 x 17
        x = middle = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))  # N x 768 x 17 x 17
        x = self.Mixed_7a(x)  # N x 1280 x 8 x 8
        x = self.Mixed_7c(self.Mixed_7b(x))  # N x 2048 x 8 x 8
        x = self.dropout(x.mean((2, 3)))  # N x 2048
        logits: torch.Tensor = self.fc(x)  # N x classes
        if self.training and self.AuxLogits is not None:
            return logits, self.AuxLogits(middle)
        return logits


class InceptionV2(nn.Module):
    """Table 1, row by row; the figure 6 modules have n = 7."""

    def __init__(self, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(  # N x 3 x 299 x 299
            Unit(channels, 32, 3, 2),  # N x 32 x 149 x 149
            Unit(32, 32, 3),  # N x 32 x 147 x 147
            Unit(32, 64, 3, padding=1),  # N x 64 x 147 x 147
            nn.MaxPool2d(3, 2),  # N x 64 x 73 x 73
            Unit(64, 80, 3),  # N x 80 x 71 x 71
            Unit(80, 192, 3, 2),  # N x 192 x 35 x 35
            Unit(192, 288, 3, padding=1),  # N x 288 x 35 x 35
        )
        self.figure5 = nn.Sequential(*(InceptionA(288, 64, kernel=3) for _ in range(3)))
        self.reduction5 = InceptionB(288)
        self.figure6 = nn.Sequential(*map(InceptionC, (128, 160, 160, 160, 192)))
        self.reduction6 = InceptionD()
        self.figure7 = nn.Sequential(InceptionE(1280), InceptionE(2048))
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.figure5(self.stem(x))  # N x 288 x 35 x 35
        x = self.figure6(self.reduction5(x))  # N x 768 x 17 x 17
        x = self.figure7(self.reduction6(x))  # N x 2048 x 8 x 8
        x = self.dropout(x.mean((2, 3)))  # N x 2048
        logits: torch.Tensor = self.fc(x)  # N x classes
        return logits
