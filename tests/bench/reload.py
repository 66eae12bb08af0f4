"""What swaps under load cost: A to B and back, while clients in a closed loop send one image after the other.

    python tests/bench/reload.py [--models REPOSITORY NAME] [--clients 50] [--swaps 200] [--rest 0.2] [--idle 10]

The server is a process of its own, and so are the clients (plain sockets); without --models the two versions are tiny
graphs. A and B are the two smallest versions; a swap writes `versions = [N]` into serving.toml and asks for a reload.
Every answer is checked: its digest is that of its version. The server's memory is read after each swap, and once more
when all clients have left and nothing was asked for a while: what a swap leaks grows as fast at the end as at the
start, what the allocator keeps does not. Prints a table and writes JSON.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import re
import selectors
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from http import HTTPStatus
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, cast
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bundle import store
from fakes import write_colour_bundle
from servers import Server, serving

Answer = tuple[float, float, int, int | None, str | None]
"""Begun, seconds, status, version, digest."""


@dataclass(frozen=True)
class Result:
    clients: int
    swaps: int
    swap_median_ms: float
    answers: int
    failed: int
    mixed: int
    steady_p50_ms: float
    steady_p99_ms: float
    during_p50_ms: float
    during_p99_ms: float
    during_max_ms: float
    steady_per_second: float
    during_per_second: float
    rss_before_mib: float
    rss_after_mib: float
    rss_idle_mib: float
    """When the clients had left for a while."""
    first_kib_per_swap: float
    """Growth over the first 50 swaps, or the first half: the slope of a straight line."""
    last_kib_per_swap: float
    """Over as many at the end."""
    rss_mib: list[float]
    """After each swap."""


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").resize((32, 32)).save(buffer, "PNG")
    return buffer.getvalue()


def clients(port: int, name: str, count: int, ended: Event, found: "multiprocessing.Queue[list[Answer]]") -> None:
    """`count` connections, each with one request at a time, in one thread: 64 connections upset httpx's pool."""
    body = picture()
    head = f"POST /v1/models/{name}:classify HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    request, answers = head.encode() + body, list[Answer]()
    selector = selectors.DefaultSelector()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        state = {"begun": time.monotonic(), "buffer": b""}
        connection.sendall(request)
        selector.register(connection, selectors.EVENT_READ, state)
    while count:
        for key, _ in selector.select():
            connection, state = cast(socket.socket, key.fileobj), key.data
            received = connection.recv(1 << 16)
            state["buffer"] += received
            answer = parse(state["buffer"])
            if received and answer is None:
                continue
            now = time.monotonic()
            answers.append((state["begun"], now - state["begun"], *(answer or (0, None, None))))
            state.update(begun=now, buffer=b"")
            if not received or ended.is_set():
                selector.unregister(connection)
                count -= 1
            else:
                connection.sendall(request)
    found.put(answers)


def parse(buffer: bytes) -> tuple[int, int | None, str | None] | None:
    """Status, version and digest of a whole answer."""
    head, separator, body = buffer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    if not separator or length is None or len(body) < int(length[1]):
        return None
    said = json.loads(body)
    return int(head.split()[1]), said.get("version"), said.get("digest")


def reload(server: Server) -> Any:
    """What it changed."""
    request = Request(f"{server.url}/v1/repository/reload", method="POST")  # noqa: S310 the address is ours
    with urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.load(answer)["changes"]


