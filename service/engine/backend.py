"""Devices that turn rows of pixels into rows of scores.

CPU: batching gains nothing for convolutions, so as many lanes as there are cores call one shared session with one
thread each. CUDA: batching is everything, so one lane runs batches of a few fixed sizes, all warmed before use; several
GPUs, or several sessions on one, are as many backends, each with a lane of its own.
"""

import contextlib
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime as ort

from service.engine.entry import Pixels, Scores, Shape
from service.engine.limits import cores
from service.errors import ProviderError

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes on CUDA; others are padded up, since each new shape costs a search for its kernels."""

CPU_BATCH_MACS = 200_000_000
"""A CPU batch holds as many views as fit into this many multiply-adds (some 5 ms on one core), so that a lane is soon
free again, and the cost per call does not weigh on tiny networks."""
CPU_MAX_BATCH_SIZE = 16

NOWHERE = "/dev/null/none"
"""Where graphs may keep weights outside of their own file: a folder that cannot be."""

Provider = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Engine:
    """What the operator wishes of the engine of a version; to wish for another one takes new sessions."""

    max_queue_size: int
    """In views."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is every GPU that really works, else the CPU; one that is named never falls back."""
    devices: tuple[str, ...] = ()
    """("cpu",), or ("cuda:0", "cuda:1"); the provider decides when empty."""
    instances: int | None = None
    """On the CPU lanes, as many as cores when None; sessions on each GPU, one when None."""
    buckets: tuple[int, ...] | None = None
    """Batch sizes, ascending; on the CPU the largest is the most views in a batch. The backend's own when None."""

    @property
    def falls_back(self) -> bool:
        return self.provider == "auto" and not self.devices


@dataclass(frozen=True)
class Place:
    """Where a backend runs."""

    provider: Provider
    number: int = 0
    """Of the GPU."""
    lanes: int = 1
    """On the CPU."""
    buckets: tuple[int, ...] | None = None

    @property
    def device(self) -> str:
        return "cpu" if self.provider == "cpu" else f"cuda:{self.number}"


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

    def __init__(self, model: bytes, macs: int, *, lanes: int | None = None, max_batch_size: int | None = None) -> None:
        self.lanes = lanes or cores()
        self.max_batch_size = max_batch_size or cpu_batch_size(macs)
        self._session = _session(model, "CPUExecutionProvider", {})

    def run(self, images: Pixels) -> Scores:
        return np.asarray(self._session.run(["logits"], {"images": images})[0])

    def warm(self, shape: Shape) -> None:
        self.run(np.zeros((self.max_batch_size, *shape), np.uint8))


def cpu_batch_size(macs: int) -> int:
    """Most views in a CPU batch, of which each costs so many multiply-adds."""
    return min(max(CPU_BATCH_MACS // max(macs, 1), 1), CPU_MAX_BATCH_SIZE)


class CudaBackend:
    """ONNX Runtime on one GPU: one caller, batches of the shape that was warmed padded to its buckets.

    Views of another shape pay for the search of its kernels anyway, and run as they are: of one dense view padded to
    eight, seven would be computed for nothing.
    """

    provider: Provider = "cuda"
    fills_ahead = True
    lanes = 1

    def __init__(self, model: bytes, number: int = 0, buckets: Sequence[int] = BUCKETS) -> None:
        self._buckets = buckets
        self.max_batch_size = buckets[-1]
        options = {
            "device_id": str(number),
            "arena_extend_strategy": "kSameAsRequested",  # the default doubles its memory and never gives it back
            "cudnn_conv_algo_search": "HEURISTIC",  # the default searches for seconds at each new shape
            "use_tf32": "0",  # fp32 means fp32: the golden answers are torch's
        }
        self._session = _session(model, "CUDAExecutionProvider", options)
        self._warmed: Shape | None = None

    def run(self, images: Pixels) -> Scores:
        rows = len(images)
        bucket = next(size for size in self._buckets if size >= rows)
        if bucket > rows and images.shape[1:] == self._warmed:
            padding = np.zeros((bucket - rows, *images.shape[1:]), np.uint8)
            images = np.concatenate([images, padding])
        return np.asarray(self._session.run(["logits"], {"images": images})[0])[:rows]

    def warm(self, shape: Shape) -> None:
        self._warmed = shape
        for size in self._buckets:
            self.run(np.zeros((size, *shape), np.uint8))


def find_places(wanted: Engine) -> list[Place]:
    """Where the backends of a version are to run: one on the CPU, or as many as wished on each GPU.

    Raises:
        ProviderError: a device is not there.
    """
    gpus = [f"cuda:{number}" for number in range(count_gpus())]
    devices = wanted.devices or _usual(wanted.provider, gpus)
    if missing := [device for device in devices if device not in ("cpu", *gpus)]:
        raise ProviderError(
            f"there is no {' and no '.join(missing)[:200]} on this machine; it has {', '.join(['cpu', *gpus])}:"
            " say so in devices, or leave them out"
        )
    if devices == ("cpu",):
        return [Place("cpu", lanes=wanted.instances or cores(), buckets=wanted.buckets)]
    numbers = [int(device.removeprefix("cuda:")) for device in devices]
    return [Place("cuda", number, buckets=wanted.buckets) for number in numbers for _ in range(wanted.instances or 1)]


def open_backend(model: bytes, macs: int, place: Place, shape: Shape) -> Backend:
    """A warmed backend.

    Args:
        model: ONNX file.
        macs: multiply-adds of one view.
        place: where it runs.
        shape: height, width and channels to warm.

    Raises:
        ProviderError: CUDA does not work there, or its memory is full.
    """
    if place.provider == "cpu":
        most = place.buckets[-1] if place.buckets else None
        cpu = CpuBackend(model, macs, lanes=place.lanes, max_batch_size=most)
        cpu.warm(shape)
        return cpu
    try:
        cuda = CudaBackend(model, place.number, place.buckets or BUCKETS)
        cuda.warm(shape)
    except Exception as error:
        raise ProviderError(
            f"{place.device} does not work, or has no room for it; see the server's log, or use --provider cpu"
        ) from error
    return cuda


def count_gpus() -> int:
    """Asks the driver itself: ONNX Runtime lists CUDA wherever it was built for it."""
    count = ctypes.c_int(0)
    with contextlib.suppress(OSError):
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def _usual(provider: str, gpus: list[str]) -> tuple[str, ...]:
    if provider == "cpu" or (provider == "auto" and not gpus):
        return ("cpu",)
    if not gpus:
        raise ProviderError("the CUDA provider does not work on this machine; use --provider cpu")
    return tuple(gpus)


def _session(model: bytes, provider: str, provider_options: dict[str, str]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # A graph that was read from bytes would look for them where the server was started.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    if provider == "CUDAExecutionProvider":
        ort.preload_dlls()  # from the packages of the gpu extra, where the system has no CUDA of its own
    session = ort.InferenceSession(
        model, options, providers=[provider], provider_options=[provider_options], enable_fallback=0
    )
    if session.get_providers()[0] != provider:  # a missing library is only a warning to ONNX Runtime
        raise ProviderError(f"{provider} was asked for, {session.get_providers()[0]} came")
    return session
