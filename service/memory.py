"""Whether a version fits into what memory is left, before it is loaded; and giving back what loading it took."""

import contextlib
import ctypes

from bundle.manifest import Input
from service.engine.limits import free_memory
from service.errors import NotEnoughMemoryError

WEIGHTS = 5
"""A version takes so many times its file while it is opened: 3.9 in the child that tries it first (VGG-16's
convolutions, 56 MiB: the file, the graph read from it, the weights laid out for the processor), then 4.9 here (the file
and both sessions of ResNet-50, 97 MiB)."""

ACTIVATIONS = 64
"""A view that runs takes so many times its pixels as floats. VGG-16's convolutions took 56, at 224 x 224."""

FLOAT = 4
"""Bytes."""


def needed_memory(model_bytes: int, view: Input, views: int) -> int:
    """Bytes that a session takes, estimated for the networks that take most.

    Args:
        model_bytes: of model.onnx.
        view: the network's input.
        views: of native size, that run at once on the CPU; 0 on a GPU, whose memory is its runtime's to refuse.
    """
    return WEIGHTS * model_bytes + ACTIVATIONS * FLOAT * view.height * view.width * view.channels * views


def require_memory(needed: int) -> None:
    """Raises NotEnoughMemoryError: the machine, or the container, has less than so many bytes left."""
    free = free_memory()
    if free is not None and needed > free:
        raise NotEnoughMemoryError(
            f"it needs about {_mib(needed)} MiB and {_mib(free)} MiB are free: unload another model, or give the"
            " server more memory"
        )


def give_back_memory() -> None:
    """Hands what was freed back to the system; glibc keeps it, twice the weights of a model that was just opened."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _mib(size: int) -> int:
    return -(-size // (1 << 20))
