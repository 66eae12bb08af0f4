"""AlexNet twice: as it was in 2012 on two GPUs, and as torchvision has it.

name            parameters (1000 classes)
alexnet_2012    60,965,224   Krizhevsky et al. (2012): 96-256-384-384-256, LRN, two groups
alexnet         61,100,840   torchvision: 64-192-384-256-256, neither

torchvision's is said to be the single tower of "One weird trick" (Krizhevsky, 2014), but its fourth layer is narrower
than that paper prints. It pools to 6 x 6 before the head, which does nothing at native size and is left out here.
"""

import torch
from torch import nn

from export.models.normalization import LocalResponseNorm


class AlexNet2012(nn.Module):
    """Two groups in conv2, conv4 and conv5 are the paper's two GPUs.

    The paper's 224 x 224 input does not give its 55 x 55 maps; 227 x 227 does, as in Caffe. The keys are not the
    paper's, which has none, but those of torchvision's manner.
    """

    def __init__(self, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(  # N x 3 x 227 x 227
            nn.Conv2d(channels, 96, 11, 4),  # N x 96 x 55 x 55
            nn.ReLU(inplace=True),
            LocalResponseNorm(),
            nn.MaxPool2d(3, 2),  # N x 96 x 27 x 27; the windows overlap
            nn.Conv2d(96, 256, 5, padding=2, groups=2),  # N x 256 x 27 x 27
            nn.ReLU(inplace=True),
            LocalResponseNorm(),
            nn.MaxPool2d(3, 2),  # N x 256 x 13 x 13
            nn.Conv2d(256, 384, 3, padding=1),  # N x 384 x 13 x 13; here the two GPUs see all maps
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),  # N x 256 x 13 x 13
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # N x 256 x 6 x 6
        )
        self.classifier = nn.Sequential(
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class AlexNet(nn.Module):
    """torchvision's, with its keys."""

    def __init__(self, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(  # N x 3 x 224 x 224
            nn.Conv2d(channels, 64, 11, 4, padding=2),  # N x 64 x 55 x 55
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # N x 64 x 27 x 27
            nn.Conv2d(64, 192, 5, padding=2),  # N x 192 x 27 x 27
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # N x 192 x 13 x 13
            nn.Conv2d(192, 384, 3, padding=1),  # N x 384 x 13 x 13
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),  # N x 256 x 13 x 13
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # N x 256 x 6 x 6
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return logits
