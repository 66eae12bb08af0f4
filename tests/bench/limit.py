"""How many images a second this machine can classify at all: JPEG files to the five best classes, without a server.

    python tests/bench/limit.py --models REPOSITORY NAME[@VERSION]... [--images DIR] [--rounds 3] [--seconds 6]

`lanes`: as many threads as cores, each decodes and infers, on one shared session with one thread. `serial`: one
thread, a session as wide as the machine. `engine`: as `lanes` without decoding. Rounds are interleaved over the models.
Prints a table of medians and writes JSON.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bench.inprocess import Speed, cores, measure_way
from bench.models import add_models, chosen
from bench.photos import photos

WAYS = ("lanes", "serial", "engine")


def cell(speeds: list[Speed]) -> str:
    images, cpu = (statistics.median(values) for values in zip(*speeds, strict=True))
    return f"{images:.1f} ({cpu:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument("--images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--json", type=Path, default=Path("build/limit.json"))
    options = parser.parse_args()
    models = chosen(options.models)
    files = {model: photos(options.images, model.resize) for model in models}
    found: dict[str, dict[str, list[Speed]]] = {str(model): {way: [] for way in WAYS} for model in models}
    for _ in range(options.rounds):
        for model in models:
            for way in WAYS:
                found[str(model)][way].append(measure_way(model, way, files[model], options.seconds))
    print(f"{cores()} cores\n")
    print(f"| images/s (CPU ms an image) | {' | '.join(WAYS)} |\n|---|{'---:|' * len(WAYS)}")
    for name, ways in found.items():
        print(f"| {name} | {' | '.join(cell(ways[way]) for way in WAYS)} |")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps(
            {
                "cores": cores(),
                "found": {
                    name: {way: [speed._asdict() for speed in ways[way]] for way in WAYS}
                    for name, ways in found.items()
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
