"""What a GPU gives, what is left of it over HTTP, and what each step of a batch takes, so that the next one is known.

    python tests/bench/gpu.py --models REPOSITORY NAME[@VERSION]… [--batches 1 8 64 128] [--seconds 5] [--device cuda:0]

Engine: batches of uint8 rows from two lanes, as the service runs them, with captured graphs and without; then one lane
alone, step by step. HTTP: the server on the same bundle, asked for rows of tensors, for JPEGs and for ten crops of
JPEGs by client processes of their own, and for JPEGs at half of that rate; left out where the service does not run the
bundle's precision. Memory: of the GPU before and after as many batches as --soak says, of all sizes. Bundles of random
weights are fine: `multicrop-export freeze resnet50 --weights random:0`, and `multicrop-export quantize` for fp16.
`--device cpu` is a dry run where there is no GPU. Prints tables, writes JSON.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bench.load import Load, closed_loop, open_loop, percentile, request
from bench.models import Model, add_models, chosen
from bench.photos import photos
from bundle import store
from bundle.store import Bundle
from servers import NotServingError, Server, serving
from service.engine.backend import Backend
from service.engine.cpu import CpuBackend
from service.engine.cuda import CudaBackend
from service.engine.driver import GpuMemory
from service.engine.entry import Pixels

CLIENTS = 4
"""Processes that send: one of Python's could not fill a GPU."""
WARM = 1.0
"""Seconds before a measurement."""


@dataclass(frozen=True)
class EngineResult:
    model: str
    precision: str
    graphs: bool
    batch: int
    images_per_second: float
    load_ms: float | None
    """Of one lane alone: rows into pinned memory and to the device."""
    run_ms: float
    scores_ms: float | None
    """Back to the host."""


@dataclass(frozen=True)
class HttpResult:
    model: str
    what: str
    connections: int
    images_per_second: float
    share: float
    """Of the engine's best."""
    p50_ms: float
    p99_ms: float
    errors: int


def open_backend(bundle: Bundle, device: str, buckets: Sequence[int], graphs: bool) -> Backend:
    wanted = bundle.manifest.input
    backend: Backend
    if device == "cpu":
        backend = CpuBackend(bundle.model, bundle.manifest.macs, max_batch_size=buckets[-1])
    else:
        memory = GpuMemory(int(device.removeprefix("cuda:")))
        half = bundle.manifest.precision == "fp16"
        backend = CudaBackend(bundle.model, memory, buckets, half=half, graphs=graphs)
    backend.warm((wanted.height, wanted.width, wanted.channels))
    return backend


def noise(bundle: Bundle, rows: int) -> Pixels:
    wanted = bundle.manifest.input
    return np.random.default_rng(0).integers(0, 256, (rows, wanted.height, wanted.width, wanted.channels), np.uint8)


def speed(backend: Backend, images: Pixels, seconds: float) -> float:
    """Images a second from all lanes."""
    counts, end = [0] * backend.lanes, time.monotonic() + seconds

    def lane(number: int) -> None:
        while time.monotonic() < end:
            backend.run(images)
            counts[number] += len(images)

    begun = time.monotonic()
    lanes = [threading.Thread(target=lane, args=(number,)) for number in range(backend.lanes)]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    return sum(counts) / (time.monotonic() - begun)


def steps(backend: Backend, images: Pixels, rounds: int = 30) -> tuple[float | None, float, float | None]:
    """Milliseconds of loading, running and fetching one batch."""
    if not isinstance(backend, CudaBackend):
        return None, _ms(lambda: backend.run(images), rounds), None
    slot = backend._slots.get()
    load = _ms(lambda: slot.load(images, len(images)), rounds)
    run = _ms(lambda: slot.run(len(images)), rounds)
    scores = _ms(lambda: slot.scores(len(images)), rounds)
    backend._slots.put(slot)
    return load, run, scores


def _ms(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begun))
    return median(times)


def measure_engine(model: Model, options: argparse.Namespace) -> list[EngineResult]:
    bundle = store.open_bundle(model.repository, model.name, model.version)
    found = []
    for batch in options.batches:
        for graphs in (False,) if options.device == "cpu" else (True, False):
            backend, images = open_backend(bundle, options.device, (batch,), graphs), noise(bundle, batch)
            rate = speed(backend, images, options.seconds)
            load, run, scores = steps(backend, images, 3 if options.device == "cpu" else 30)
            precision = bundle.manifest.precision
            found.append(EngineResult(str(model), precision, graphs, batch, rate, load, run, scores))
            print(found[-1], file=sys.stderr, flush=True)
    return found


def tensor_request(bundle: Bundle, rows: int) -> bytes:
    """Of the Open Inference Protocol, binary both ways."""
    images = noise(bundle, rows)
    tensor = {"name": "images", "shape": images.shape, "datatype": "UINT8"}
    head = {"inputs": [tensor | {"parameters": {"binary_data_size": images.nbytes}}]}
    head["outputs"] = [{"name": "logits", "parameters": {"binary_data": True}}]
    text = json.dumps(head).encode()
    whole = request(f"/v2/models/{bundle.name}/infer", text + images.tobytes(), "application/octet-stream")
    line, _, rest = whole.partition(b"\r\n")
    return line + b"\r\nInference-Header-Content-Length: %d\r\n" % len(text) + rest


