"""The dense form against the classic graph: its cost at native size, and what it answers at a larger one.

    python tests/bench/dense.py [--networks alexnet vgg16] [--rounds 7] [--threads 2]

Random weights, ONNX Runtime on the CPU, the two graphs in turn. Prints tables and writes JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[2])]

from bundle.preprocess import Pixels
from bundle.views import Size
from export.architectures import Architecture, find
from export.convolutional import explicit, sliding
from export.graph import Normalize, serialize, to_onnx
from export.verify import ask, run, sample_images
from export.weights import random_network

BATCHES = (1, 8, 32)
LARGER = Size(352, 288)
STRIDE = 32
"""Pixels of the image from one place of the last feature map to the next."""


@dataclass(frozen=True)
class Cost:
    network: str
    batch: int
    classic_ms: float
    dense_ms: float
    ratio: float
    """Median over the rounds of dense by classic."""


@dataclass(frozen=True)
class Difference:
    network: str
    windows: float
    """Largest |difference| from the head over explicit windows, by the largest |logit|."""
    crops: float
    """The same from the classic network on explicit crops of the image, which see zeros beyond their borders."""


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def measure(row: Architecture, classic: bytes, dense: bytes, rounds: int, threads: int) -> list[Cost]:
    sessions = [session(model, threads) for model in (classic, dense)]
    costs = []
    for batch in BATCHES:
        images = sample_images(batch, row.input.size, row.channels)
        times: list[list[float]] = [[], []]
        for round_ in range(rounds + 1):
            for one, found in zip(sessions, times, strict=True):
                started = time.perf_counter()
                run(one, images)
                if round_:  # the first warms
                    found.append(1000 * (time.perf_counter() - started))
        ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
        costs.append(Cost(row.name, batch, statistics.median(times[0]), statistics.median(times[1]), ratio))
    return costs


def compare(row: Architecture, network: nn.Module, dense: bytes, threads: int) -> Difference:
    images = sample_images(2, LARGER, row.channels)
    answer = run(session(dense, threads), images)
    windows = ask(Normalize(explicit(network, row.window), row.preprocessing).eval(), images)
    classic = Normalize(network, row.preprocessing).eval()
    crops = np.mean([ask(classic, crop) for crop in image_crops(images, row.size)], axis=0)
    largest = float(np.abs(windows).max())
    return Difference(row.name, *(float(np.abs(answer - other).max()) / largest for other in (windows, crops)))


def image_crops(images: Pixels, size: int) -> list[Pixels]:
    height, width = images.shape[1:3]
    return [
        images[:, top : top + size, left : left + size].copy()
        for top in range(0, height - size + 1, STRIDE)
        for left in range(0, width - size + 1, STRIDE)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["alexnet", "vgg16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, default=Path("build/dense.json"))
    options = parser.parse_args()
    found: dict[str, list[dict[str, object]]] = {"costs": [], "differences": []}
    for name in options.networks:
        row = find(name)
        if row.window is None:
            parser.error(f"{name} has no fully connected head to slide")
        network = random_network(row, seed=0)
        classic = serialize(to_onnx(network, replace(row, dynamic=False)))
        dense = serialize(to_onnx(sliding(network, row.window).eval(), row))
        for cost in measure(row, classic, dense, options.rounds, options.threads):
            print("{network:<10} batch {batch:>2}  {classic_ms:8.1f} ms  dense {dense_ms:8.1f} ms  ratio {ratio:.3f}"
                  .format(**asdict(cost)))  # fmt: skip
            found["costs"].append(asdict(cost))
        difference = compare(row, network, dense, options.threads)
        print(f"{name:<10} {LARGER.height}x{LARGER.width}: from explicit windows {difference.windows:.1e} of the "
              f"largest logit, from explicit crops {difference.crops:.1e}")  # fmt: skip
        found["differences"].append(asdict(difference))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
