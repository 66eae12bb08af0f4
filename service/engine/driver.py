"""The little of NVIDIA's driver that ONNX Runtime does not offer: how many GPUs there are, and quick copies.

A GPU reads memory of the host by itself where that is pinned, several times as fast as any other, while it computes.
"""

import contextlib
import ctypes
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.errors import ProviderError

LIBRARY = "libcuda.so.1"

PORTABLE = 1
"""CU_MEMHOSTALLOC_PORTABLE: pinned for every GPU."""
NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: copies wait for no other stream, nor any other for them."""
THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"""

Array = npt.NDArray[Any]


def count_gpus() -> int:
    """Asks the driver itself: ONNX Runtime lists CUDA wherever it was built for it."""
    count = ctypes.c_int(0)
    with contextlib.suppress(OSError):
        driver = ctypes.CDLL(LIBRARY)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


class Memory(Protocol):
    """Of a device, and of the host as that device likes it; all of it is free again when this is collected."""

    kind: str
    """As ONNX Runtime calls the device: cuda."""
    number: int

    def pin(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """An array of the host, not initialised, that is quick to copy."""

    def allocate(self, size: int) -> int:
        """The address of so many bytes on the device."""

    def enter(self) -> None:
        """Has to be called by a thread before it copies, or runs a session."""

    def upload(self, address: int, source: Array) -> None:
        """Copies a contiguous array of the host to the device; other threads go on meanwhile."""

    def download(self, target: Array, address: int) -> None:
        """Copies into a contiguous array of the host; other threads go on meanwhile."""


class GpuMemory:
    """`Memory` of one GPU, in the context that ONNX Runtime uses too.

    Args:
        number: of the GPU.
        driver: NVIDIA's library; the machine's own when None.

    Every method raises ProviderError when the driver refuses.
    """

    kind = "cuda"

    def __init__(self, number: int, driver: Any = None) -> None:
        self.number = number
        self._driver = driver or _load()
        self._freeing: list[tuple[str, int]] = []
        device = ctypes.c_int()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), number)
        self._context = self._new("cuDevicePrimaryCtxRetain", device)
        weakref.finalize(self, _free, self._driver, self._context, device, self._freeing)
        self.enter()
        self._stream = self._new("cuStreamCreate", NON_BLOCKING)
        self._freeing.append(("cuStreamDestroy_v2", self._stream))

    def pin(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._new("cuMemHostAlloc", ctypes.c_size_t(size), PORTABLE)
        self._freeing.append(("cuMemFreeHost", address))
        held: Array = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(address)).view(dtype)
        return held.reshape(shape)

    def allocate(self, size: int) -> int:
        address = self._new("cuMemAlloc_v2", ctypes.c_size_t(size))
        self._freeing.append(("cuMemFree_v2", address))
        return address

    def enter(self) -> None:
        """A thread that did not ask for it may not copy while another one captures a graph, of another model say."""
        self._call("cuCtxSetCurrent", ctypes.c_void_p(self._context))
        self._call("cuThreadExchangeStreamCaptureMode", ctypes.byref(ctypes.c_int(THREAD_LOCAL)))

    def upload(self, address: int, source: Array) -> None:
        self._copy("cuMemcpyHtoDAsync_v2", address, source.ctypes.data, source.nbytes)

    def download(self, target: Array, address: int) -> None:
        self._copy("cuMemcpyDtoHAsync_v2", target.ctypes.data, address, target.nbytes)

    def _copy(self, function: str, target: int, source: int, size: int) -> None:
        stream = ctypes.c_void_p(self._stream)
        self._call(function, ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size), stream)
        self._call("cuStreamSynchronize", stream)

    def _new(self, function: str, *arguments: Any) -> int:
        """What a function writes to its first argument."""
        found = ctypes.c_void_p()
        self._call(function, ctypes.byref(found), *arguments)
        return found.value or 0

    def _call(self, function: str, *arguments: Any) -> None:
        if status := getattr(self._driver, function)(*arguments):
            raise ProviderError(f"cuda:{self.number} refuses {function} (CUDA error {status})")


def _load() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise ProviderError(f"there is no {LIBRARY} on this machine; install NVIDIA's driver") from error


def _free(driver: Any, context: int, device: ctypes.c_int, freeing: list[tuple[str, int]]) -> None:
    """The last that came goes first; nobody is left to be told of an error."""
    driver.cuCtxSetCurrent(ctypes.c_void_p(context))
    for function, address in reversed(freeing):
        getattr(driver, function)(ctypes.c_void_p(address))
    driver.cuDevicePrimaryCtxRelease_v2(device)
