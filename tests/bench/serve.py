"""The service against the limit of the machine and against its peers: the same graph, files and cores.

    python tests/bench/serve.py --models REPOSITORY NAME[@VERSION]... [--concurrency 1 8 32] [--rounds 3] [--seconds 6]
    python tests/bench/serve.py --open --models REPOSITORY NAME[@VERSION]... [--deadline 250] [--loads 0.5 0.9 1.2 2]

The limit is what the process itself can do without HTTP (`limit.py`): a serial loop beside one client, lanes beside
more. All servers are started before the first round and stand still (SIGSTOP) while another one is measured; the
clients are a process on the same cores. Their answers are compared first: a best class whose probability differs by
more than 5 % of it ends the bench. Peers live in build/peers-venv, which is made when it is missing; one that cannot
be installed is named and left out. A measurement while the machine is slow is taken again (`steady.py`).

With --open requests come at the times of a Poisson process, at multiples of the limit; time counts from when a request
was due. An answer in time is a 200 within the deadline. The service is told the deadline in `timeout_ms`, peers that
have a timeout in that. Prints tables and writes JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bench.aside import Aside
from bench.contenders import FRAMEWORKS, Contender, Running, install, ours, peer, running, same_answer
from bench.inprocess import measure_way
from bench.load import Load, closed_loop, open_loop, request
from bench.models import Model, add_models, chosen
from bench.photos import photos
from bench.processes import cpu_seconds, pss_mib
from bench.rows import Closed, Open
from bench.steady import Steady

PATIENCE = 5.0
"""Seconds for answers that are late, in an open loop."""
IDLE_SECONDS = 2.0


class Options(argparse.Namespace):
    """Of the command, and the files that are sent."""

    models: list[str]
    images: Path | None
    peers: list[str]
    concurrency: list[int]
    rounds: int
    seconds: float
    warm: float
    open: bool
    loads: list[float]
    capacity: float | None
    deadline: int
    json: Path
    files: list[bytes]


@dataclass(frozen=True)
class Footprint:
    """What a server takes by itself, after the rounds."""

    server: str
    start_seconds: float
    pss_mib: float
    idle_percent: float
    """Of one core, when nobody asks."""


@contextmanager
def all_running(wanted: Sequence[Contender], files: Sequence[bytes]) -> Iterator[list[Running]]:
    """Started one after the other, and standing still; ends the bench when their answers differ."""
    with ExitStack() as stack:
        started, expected = list[Running](), list[Any]()
        for contender in wanted:
            server = stack.enter_context(running(contender, files[0]))
            started.append(server)
            answers = [server.ask(file) for file in files]
            expected = expected or answers
            for mine, theirs in zip(expected, answers, strict=True):
                if not same_answer(mine, theirs):
                    sys.exit(f"{contender.name} answers something else: {theirs} instead of {mine}")
            server.pause()
        yield started


def settle(server: Running) -> None:
    """Waits until it works on nothing any more: it may not know that its clients have left."""
    end, before = time.monotonic() + 30.0, cpu_seconds(server.process.pid)
    while time.monotonic() < end:
        time.sleep(0.2)
        now = cpu_seconds(server.process.pid)
        if now - before <= 0.02:
            return
        before = now


def closed(
    steady: Steady, aside: Aside, clients: Aside, model: Model, servers: Sequence[Running], options: Options
) -> list[Closed]:
    """Every server at every concurrency, round after round."""
    found = {
        (server.contender.name, count): Closed(server.contender.name, count)
        for count in options.concurrency
        for server in servers
    }
    limits = {count: Closed("the limit", count) for count in options.concurrency}
    for number in range(options.rounds):
        for count in options.concurrency:
            way = "serial" if count == 1 else "lanes"
            limit = steady(partial(aside, measure_way, model, way, options.files, options.seconds))
            limits[count].limit(limit)
            for server in servers:
                load, spent = steady(partial(ask, clients, server, count, options))
                found[server.contender.name, count].add(load, limit.images_per_second, spent)
            progress(number, f"concurrency {count}; {steady.disturbed} were disturbed so far")
    return [*limits.values(), *found.values()]


def ask(clients: Aside, server: Running, count: int, options: Options) -> tuple[Load, float]:
    """A closed loop of `count` clients, and the seconds of CPU time that the server took for it."""
    requests = [request(server.contender.path, file) for file in options.files]
    with server.awake():
        before = cpu_seconds(server.process.pid)
        load = clients(closed_loop, server.port, requests, count, options.warm, options.seconds)
        settle(server)
        return load, cpu_seconds(server.process.pid) - before


def opened(
    steady: Steady, aside: Aside, clients: Aside, model: Model, servers: Sequence[Running], options: Options
) -> tuple[list[Open], list[float]]:
    """Every server at every load, round after round; and the capacity in each round."""
    found = {
        (server.contender.name, load): Open(server.contender.name, load) for load in options.loads for server in servers
    }
    capacities = []
    for number in range(options.rounds):
        capacity = (
            options.capacity or steady(partial(aside, measure_way, model, "lanes", options.files, options.seconds))[0]
        )
        capacities.append(capacity)
        for load in options.loads:
            for server in servers:
                seen = steady(partial(send, clients, server, load * capacity, number, options))
                found[server.contender.name, load].add(seen, options.deadline / 1000)
            progress(number, f"{load:g} times the capacity; {steady.disturbed} were disturbed so far")
    return list(found.values()), capacities


def send(clients: Aside, server: Running, rate: float, seed: int, options: Options) -> Load:
    """An open loop of `rate` requests a second."""
    requests = [request(server.contender.path, file) for file in options.files]
    with server.awake():
        seen: Load = clients(open_loop, server.port, requests, rate, options.seconds, PATIENCE, seed)
        settle(server)
    return seen


def progress(number: int, what: str) -> None:
    print(f"round {number + 1}, {what}", file=sys.stderr, flush=True)


def footprints(servers: Sequence[Running]) -> list[Footprint]:
    """Nothing else that maps their libraries may be left."""
    found = []
    for server in servers:
        with server.awake():
            settle(server)
            before = cpu_seconds(server.process.pid)
            time.sleep(IDLE_SECONDS)
            idle = 100 * (cpu_seconds(server.process.pid) - before) / IDLE_SECONDS
            memory = pss_mib(server.process.pid)
        found.append(Footprint(server.contender.name, server.start_seconds, memory, idle))
    return found


def show_closed(found: Sequence[Closed]) -> None:
    for count in dict.fromkeys(each.concurrency for each in found):
        print(f"\n{count} at a time\n")
        print("| | images/s | of the limit | p50 ms | p99 ms | errors | CPU ms |\n|---|" + "---:|" * 6)
        for each in found:
            if each.concurrency == count:
                print(each.row())


def show_open(found: Sequence[Open], capacities: Sequence[float], deadline: int) -> None:
    capacity = statistics.median(capacities)
    for load in dict.fromkeys(each.load for each in found):
        print(f"\n{load:g} times the capacity of {capacity:.1f} images/s, deadline {deadline} ms\n")
        print("| | offered/s | in time/s | p50 ms | p99 ms | late | refused | errors |\n|---|" + "---:|" * 7)
        for each in found:
            if each.load == load:
                print(each.row())
    print(f"\nthe clients were at most {max(max(each.lag_ms) for each in found):.1f} ms behind (p99)")


def bench(model: Model, options: Options) -> dict[str, Any]:
    """Prints the tables of one model; what they hold."""
    wanted = [ours(model, f"timeout_ms={options.deadline}" if options.open else "")]
    wanted += [peer(name, model, options.deadline if options.open else 0) for name in options.peers]
    with Aside() as aside:
        options.files = aside(photos, options.images, model.resize)
    average = sum(map(len, options.files)) / len(options.files) / 1024
    print(f"\n## {model}, {len(options.files)} files of {average:.0f} KiB\n")
    print(*(f"{each.name}: {each.configured}" for each in wanted), sep="; ")
    with Aside() as clients, all_running(wanted, options.files) as servers:
        with Aside() as aside, Steady() as steady:
            if options.open:
                found, capacities = opened(steady, aside, clients, model, servers, options)
                show_open(found, capacities, options.deadline)
                told: dict[str, Any] = {"capacity": capacities, "open": [asdict(each) for each in found]}
            else:
                seen = closed(steady, aside, clients, model, servers, options)
                show_closed(seen)
                told = {"closed": [asdict(each) for each in seen]}
        costs = footprints(servers)
    print(f"\n| | start to first answer s | memory (PSS) MiB | idle, % of a core |\n|---|{'---:|' * 3}")
    for cost in costs:
        print(f"| {cost.server} | {cost.start_seconds:.2f} | {cost.pss_mib:.0f} | {cost.idle_percent:.1f} |")
    return {**told, "footprints": [asdict(cost) for cost in costs]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument("--images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--peers", nargs="*", default=list(FRAMEWORKS), choices=FRAMEWORKS)
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before each measurement of a closed loop")
    parser.add_argument("--open", action="store_true", help="an open loop instead")
    parser.add_argument("--loads", nargs="+", type=float, default=[0.5, 0.9, 1.2, 2.0], help="times the capacity")
    parser.add_argument("--capacity", type=float, help="images a second; that of the limit when left out")
    parser.add_argument("--deadline", type=int, default=250, help="milliseconds, in an open loop")
    parser.add_argument("--json", type=Path, default=Path("build/serve.json"))
    options = parser.parse_args(namespace=Options())
    versions, missing = install() if options.peers else ({}, [])
    options.peers = [name for name in options.peers if name not in missing]
    print(*(f"{name} {version}" for name, version in versions.items()), *(f"{name} is missing" for name in missing))
    with tempfile.TemporaryDirectory() as folder:
        models = [model.alone(Path(folder)) for model in chosen(options.models)]
        found = {str(model): bench(model, options) for model in models}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"versions": versions, "missing": missing, "models": found}, indent=1))


if __name__ == "__main__":
    main()
