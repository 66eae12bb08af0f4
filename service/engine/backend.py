"""Devices that turn rows of pixels into rows of scores.

CPU: batching gains nothing for convolutions, so as many lanes as there are cores call one shared session with one
thread each. CUDA: batching is everything, so one lane runs batches of a few fixed sizes, all warmed before use.
"""

import contextlib
import ctypes
import logging
import os
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime as ort

from service.engine.entry import Pixels, Scores, Shape
from service.errors import ProviderError

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes on CUDA; others are padded up, since each new shape costs a search for its kernels."""

CPU_BATCH_MACS = 200_000_000
"""A CPU batch holds as many views as fit into this many multiply-adds (some 5 ms on one core), so that a lane is soon
free again, and the cost per call does not weigh on tiny networks."""
CPU_MAX_BATCH_SIZE = 16

Provider = Literal["cpu", "cuda"]


class Backend(Protocol):
    """What the batcher needs of a device."""

    provider: Provider
    lanes: int
    """Threads that may call `run` at once."""
    max_batch_size: int
    """In views."""
    fills_ahead: bool
    """Whether entries are filled by a pool before they may be taken."""

    def run(self, images: Pixels) -> Scores:
        """uint8 [n, height, width, channels] to logits float32 [n, classes]; n is at most `max_batch_size`."""

    def warm(self, shape: Shape) -> None:
        """Runs whatever is slow the first time."""


class CpuBackend:
    """ONNX Runtime on the CPU: one session, one thread in it, one caller per core."""

    provider: Provider = "cpu"
    fills_ahead = False

    def __init__(self, model: bytes, macs: int) -> None:
        self.lanes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.max_batch_size = min(max(CPU_BATCH_MACS // max(macs, 1), 1), CPU_MAX_BATCH_SIZE)
        self._session = _session(model, "CPUExecutionProvider", {})

    def run(self, images: Pixels) -> Scores:
        return np.asarray(self._session.run(["logits"], {"images": images})[0])

    def warm(self, shape: Shape) -> None:
        self.run(np.zeros((self.max_batch_size, *shape), np.uint8))


class CudaBackend:
    """ONNX Runtime on one GPU: one caller, batches of the shape that was warmed padded to `BUCKETS`.

    Views of another shape pay for the search of its kernels anyway, and run as they are: of one dense view padded to
    eight, seven would be computed for nothing.
    """

    provider: Provider = "cuda"
    fills_ahead = True
    lanes = 1
    max_batch_size = BUCKETS[-1]

    def __init__(self, model: bytes) -> None:
        options = {
            "arena_extend_strategy": "kSameAsRequested",  # the default doubles its memory and never gives it back
            "cudnn_conv_algo_search": "HEURISTIC",  # the default searches for seconds at each new shape
            "use_tf32": "0",  # fp32 means fp32: the golden answers are torch's
        }
        self._session = _session(model, "CUDAExecutionProvider", options)
        self._warmed: Shape | None = None

    def run(self, images: Pixels) -> Scores:
        rows = len(images)
        bucket = next(size for size in BUCKETS if size >= rows)
        if bucket > rows and images.shape[1:] == self._warmed:
            padding = np.zeros((bucket - rows, *images.shape[1:]), np.uint8)
            images = np.concatenate([images, padding])
        return np.asarray(self._session.run(["logits"], {"images": images})[0])[:rows]

    def warm(self, shape: Shape) -> None:
        self._warmed = shape
        for size in BUCKETS:
            self.run(np.zeros((size, *shape), np.uint8))


def open_backend(model: bytes, macs: int, provider: Literal["auto", "cpu", "cuda"], shape: Shape) -> Backend:
    """A warmed backend.

    Args:
        model: ONNX file.
        macs: multiply-adds of one view.
        provider: "auto" is CUDA when a GPU really works, else the CPU; one that is named never falls back.
        shape: height, width and channels to warm.

    Raises:
        ProviderError: CUDA was named and does not work here.
    """
    backend: Backend
    if provider == "cuda" or (provider == "auto" and _has_gpu()):
        try:
            backend = CudaBackend(model)
            backend.warm(shape)
        except Exception as error:
            if provider == "cuda":
                raise ProviderError("the CUDA provider does not work on this machine; use --provider cpu") from error
            logger.warning("there is a GPU, and CUDA does not work on it; serving on the CPU", exc_info=True)
        else:
            return backend
    backend = CpuBackend(model, macs)
    backend.warm(shape)
    return backend


def _has_gpu() -> bool:
    """Asks the driver itself: ONNX Runtime lists CUDA wherever it was built for it."""
    count = ctypes.c_int(0)
    with contextlib.suppress(OSError):
        driver = ctypes.CDLL("libcuda.so.1")
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    return False


def _session(model: bytes, provider: str, provider_options: dict[str, str]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    if provider == "CUDAExecutionProvider":
        ort.preload_dlls()  # from the packages of the gpu extra, where the system has no CUDA of its own
    session = ort.InferenceSession(
        model, options, providers=[provider], provider_options=[provider_options], enable_fallback=0
    )
    if session.get_providers()[0] != provider:  # a missing library is only a warning to ONNX Runtime
        raise ProviderError(f"{provider} was asked for, {session.get_providers()[0]} came")
    return session
