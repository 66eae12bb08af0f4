"""Another activation in the place of a network's own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from export.architectures import Architecture
from export.errors import ExportError

Activation = nn.ReLU | nn.Tanh | nn.Sigmoid

CHOICES: dict[str, Callable[[], Activation]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def activated(architecture: Architecture, activation: str) -> Architecture:
    """The row of the network with another activation, a key of `CHOICES`, in place of its own.

    Its `build` raises as `replace_activations`.
    """

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
