"""ResNet for CIFAR (He et al., 2015), section 4.2: 6n + 2 layers, three grids, shortcuts without weights (option A).

name        n     parameters (10 classes)
resnet20    3       269,722
resnet32    5       464,154
resnet44    7       658,586
resnet56    9       853,018
resnet110   18    1,727,962

plain20 ... plain110 are the same without the shortcuts: the same layers, parameters and keys.

Names of layers and form of the shortcut are those of the public checkpoints (akamaster/pytorch_resnet_cifar10): every
second pixel, and the new channels are zeros on both sides of the old ones. fb.resnet.torch appends them all.
"""

import torch
from torch import nn
from torch.nn.functional import pad


class Shortcut(nn.Module):
    """Option A: halves the grid by taking every second pixel, and adds `zeros` empty channels on either side."""

    def __init__(self, zeros: int) -> None:
        super().__init__()
        self.zeros = zeros

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros))


class Block(nn.Module):
    def __init__(self, inside: int, planes: int, stride: int, *, plain: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity() if stride == 1 else Shortcut(planes // 4)
        self.plain = plain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: torch.Tensor = self.relu(y if self.plain else y + self.shortcut(x))
        return out


class CifarResNet(nn.Module):
    def __init__(self, n: int, classes: int = 10, channels: int = 3, *, plain: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()

        def stage(inside: int, planes: int, stride: int) -> nn.Sequential:
            rest = (Block(planes, planes, 1, plain=plain) for _ in range(n - 1))
            return nn.Sequential(Block(inside, planes, stride, plain=plain), *rest)

        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 3 x 32 x 32
        x = self.relu(self.bn1(self.conv1(x)))  # N x 16 x 32 x 32
        x = self.layer1(x)  # N x 16 x 32 x 32
        x = self.layer2(x)  # N x 32 x 16 x 16
        x = self.layer3(x)  # N x 64 x 8 x 8
        x = x.mean((2, 3))  # N x 64
        logits: torch.Tensor = self.linear(x)  # N x classes
        return logits