def together(
    clients: ProcessPoolExecutor, server: Server, requests: list[bytes], connections: int, seconds: float
) -> Load:
    """A closed loop, shared out between the client processes."""
    each = max(connections // CLIENTS, 1)
    asked = [
        clients.submit(closed_loop, server.port, requests, each, WARM, seconds)
        for _ in range(min(CLIENTS, connections))
    ]
    loads = [one.result() for one in asked]
    answers = [answer for load in loads for answer in load.answers]
    return Load(answers, seconds, sum(load.client_seconds for load in loads), sum(load.sent for load in loads))


def measure_http(model: Model, best: float, options: argparse.Namespace) -> list[HttpResult]:
    """Nothing where the server refuses the bundle."""
    with tempfile.TemporaryDirectory() as folder:
        copy = model.alone(Path(folder))
        (copy.folder.parent / "serving.toml").write_text(
            f'devices = ["{options.device}"]\nbuckets = {sorted(options.batches)}\n'
        )
        try:
            with serving(copy.repository, "--timeout", "60") as server:
                return ask(server, model, best, options)
        except NotServingError as error:
            print(f"{model} is left out over HTTP: {error}", file=sys.stderr, flush=True)
            return []


def ask(server: Server, model: Model, best: float, options: argparse.Namespace) -> list[HttpResult]:
    bundle = store.open_bundle(model.repository, model.name, model.version)
    files = photos(options.images)
    classify = f"/v1/models/{model.name}:classify?views="
    rows = max(options.batches)
    asked = {
        f"tensors, {rows} rows": ([tensor_request(bundle, rows)], rows, 8),
        "JPEGs": ([request(f"{classify}center", file) for file in files], 1, 256),
        "ten crops of JPEGs": ([request(f"{classify}ten_crop", file) for file in files], 10, 64),
    }
    found = []
    with ProcessPoolExecutor(CLIENTS, get_context("spawn")) as clients:
        for what, (requests, views, connections) in asked.items():
            load = together(clients, server, requests, connections, options.seconds)
            found.append(_result(model, what, connections, load, views, best))
        rate = found[1].images_per_second / 2
        due = [clients.submit(open_loop, server.port, asked["JPEGs"][0], rate / CLIENTS, options.seconds, 5.0, seed)
               for seed in range(CLIENTS)]  # fmt: skip
        answers = [answer for one in due for answer in one.result().answers]
        found.append(_result(model, "JPEGs at half load", 0, Load(answers, options.seconds, 0.0, 0), 1, best))
    return found


def _result(model: Model, what: str, connections: int, load: Load, views: int, best: float) -> HttpResult:
    rate, seconds = len(load.good) * views / load.seconds, [answer.ended - answer.due for answer in load.good]
    p50, p99 = (1e3 * percentile(seconds, percent) for percent in (50, 99))
    result = HttpResult(str(model), what, connections, rate, rate / best, p50, p99, len(load.answers) - len(load.good))
    print(result, file=sys.stderr, flush=True)
    return result


def soak(model: Model, options: argparse.Namespace) -> dict[str, float | None]:
    """MiB of the GPU that are taken after 100 batches, and after many more of sizes that change."""
    bundle = store.open_bundle(model.repository, model.name, model.version)
    buckets = sorted(options.batches)
    backend, images = open_backend(bundle, options.device, buckets, graphs=True), noise(bundle, buckets[-1])
    taken = []
    for batches in (100, options.soak):
        for number in range(batches):
            backend.run(images[: 1 + number % len(images)])
        taken.append(gpu_mib(options.device))
    return {"before": taken[0], "after": taken[1]}


def gpu_mib(device: str) -> float | None:
    """As nvidia-smi says; None where there is none."""
    if device == "cpu" or shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={device[5:]}"]
    return float(subprocess.run(query, check=True, capture_output=True, text=True).stdout)


def show(rows: list[dict[str, object]]) -> None:
    if not rows:
        return
    print(f"\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(f'{value:.4g}' if isinstance(value, float) else str(value) for value in row.values())} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 128])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--soak", type=int, default=10_000, help="batches")
    parser.add_argument("--device", default="cuda:0", help="or cpu, which tries this bench out")
    parser.add_argument("--images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--json", type=Path, default=Path("build/gpu.json"))
    options = parser.parse_args()
    engine, http, memory = [], [], {}
    for model in chosen(options.models):
        engine += (results := measure_engine(model, options))
        http += measure_http(model, max(result.images_per_second for result in results), options)
        memory[str(model)] = soak(model, options)
    tables = {"engine": [asdict(row) for row in engine], "http": [asdict(row) for row in http]}
    for rows in tables.values():
        show(rows)
    print(f"\nMiB of the GPU before and after {options.soak} batches: {memory}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**tables, "memory": memory}, indent=1))


if __name__ == "__main__":
    main()
