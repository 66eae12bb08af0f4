"""Where the backends of a version run, and opening them there."""

from dataclasses import replace

from service.engine.backend import Backend, Engine, Place
from service.engine.cpu import CpuBackend
from service.engine.cuda import BUCKETS, CudaBackend
from service.engine.driver import GpuMemory, count_gpus
from service.engine.entry import Shape
from service.engine.limits import cores, usual_lanes
from service.errors import ProviderError


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
        return [Place("cpu", lanes=wanted.instances or usual_lanes(cores()), buckets=wanted.buckets)]
    numbers = [int(device.removeprefix("cuda:")) for device in devices]
    place = Place("cuda", buckets=wanted.buckets, memory_mib=wanted.gpu_memory_mib)
    return [replace(place, number=number) for number in numbers for _ in range(wanted.instances or 1)]


def open_backend(model: bytes, macs: int, place: Place, shape: Shape, *, half: bool = False) -> Backend:
    """A warmed backend.

    Args:
        model: ONNX file.
        macs: multiply-adds of one view.
        place: where it runs.
        shape: height, width and channels to warm.
        half: the network computes in float16.

    Raises:
        ProviderError: CUDA does not work there, or its memory is full.
    """
    if place.provider == "cpu":
        most = place.buckets[-1] if place.buckets else None
        cpu = CpuBackend(model, macs, lanes=place.lanes, max_batch_size=most)
        cpu.warm(shape)
        return cpu
    limit = None if place.memory_mib is None else place.memory_mib << 20
    try:
        memory = GpuMemory(place.number)
        cuda = CudaBackend(model, memory, place.buckets or BUCKETS, half=half, memory_limit=limit)
        cuda.warm(shape)
    except Exception as error:
        raise ProviderError(
            f"{place.device} does not work, or has no room for it; see the server's log, or use --provider cpu"
        ) from error
    return cuda


def _usual(provider: str, gpus: list[str]) -> tuple[str, ...]:
    if provider == "cpu" or (provider == "auto" and not gpus):
        return ("cpu",)
    if not gpus:
        raise ProviderError("the CUDA provider does not work on this machine; use --provider cpu")
    return tuple(gpus)
