"""How the weights begin: the papers' initialisations, for convolutions and linear layers of any network."""

import math

import torch
from torch import nn

from export.errors import ExportError
from export.train.recipe import AlexNetStart, Initialisation, Named

Layer = nn.Conv2d | nn.Linear


@torch.no_grad()
def initialise(network: nn.Module, how: Initialisation, name: str) -> None:
    """Sets the weights and biases of every convolution and linear layer, from torch's global generator.

    Args:
        network: fresh, its layers as torch begins them.
        how: the recipe's.
        name: the network's, for the error.

    Raises:
        ExportError: AlexNet's biases are wanted in a network of other layers.
    """
    if isinstance(how, Named) and how.kind == "torch":
        return
    layers = [layer for layer in network.modules() if isinstance(layer, Layer)]
    for layer in layers:
        _draw(layer.weight, how)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if isinstance(how, AlexNetStart):
        _lift(layers, how.bias, name)


def _draw(weight: torch.Tensor, how: Initialisation) -> None:
    if isinstance(how, AlexNetStart):
        nn.init.normal_(weight, std=how.std)
    elif how.kind == "glorot":
        nn.init.xavier_uniform_(weight)
    elif how.kind == "he":
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    else:
        bound = 2.4 / math.prod(weight.shape[1:])
        nn.init.uniform_(weight, -bound, bound)


def _lift(layers: list[Layer], bias: float, name: str) -> None:
    """Gives the ReLUs behind these layers positive inputs to begin with."""
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    hidden = [layer for layer in layers if isinstance(layer, nn.Linear)][:-1]
    if (len(convolutions), len(hidden)) != (5, 2):
        raise ExportError(f"{name} has not AlexNet's layers, whose biases the initialisation 'alexnet' sets; take 'he'")
    for layer in (convolutions[1], convolutions[3], convolutions[4], *hidden):
        if isinstance(layer.bias, torch.Tensor):
            nn.init.constant_(layer.bias, bias)
