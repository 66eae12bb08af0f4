"""Another activation in a network, and how much of a layer's output is in its flat parts."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from export.architectures import Architecture
from export.errors import ExportError

Activation = nn.ReLU | nn.Tanh | nn.Sigmoid

CHOICES: dict[str, Callable[[], Activation]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}

FLAT = 0.05
"""A unit is saturated where the derivative is below this much of its largest."""


def activated(architecture: Architecture, activation: str) -> Architecture:
    """The row of the network with another activation in place of its own."""

    def build(classes: int, channels: int, **options: Any) -> nn.Module:
        network = architecture.build(classes, channels, **options)
        replace_activations(network, activation, architecture.name)
        return network

    return replace(architecture, build=build, activation=activation)


def replace_activations(network: nn.Module, activation: str, name: str) -> None:
    """Puts another activation in the place of each of the network's own; they have no weights, so the keys stay.

    Args:
        network: whose activations are replaced.
        activation: a key of `CHOICES`.
        name: the network's, for the error.

    Raises:
        ExportError: the network's activations are no layers of it.
    """
    found = [
        (module, key)
        for module in network.modules()
        for key, child in module.named_children()
        if isinstance(child, Activation)
    ]
    if not found:
        raise ExportError(f"{name} has its own activation, which is part of it; leave --activation out")
    for module, key in found:
        setattr(module, key, CHOICES[activation]())


def saturated(activation: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """The fraction of the units whose derivative is below `FLAT` of the largest: for ReLU those that are off."""
    if isinstance(activation, nn.Tanh):
        flat = 1 - output.square() < FLAT
    elif isinstance(activation, nn.Sigmoid):
        flat = output * (1 - output) < FLAT / 4
    else:
        flat = output <= 0
    return flat.float().mean()


class Saturation:
    """Watches the activations of a network; `fractions` are those of the last pass that was watched."""

    def __init__(self, network: nn.Module) -> None:
        self.watching = False
        self.fractions: dict[str, torch.Tensor] = {}
        self._calls: Counter[str] = Counter()
        for name, module in network.named_modules():
            if isinstance(module, Activation):
                module.register_forward_hook(self._hook(name))

    def watch(self, *, wanted: bool) -> None:
        """Says before a pass whether it is watched."""
        self.watching = wanted
        self.fractions = {}
        self._calls.clear()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def see(module: nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if not self.watching:
                return
            self._calls[name] += 1  # ResNet uses one layer several times in a block
            key = name if self._calls[name] == 1 else f"{name}.{self._calls[name]}"
            self.fractions[key] = saturated(module, output.detach())

        return see
