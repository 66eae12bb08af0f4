"""What is tried: a few values of each key, around those that are usual."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from bundle.serving import MAX_INSTANCES, Serving
from service.engine.backend import Provider
from service.engine.limits import usual_lanes

GPU_INSTANCES = (1, 2, 3)
CPU_BUCKETS = ((1,), (4,), (16,), (64,))
"""On the CPU the largest alone counts."""
GPU_BUCKETS = ((1, 4, 16), (1, 8, 64), (1, 2, 4, 8, 16, 32), (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8, 16, 32, 64, 128))


@dataclass(frozen=True)
class Candidate:
    """A version, and what is wished of its engine; None is the engine's own choice."""

    version: int
    instances: int | None = None
    buckets: tuple[int, ...] | None = None

    @classmethod
    def of(cls, serving: Serving, version: int) -> "Candidate":
        """What a serving.toml says."""
        return cls(version, serving.instances, serving.buckets)

    def __str__(self) -> str:
        instances = "as usual" if self.instances is None else self.instances
        buckets = "as usual" if self.buckets is None else " ".join(map(str, self.buckets))
        return f"version {self.version}, instances {instances}, buckets {buckets}"


def other_instances(best: Candidate, provider: Provider, cores: int) -> list[Candidate]:
    """The same with other numbers of lanes or sessions, the usual one among them, which None stands for."""
    if provider == "cpu":
        usual, numbers = usual_lanes(cores), {max(1, cores // 2), cores, 2 * cores}
    else:
        usual, numbers = 1, set(GPU_INSTANCES)
    wished = sorted(number for number in numbers - {usual} if number <= MAX_INSTANCES)
    return _others(best, (replace(best, instances=number) for number in (None, *wished)), usual)


def other_buckets(best: Candidate, provider: Provider, largest: int) -> list[Candidate]:
    """The same with other batch sizes.

    Args:
        best: so far.
        provider: where it runs.
        largest: batch that the engine chooses by itself, which None stands for.
    """
    sizes = CPU_BUCKETS if provider == "cpu" else GPU_BUCKETS
    usual = (largest,) if provider == "cpu" else next((size for size in sizes if len(size) == largest.bit_length()), ())
    wished = [None, *(size for size in sizes if size != usual)]
    return _others(best, (replace(best, buckets=size) for size in wished), None)


def _others(best: Candidate, candidates: Iterable[Candidate], usual: int | None) -> list[Candidate]:
    """Without the one that is the best already, also where it names what is usual."""
    named = replace(best, instances=None) if usual is not None and best.instances == usual else best
    return [candidate for candidate in candidates if candidate not in (best, named)]