def resident(pid: int) -> float:
    """MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def growth(memory: list[float]) -> float:
    """KiB a swap: the slope of the straight line nearest to the memory after each."""
    return 1024 * float(np.polyfit(np.arange(len(memory)), memory, 1)[0])


def swap_all(
    server: Server, folder: Path, versions: list[int], options: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """The seconds of each swap, and the memory after each."""
    seconds, memory = [], []
    for turn in range(options.swaps):
        (folder / "serving.toml").write_text(f"versions = [{versions[(turn + 1) % 2]}]")
        begun = time.monotonic()
        changes = reload(server)
        seconds.append(time.monotonic() - begun)
        assert [change["outcome"] for change in changes] == ["loaded", "retired"], changes
        time.sleep(options.rest)
        memory.append(resident(server.process.pid))
    return seconds, memory


def measure(repository: Path, name: str, options: argparse.Namespace) -> Result:
    versions = store.versions(repository, name)[:2]
    digests = {
        number: hashlib.sha256((repository / name / str(number) / store.MANIFEST).read_bytes()).hexdigest()
        for number in versions
    }
    (repository / name / "serving.toml").write_text(f"versions = [{versions[0]}]")
    context = multiprocessing.get_context("spawn")
    ended, found = context.Event(), context.Queue()
    with serving(repository, "--admin") as server:
        sender = context.Process(target=clients, args=(server.port, name, options.clients, ended, found), daemon=True)
        sender.start()
        time.sleep(3.0)  # the clients' imports, and the first answers
        steady = time.monotonic()
        time.sleep(options.steady)
        before, first = resident(server.process.pid), time.monotonic()
        seconds, memory = swap_all(server, repository / name, versions, options)
        last = time.monotonic()
        time.sleep(1.0)
        after = resident(server.process.pid)
        ended.set()
        answers: list[Answer] = found.get()
        sender.join()
        time.sleep(options.idle)
        memory = [before, *memory, after, resident(server.process.pid)]
    return tell(answers, digests, (steady, first, last), seconds, memory, options.clients)


def tell(
    answers: list[Answer],
    digests: dict[int, str],
    times: tuple[float, float, float],
    seconds: list[float],
    memory: list[float],
    count: int,
) -> Result:
    steady, first, last = times
    before, *swapped, after, idle = memory
    end = min(50, len(swapped) // 2)
    quiet = 1000 * np.array([answer[1] for answer in answers if steady <= answer[0] and answer[0] + answer[1] <= first])
    during = 1000 * np.array([answer[1] for answer in answers if first <= answer[0] + answer[1] and answer[0] <= last])
    good = [answer for answer in answers if answer[2] == HTTPStatus.OK]
    return Result(
        clients=count,
        swaps=len(seconds),
        swap_median_ms=1000 * float(np.median(seconds)),
        answers=len(answers),
        failed=len(answers) - len(good),
        mixed=sum(digests.get(version or 0) != digest for *_, version, digest in good),
        steady_p50_ms=float(np.percentile(quiet, 50)),
        steady_p99_ms=float(np.percentile(quiet, 99)),
        during_p50_ms=float(np.percentile(during, 50)),
        during_p99_ms=float(np.percentile(during, 99)),
        during_max_ms=float(during.max()),
        steady_per_second=len(quiet) / (first - steady),
        during_per_second=len(during) / (last - first),
        rss_before_mib=before,
        rss_after_mib=after,
        rss_idle_mib=idle,
        first_kib_per_swap=growth(swapped[:end]),
        last_kib_per_swap=growth(swapped[-end:]),
        rss_mib=swapped,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs=2, metavar=("REPOSITORY", "NAME"))
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--rest", type=float, default=0.2, help="seconds between two swaps")
    parser.add_argument("--steady", type=float, default=10.0, help="seconds before the first swap")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds between the last answer and the last figure")
    parser.add_argument("--json", type=Path, default=Path("build/reload.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository, name = Path(folder), "colours"
        if options.models:
            name = options.models[1]
            shutil.copytree(Path(options.models[0]) / name, repository / name)
        else:
            for scale in (1.0, 2.0):
                write_colour_bundle(repository, name, scale=scale)
        result = measure(repository, name, options)
    for key, value in asdict(result).items():
        if not isinstance(value, list):
            print(f"{key:>20}  {value:.4g}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(asdict(result), indent=1))


if __name__ == "__main__":
    main()
