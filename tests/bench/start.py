"""From the start of a process to its first answer, and its memory: the service and its peers, with the same graph.

    python tests/bench/start.py --models REPOSITORY NAME[@VERSION]... [--rounds 5] [--requests 50]

Rounds are interleaved; a server is asked until it answers a photograph with 200, every 10 ms. Memory is the PSS of all
its processes (Linux), after the first answer and after so many requests, 8 at a time. The last table says which
packages the service's imports go to, in a process that does nothing else. Prints tables of medians and writes JSON.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bench.aside import Aside
from bench.contenders import FRAMEWORKS, ROOT, Contender, install, ours, peer, running
from bench.load import request, send_all
from bench.models import Model, add_models, chosen
from bench.photos import photos
from bench.processes import cpu_seconds, pss_mib

CLIENTS = 8
PACKAGES = 8
"""That are listed."""


@dataclass
class Starts:
    server: str
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all its processes up to the first answer."""
    first_mib: list[float] = field(default_factory=list)
    later_mib: list[float] = field(default_factory=list)

    def measure(self, contender: Contender, files: list[bytes], count: int, clients: Aside) -> None:
        with running(contender, files[0]) as server:
            self.seconds.append(server.start_seconds)
            self.cpu_seconds.append(cpu_seconds(server.process.pid))
            self.first_mib.append(pss_mib(server.process.pid))
            requests = [request(contender.path, files[number % len(files)]) for number in range(count)]
            clients(send_all, server.port, requests, CLIENTS)
            self.later_mib.append(pss_mib(server.process.pid))

    def row(self) -> str:
        parts = (self.seconds, self.cpu_seconds, self.first_mib, self.later_mib)
        seconds, cpu, first, later = map(statistics.median, parts)
        return f"| {self.server} | {seconds:.2f} | {cpu:.2f} | {first:.0f} | {later:.0f} |"


def bench(model: Model, options: argparse.Namespace) -> list[Starts]:
    with Aside() as aside:
        files = aside(photos, None, model.resize)
    contenders = [ours(model), *(peer(name, model) for name in options.peers)]
    found = [Starts(contender.name) for contender in contenders]
    with Aside() as clients:
        for number in range(options.rounds):
            for contender, starts in zip(contenders, found, strict=True):
                starts.measure(contender, files, options.requests, clients)
            print(f"{model}, round {number + 1}", file=sys.stderr, flush=True)
    print(f"\n## {model}\n\n| | start to first answer s | CPU s | MiB then | MiB after {options.requests} requests |")
    print("|---|" + "---:|" * 4)
    print(*(starts.row() for starts in found), sep="\n")
    return found


def imports(rounds: int) -> dict[str, float]:
    """Milliseconds of the service's imports by package, those of others that it pulls in counted for themselves."""
    found = [_imports() for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _imports() -> dict[str, float]:
    command = [sys.executable, "-X", "importtime", "-c", "import service.__main__, service.app, service.server"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    return by_package(said)


def by_package(said: str) -> dict[str, float]:
    """Milliseconds of each top-level package of what `-X importtime` says."""
    found: dict[str, float] = defaultdict(float)
    for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)$", said, re.MULTILINE):
        found[name.partition(".")[0]] += int(own) / 1000
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument("--peers", nargs="*", default=list(FRAMEWORKS), choices=FRAMEWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--json", type=Path, default=Path("build/start.json"))
    options = parser.parse_args()
    versions, missing = install() if options.peers else ({}, [])
    options.peers = [name for name in options.peers if name not in missing]
    print(*(f"{name} {version}" for name, version in versions.items()), *(f"{name} is missing" for name in missing))
    with tempfile.TemporaryDirectory() as folder:
        models = [model.alone(Path(folder)) for model in chosen(options.models)]
        found = {str(model): [asdict(starts) for starts in bench(model, options)] for model in models}
    spent = imports(options.rounds)
    largest = sorted(spent, key=lambda name: -spent[name])[:PACKAGES]
    print(f"\nimports of the service, {sum(spent.values()):.0f} ms\n\n| package | ms |\n|---|---:|")
    print(*(f"| {name} | {spent[name]:.0f} |" for name in largest), sep="\n")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"versions": versions, "starts": found, "imports_ms": spent}, indent=1))


if __name__ == "__main__":
    main()
