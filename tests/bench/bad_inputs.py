"""What the bad inputs of the catalogue cost a server: seconds, failures, and memory when one is sent again and again.

    python tests/bench/bad_inputs.py [--repeats 100]

The cases are those of tests/service/test_bad_inputs.py, against one process. Prints a table; exit status 1 when a case
fails.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from catalogue import Case, Served
from hostile import CASES

TIMERS = {"H09-chunk-of-2-to-the-64-less-one", "H20-slow-header", "H21-silent-connection", "H22-slow-body"} | {
    "H23-client-that-never-reads"
}
"""Last as long as the server's patience."""


def seconds_of(served: Served) -> tuple[dict[str, float], list[str]]:
    """Of each case, and what failed."""
    spent, failed = {}, []
    for case in CASES:
        try:
            spent[case.id] = case.run(served)
            served.check()
        except AssertionError as error:
            failed.append(f"{case.id}: {error}")
    return spent, failed


def grown(served: Served, case: Case, repeats: int) -> int:
    """Bytes by which the process has grown over the repeats, after as many of them as it takes to be warm."""
    for _ in range(max(10, repeats // 4)):
        case.run(served)
    before = served.memory()
    for _ in range(repeats):
        case.run(served)
    served.check()
    return served.memory() - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder))
        try:
            spent, failed = seconds_of(served)
            errors = served.metric('multicrop_http_requests_total.*status="5')
            growth = {case.id: grown(served, case, repeats) for case in CASES if case.repeated}
        finally:
            served.close()
    own = {name: seconds for name, seconds in spent.items() if name not in TIMERS}
    slowest = sorted(own, key=lambda name: -own[name])[:5]
    print(f"{len(CASES)} cases, {len(failed)} failed, {errors:.0f} answers of 5xx, one process")
    print("| slowest | seconds, with making the input |\n|---|---|")
    print(*(f"| {name} | {own[name]:.2f} |" for name in slowest), sep="\n")
    print(f"\n| {repeats} times | memory grew by MiB |\n|---|---|")
    print(*(f"| {name} | {size / (1 << 20):.1f} |" for name, size in growth.items()), sep="\n")
    print(*failed, sep="\n", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
