"""LeNet-5 as it is usually coded again: 6-16-120-84-10, 61,706 parameters for ten classes.

Departures from LeCun et al. (1998): C3 sees all maps of S2, the subsampling has no weights, the activation is a plain
tanh, and the output is linear instead of radial basis functions. The names of the layers are those of PyTorch's own
tutorial, whose checkpoints are the common ones.
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d


class LeNet5(nn.Module):
    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 1 x 32 x 32
        x = torch.tanh(self.conv1(x))  # N x 6 x 28 x 28
        x = avg_pool2d(x, 2)  # N x 6 x 14 x 14
        x = torch.tanh(self.conv2(x))  # N x 16 x 10 x 10
        x = avg_pool2d(x, 2)  # N x 16 x 5 x 5
        x = torch.tanh(self.fc1(x.flatten(1)))  # N x 120
        x = torch.tanh(self.fc2(x))  # N x 84
        logits: torch.Tensor = self.fc3(x)  # N x classes
        return logits
