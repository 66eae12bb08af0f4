"""Networks that are not ours, as users write them."""

import torch
from torch import nn


class Stencil(nn.Module):
    """Grouped and transposed convolutions with BatchNorm: N x 1 x H x W to N x 5."""

    def __init__(self, classes: int = 5, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4, bias=False)
        self.grouped_norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1, groups=2)
        self.up_norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after a training
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(self.grouped_norm(self.grouped(x)))  # N x 16 x H/2 x W/2
        x = torch.relu(self.up_norm(self.up(x)))  # N x 8 x H x W
        scores: torch.Tensor = self.head(self.dropout(x.square().mean((2, 3))))
        return scores


class Answering(nn.Module):
    """Answers what it is told to, of N images."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> object:
        return self.answer(x) if callable(self.answer) else self.answer


def build() -> nn.Module:
    torch.manual_seed(7)
    return Stencil()


def tuple_answer() -> nn.Module:
    return Answering(lambda x: (x.mean((2, 3)), x))


def map_answer() -> nn.Module:
    return nn.Conv2d(1, 5, 3)


def softmax_answer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3), nn.Softmax(1))


def failing() -> nn.Module:
    raise RuntimeError("no such luck\nsecond line")


def no_module() -> str:
    return "a network"


def nan_weights() -> nn.Module:
    network = Stencil()
    nn.init.constant_(network.head.bias, float("nan"))
    return network


def own_statistics() -> nn.Module:
    """Its BatchNorm has nothing stored."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.LazyLinear(3)
    )


def branching() -> nn.Module:
    """What it does depends on the values."""
    return Answering(lambda x: x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))


def always_dropping() -> nn.Module:
    return Answering(lambda x: nn.functional.dropout(x.mean((2, 3)), training=True))


def needs_classes(classes: int) -> nn.Module:
    return Stencil(classes)


def one_size() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
