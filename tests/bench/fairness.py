"""What large requests cost the small ones, on a fake device of 5 ms a batch, or with a network on the CPU.

    python tests/bench/fairness.py [--model REPOSITORY NAME] [--quantum 32 4 1] [--seconds 5] [--rounds 3]

Closed loop, no HTTP: each client sends its next request when it has the answer. For the fake device pixels are drawn
ahead by a pool, as for a GPU. Prints a table and writes JSON.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bundle import store
from fakes import FakeBackend
from service.engine.batcher import Batcher
from service.engine.cpu import CpuBackend
from service.engine.entry import Entry, Pixels, Shape
from service.metrics import Metrics
from service.statistics import CountedBackend

DEVICE_SECONDS = 0.005
MAX_BATCH_SIZE = 32
COLUMNS = {
    "small": 5,
    "large": 5,
    "views": 5,
    "quantum": 7,
    "fill": 6,
    "small_p50_ms": 12,
    "small_p95_ms": 12,
    "small_p99_ms": 12,
    "large_p50_ms": 12,
    "views_per_second": 16,
}
"""Of the table, with their widths: small and large are the clients that send 1 view and `views`."""


@dataclass(frozen=True)
class Load:
    """How many clients send how many views."""

    small: int
    large: int
    views: int = 10


@dataclass(frozen=True)
class Device:
    open: Callable[[], CountedBackend]
    shape: Shape


@dataclass(frozen=True)
class Result:
    quantum: int
    small: int
    large: int
    views: int
    fill: float
    """Mean views of a batch by the largest batch."""
    small_p50_ms: float
    small_p95_ms: float
    small_p99_ms: float
    large_p50_ms: float | None
    views_per_second: float


def blank(pixels: Pixels) -> None:
    pixels[:] = 0


def fake() -> Device:
    return Device(
        lambda: CountedBackend(FakeBackend(seconds=DEVICE_SECONDS, max_batch_size=MAX_BATCH_SIZE, fills_ahead=True)),
        (1, 1, 3),
    )


def network(repository: str, name: str) -> Device:
    bundle = store.open_bundle(Path(repository), name, max(store.versions(Path(repository), name)))
    wanted = bundle.manifest.input
    return Device(
        lambda: CountedBackend(CpuBackend(bundle.model, bundle.manifest.macs)),
        (wanted.height, wanted.width, wanted.channels),
    )


async def client(batcher: Batcher, shape: Shape, rows: int, end: float, seconds: list[float]) -> None:
    while (started := time.monotonic()) < end:
        entry = Entry(rows, shape, blank)
        batcher.submit(entry)
        await asyncio.wrap_future(entry.future)
        seconds.append(time.monotonic() - started)


def measure(device: Device, load: Load, quantum: int | None, duration: float) -> Result:
    backend = device.open()
    pool = ThreadPoolExecutor(2)
    batcher = Batcher(backend, Metrics().of("bench"), max_queue_size=1_000_000, quantum=quantum, pool=pool)
    small: list[float] = []
    large: list[float] = []

    async def everybody() -> None:
        end = time.monotonic() + duration
        ones = (client(batcher, device.shape, 1, end, small) for _ in range(load.small))
        others = (client(batcher, device.shape, load.views, end, large) for _ in range(load.large))
        await asyncio.gather(*ones, *others)

    asyncio.run(everybody())
    batcher.close(1.0)
    pool.shutdown()
    runs = sum(took.count for took in backend.batches.values())
    views = sum(size * took.count for size, took in backend.batches.items())
    return Result(
        quantum=batcher.quantum,
        small=load.small,
        large=load.large,
        views=load.views,
        fill=views / runs / backend.max_batch_size,
        small_p50_ms=1000 * float(np.percentile(small, 50)),
        small_p95_ms=1000 * float(np.percentile(small, 95)),
        small_p99_ms=1000 * float(np.percentile(small, 99)),
        large_p50_ms=1000 * float(np.percentile(large, 50)) if large else None,
        views_per_second=views / duration,
    )


def median(results: list[Result]) -> dict[str, float | None]:
    """Field by field."""
    columns = [asdict(result) for result in results]
    return {
        name: None if value is None else statistics.median(column[name] for column in columns)
        for name, value in columns[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs=2, metavar=("REPOSITORY", "NAME"), help="a network instead of the fake device")
    parser.add_argument("--quantum", type=int, nargs="+", help="in views; that of the service with a network")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/fairness.json"))
    options = parser.parse_args()
    loads = [Load(32, 0), Load(64, 0), Load(32, 32), Load(50, 0), Load(50, 4, 150)]
    device = network(*options.model) if options.model else fake()
    quanta = options.quantum or ([None] if options.model else [MAX_BATCH_SIZE, MAX_BATCH_SIZE // 8, 1])
    cases = [(load, quantum) for load in loads for quantum in (quanta if load.large else quanta[-1:])]
    rounds = [[measure(device, *case, options.seconds) for case in cases] for _ in range(options.rounds)]
    results = [median(list(column)) for column in zip(*rounds, strict=True)]
    print("  ".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
    for row in results:
        print("  ".join(f"{_text(row[name]):>{width}}" for name, width in COLUMNS.items()))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1))


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
