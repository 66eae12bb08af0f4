"""What the load generator can send at most, and what httpx could: to a process that answers at once.

    python tests/bench/generator.py [--seconds 4] [--rounds 3] [--bytes 100000]

Both send the same requests from one thread in a closed loop, in turns. Prints requests per second and the CPU time of
the generator for one, medians of the rounds, and writes JSON.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

sys.path[:0] = [str(Path(__file__).parents[2])]

from service.client import exchange
from service.loadtest.generator import closed_loop
from service.loadtest.sample import OK, Sample, Told, read
from service.loadtest.wire import Reply, Wire, encode

CONCURRENCY = (1, 8, 64)
ANSWER = {
    "model": "m", "version": 1, "digest": "a" * 64, "views": {"plan": "center", "computed": 1, "gmacs": 1},
    "predictions": [{"index": index, "label": "a label", "probability": 0.1} for index in range(5)],
    "timings_ms": {"decode": 1.0, "queue": 0.1, "compute": 2.0, "merge": 0.1, "total": 3.2}, "request_id": "b" * 32,
}  # fmt: skip

Ask = Callable[[int], Awaitable[Told]]


class Answering(asyncio.Protocol):
    """The server: counts the bytes of a request and answers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._left, self._head = 0, b""

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            if (end := self._head.find(b"\r\n\r\n")) < 0:
                return
            length = next(
                int(line[15:]) for line in self._head[:end].lower().split(b"\r\n") if line[:15] == b"content-length:"
            )
            self._left, data, self._head = length, self._head[end + 4 :], b""
        self._left -= len(data)
        if self._left <= 0:
            body = json.dumps(ANSWER).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def ours(url: str, body: bytes, clients: int, seconds: float) -> tuple[float, float]:
    with httpx.Client(base_url=url) as http:
        wire, request = Wire(http.base_url), encode(http, exchange.classify("m", body, {"views": "center"}))

    async def ask(_: int) -> Told:
        return read(await wire.ask(request))

    try:
        return await measure(ask, clients, seconds)
    finally:
        wire.close()


async def with_httpx(url: str, body: bytes, clients: int, seconds: float) -> tuple[float, float]:
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits) as http:

        async def ask(_: int) -> Told:
            answer = await http.send(exchange.classify("m", body, {"views": "center"}).request(http))
            return read(Reply(answer.status_code, answer.content))

        return await measure(ask, clients, seconds)


async def measure(ask: Ask, clients: int, seconds: float) -> tuple[float, float]:
    """Requests per second, and microseconds of CPU time for one."""
    samples: list[Sample] = []
    busy, started = time.process_time(), time.perf_counter()
    await closed_loop(ask, clients, seconds, samples)
    took = time.perf_counter() - started
    assert all(sample.told.code == OK for sample in samples)
    return len(samples) / took, 1e6 * (time.process_time() - busy) / len(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=100_000, help="of an image")
    parser.add_argument("--json", type=Path, default=Path("build/generator.json"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url, body = f"http://127.0.0.1:{server.stdout.readline().strip()}", bytes(options.bytes)
            found: dict[tuple[str, int], list[tuple[float, float]]] = {}
            for _ in range(options.rounds):
                for clients in CONCURRENCY:
                    for name, run in (("loadtest", ours), ("httpx", with_httpx)):
                        figures = asyncio.run(run(url, body, clients, options.seconds))
                        found.setdefault((name, clients), []).append(figures)
        finally:
            server.kill()
    rows: list[dict[str, Any]] = [
        {
            "generator": name,
            "connections": clients,
            "requests_per_second": statistics.median(rate for rate, _ in figures),
            "cpu_us": statistics.median(cpu for _, cpu in figures),
        }
        for (name, clients), figures in found.items()
    ]
    print(f"{'generator':10}{'connections':>12}{'requests/s':>12}{'CPU us':>8}")
    for row in rows:
        print("{generator:10}{connections:12}{requests_per_second:12.0f}{cpu_us:8.0f}".format(**row))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
