"""The binary of perf_analyzer against the service: rows of pixels, then ten crops of JPEGs, 1 to 16 requests at a time.

    python tests/bench/analyze.py [--models REPOSITORY NAME] [--concurrency 1:16] [--rows 8] [--requests 200]

Installs the wheel of tritonclient 2.41.0, which holds the binary (those after it do not), and the CUDA library that it
is linked to into build/perf_analyzer; Debian's libb64-0d has to be there. Without --models the network is one of three
channel means, so that what is measured is the server. Prints what perf_analyzer says of each step, with the server's
division of the time, and writes JSON.
"""

import argparse
import base64
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bundle import store
from fakes import write_colour_bundle
from samples import encode, photographs
from servers import serving

WHEELS = ("tritonclient==2.41.0", "nvidia-cuda-runtime-cu12==12.9.79")
COLUMNS = {
    "Concurrency": "requests at a time",
    "Inferences/Second": "inferences/s",
    "p50 latency": "p50 ms",
    "p99 latency": "p99 ms",
    "Server Queue": "queue ms",
    "Server Compute Input": "input ms",
    "Server Compute Infer": "infer ms",
    "Server Compute Output": "output ms",
}
"""What of its table is printed; times are in microseconds there."""


def install(folder: Path) -> Path:
    """The binary."""
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *WHEELS]
        subprocess.run(command, check=True)
    return folder / "bin" / "perf_analyzer"


def input_data() -> str:
    """Two photographs as `--input-data` wants them: each file with its length before it."""
    files = [encode(image, "JPEG") for image in photographs()]
    texts = [base64.b64encode(len(file).to_bytes(4, "little") + file).decode() for file in files]
    return json.dumps({"data": [{"image": {"b64": text, "shape": [1]}} for text in texts]})


def analyze(
    binary: Path, port: int, model: str, words: list[str], options: argparse.Namespace
) -> list[dict[str, float]]:
    """One sweep; a step that swings by more than it would like is measured all the same."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        command = [str(binary), "-m", model, "-u", f"127.0.0.1:{port}", *words, "-f", str(table), "--verbose-csv"]
        command += ["--concurrency-range", options.concurrency, "--percentile", "99"]
        command += ["--measurement-mode", "count_windows", "--measurement-request-count", str(options.requests)]
        command += ["--stability-percentage", "999"]
        libraries = binary.parents[1] / "nvidia" / "cuda_runtime" / "lib"
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        )
        rows = list(csv.DictReader(table.read_text().splitlines()))
    steps = [{name: float(row[name]) for name in COLUMNS} for row in rows]
    return sorted(steps, key=lambda step: step["Concurrency"])


def show(title: str, steps: list[dict[str, float]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(COLUMNS.values())} |\n|{'---:|' * len(COLUMNS)}")
    for step in steps:
        milliseconds = (f"{step[name] / 1000:.3g}" for name in list(COLUMNS)[2:])
        print(f"| {step['Concurrency']:.0f} | {step['Inferences/Second']:.0f} | {' | '.join(milliseconds)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs=2, metavar=("REPOSITORY", "NAME"))
    parser.add_argument("--concurrency", default="1:16", help="first:last[:step]")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200, help="of each of the three windows of a step, at least")
    parser.add_argument("--json", type=Path, default=Path("build/analyze.json"))
    options = parser.parse_args()
    binary = install(Path("build/perf_analyzer").absolute())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "photographs.json"
        data.write_text(input_data())
        repository, name = map(str, options.models or (folder, "colours"))
        if not options.models:
            write_colour_bundle(Path(folder))
        wanted = store.open_bundle(Path(repository), name, store.versions(Path(repository), name)[-1]).manifest.input
        shape = f"images:{wanted.height},{wanted.width},{wanted.channels}"
        with serving(Path(repository)) as server:
            rows = analyze(binary, server.port, name, ["-b", str(options.rows), "--shape", shape], options)
            show(f"{name}: {options.rows} rows of {shape.removeprefix('images:')} in a request", rows)
            crops = analyze(binary, server.port, f"{name}-ten_crop", ["--input-data", str(data)], options)
            show(f"{name}-ten_crop: a JPEG of 640 x 427 in a request", crops)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"rows": rows, "ten_crop": crops}, indent=1))


if __name__ == "__main__":
    main()
