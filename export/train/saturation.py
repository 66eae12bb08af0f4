"""How much of a layer's output is in the flat parts of its activation."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from export.activations import Activation

FLAT = 0.05
"""A unit is saturated where the derivative is below this much of its largest."""


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
