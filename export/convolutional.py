"""The dense form of networks that end in fully connected layers (AlexNet, VGG): one graph for any size.

The head slides over the last feature map as a window, and the class scores of all places are averaged (Simonyan and
Zisserman, 2014, section 3.2). At native size there is one place, and this is the network as it was. The paper turns the
first fully connected layer into a convolution; here the windows are gathered and multiplied, which is the same sum,
reads the weights once for all places and images of a batch, and costs nothing extra at native size
(docs/benchmarks.md).
"""

from collections.abc import Iterator
from typing import Protocol, cast

import torch
from torch import nn


class Headed(Protocol):
    """A network of a convolutional part and a fully connected head, torchvision's names."""

    features: nn.Module
    """N x 3 x H x W to the last feature map, N x C x h x w."""
    classifier: nn.Module
    """Windows of that map, flattened over channels, rows and columns, to scores; along the last axis."""


def sliding(network: nn.Module, window: int | None) -> nn.Module:
    """The form of a network that is frozen: itself where it takes any size as it is."""
    return network if window is None else SlidingHead(cast("Headed", network), window)


def explicit(network: nn.Module, window: int | None) -> nn.Module:
    """The form of a network that the frozen one is compared with."""
    return network if window is None else ExplicitWindows(cast("Headed", network), window)


class SlidingHead(nn.Module):
    """A network that takes any size at or above its native one and answers the mean of the class-score map.

    Args:
        network: in eval mode; its layers are used, not copied.
        window: height and width of the feature map that the head was trained on.
    """

    def __init__(self, network: Headed, window: int) -> None:
        super().__init__()
        self.features = network.features
        self.classifier = network.classifier
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)  # N x C x h x w
        x = x.unfold(2, self.window, 1).unfold(3, self.window, 1)  # N x C x (h - 6) x (w - 6) x 7 x 7 for a window of 7
        x = x.permute(0, 2, 3, 1, 4, 5).flatten(3)  # N x (h - 6) x (w - 6) x 49 C
        scores: torch.Tensor = self.classifier(x)  # N x (h - 6) x (w - 6) x K: the class-score map
        return scores.mean((1, 2))  # N x K


class ExplicitWindows(nn.Module):
    """The same, place by place with the head as it is: what the graph of a `SlidingHead` is compared with."""

    def __init__(self, network: Headed, window: int) -> None:
        super().__init__()
        self.features = network.features
        self.classifier = network.classifier
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = [self.classifier(place.flatten(1)) for place in self._places(self.features(x))]
        return torch.stack(scores).mean(0)

    def _places(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        for row in range(x.shape[2] - self.window + 1):
            for column in range(x.shape[3] - self.window + 1):
                yield x[:, :, row : row + self.window, column : column + self.window]
