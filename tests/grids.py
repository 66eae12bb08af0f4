"""The shapes that go through a network, without computing anything, for tests."""

from collections.abc import Iterable

import torch
from torch import nn

Shape = tuple[int, ...]


def grids(network: nn.Module, names: Iterable[str], channels: int, size: int) -> dict[str, tuple[Shape, Shape]]:
    """What goes into and comes out of submodules for one image of size x size; (channels, height, width) each.

    Args:
        network: on the meta device.
        names: of the submodules.
        channels: of the image.
        size: of the image.
    """
    seen: dict[str, tuple[Shape, Shape]] = {}

    def watch(name: str) -> None:
        def note(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            seen[name] = (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))

        network.get_submodule(name).register_forward_hook(note)

    for name in names:
        watch(name)
    network.eval()(torch.zeros(1, channels, size, size, device="meta"))
    return seen
