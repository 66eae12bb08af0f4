"""The promises of the queue over very many seeds, in virtual time.

    python tests/bench/simulate.py [--seeds 100000] [--first 0] [--processes 2]

Prints how many were run and each seed that breaks a promise; exit status 1 when there is one.
"""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from simulated import BrokenError, Simulation

CHUNK = 500


def run(first: int, last: int) -> tuple[Counter[str], list[str]]:
    """What became of the entries of some seeds, and what was broken."""
    ends: Counter[str] = Counter()
    broken = []
    for seed in range(first, last):
        simulation = Simulation(seed)
        try:
            simulation.run()
        except BrokenError as error:
            broken.append(f"seed {seed}: {error}")
        ends += simulation.ends
        ends["refused requests"] += simulation.refused
        ends["reruns"] += simulation.reruns
    return ends, broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    started, last = time.monotonic(), options.first + options.seeds
    starts = range(options.first, last, CHUNK)
    ends: Counter[str] = Counter()
    broken: list[str] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for some, wrong in pool.map(run, starts, [min(start + CHUNK, last) for start in starts]):
            ends += some
            broken += wrong
            for line in wrong:
                print(line)
    print(f"{options.seeds} seeds in {time.monotonic() - started:.0f} s, {len(broken)} broken; {dict(ends)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
