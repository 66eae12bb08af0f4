"""Multiply-adds of a network, at its native size and at any other.

A layer costs the same at each of its places, and along a side of H pixels it has (H + offset) // stride of them:
kernels, paddings and strides in a row are nested floors, and nested floors are one floor. So a few numbers are exact.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bundle.manifest import Cost, Input
from bundle.views import Size

LONGEST = 32
"""The longest stride, in pixels: each layer has one more place within as many more pixels."""

SPAN = 2 * LONGEST
"""Strides that divide it are found: those of networks that halve and halve again."""

PROBES = ((1, 1), (0, 5), (LONGEST, SPAN), (37, 11))
"""Pixels more in height and width at which the costs that were found are tried."""


def count_macs(network: nn.Module, wanted: Input) -> int:
    """Multiply-adds of the convolutions and linear layers for one image at native size."""
    return sum(_layers(network, wanted.channels, wanted.size))


def find_costs(network: nn.Module, wanted: Input) -> tuple[Cost, ...]:
    """The multiply-adds of a network that takes any size, by resolution, the finest first.

    Empty where they are not found: a network that does not run on shapes alone, or whose layers treat height and width
    differently.

    Args:
        network: in eval mode, as it is frozen; only shapes are computed.
        wanted: its input.
    """

    @cache
    def layers(taller: int, wider: int) -> list[int]:
        return _layers(network, wanted.channels, Size(wanted.width + wider, wanted.height + taller))

    def fit(layer: int) -> Cost:
        return _fit(wanted.height, lambda taller: layers(taller, 0)[layer])

    try:
        costs = _merge([fit(layer) for layer in range(len(layers(0, 0)))])
        for taller, wider in PROBES:
            size = Size(wanted.width + wider, wanted.height + taller)
            if sum(cost.at(size) for cost in costs) != sum(layers(taller, wider)):
                return ()
    except Exception:  # noqa: BLE001 a stranger's network may do anything on sizes that are not its own
        return ()
    return costs


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is untyped
    """Notes the multiply-adds of every operation that has some, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        count: Callable[..., Any] | None = flop_registry.get(func._overloadpacket)  # noqa: SLF001 torch's key for it
        if count is not None:
            self.macs.append(int(count(*args, **(kwargs or {}), out_val=out)) // 2)
        return out


def _layers(network: nn.Module, channels: int, size: Size) -> list[int]:
    """The multiply-adds of each layer for one image of that size, on shapes alone."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    image = torch.empty(1, channels, size.height, size.width, device="meta")
    with torch.no_grad(), _Counter() as counter:
        functional_call(network, shapes, (image,))
    macs: list[int] = counter.macs
    return macs


def _fit(height: int, macs: Callable[[int], int]) -> Cost:
    """The cost of one layer.

    Args:
        height: native.
        macs: of the layer, by how many pixels taller the image is.

    Raises:
        ZeroDivisionError: it is not of this form.
    """
    native, far = macs(0), macs(SPAN)
    if far == native:
        return Cost(stride=0, offset=0, macs=native)
    step = bisect_left(range(LONGEST), True, key=lambda taller: macs(taller) > native)  # the first with one more row
    row = macs(step) - native
    places, stride = native // row, SPAN * row // (far - native)
    return Cost(stride=stride, offset=(places + 1) * stride - height - step, macs=row // places)


def _merge(rows: list[Cost]) -> tuple[Cost, ...]:
    """One row for all layers of a resolution."""
    macs: Counter[tuple[int, int]] = Counter()
    for row in rows:
        macs[row.stride, row.offset] += row.macs
    return tuple(Cost(stride=s, offset=o, macs=count) for (s, o), count in sorted(macs.items(), key=_finest))


def _finest(item: tuple[tuple[int, int], int]) -> tuple[bool, int, int]:
    (stride, offset), _ = item
    return not stride, stride, -offset
