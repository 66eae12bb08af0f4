"""SIGTERM under load: what becomes of the requests that were under way.

    python tests/bench/drain.py [--rounds 20] [--clients 50] [--delay 1.0] [--json build/drain.json]

Each round starts a server of its own; clients in a closed loop, on connections that they keep, send one image after the
other (ten views of a small graph, some of them a photograph that takes long to decode); after a random time comes
SIGTERM. `lost` are requests whose answer did not come, or was cut; `errors` answers other than 200; `late` those that
found nobody listening any more, as they should. Exit status 1: a request was lost, or a server did not end with 0.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from fakes import write_colour_bundle
from samples import encode
from servers import Server, serving

GRACE = 30.0
"""Seconds for a server to end once it listens no more."""


@dataclass
class Round:
    """One server, from its start to its end."""

    counts: Counter[str] = field(default_factory=Counter)
    """Requests: answered, errors, lost, late."""
    flip_ms: float = 0.0
    """From the signal to the first 503 of /readyz."""
    exit_s: float = 0.0
    """From the signal to the end of the process."""
    status: int | None = None
    """Of the process."""


def request(image: bytes) -> bytes:
    head = f"POST /v1/models/colours:classify?views=ten_crop HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(image)}"
    return f"{head}\r\n\r\n".encode() + image


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status of an answer that came whole, and whether the connection stays; raises EOFError or OSError."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    await reader.readexactly(int(length[1]))
    return int(head.split(b" ", 2)[1]), b"connection: close" not in head


async def client(port: int, requests: list[bytes], counts: Counter[str], seed: int) -> None:
    """Asks until nobody listens."""
    draw = random.Random(seed)
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            counts["late"] += 1
            return
        stays = True
        while stays:
            try:
                writer.write(draw.choice(requests))
                await writer.drain()
                status, stays = await answer(reader)
            except (OSError, EOFError):
                counts["lost"] += 1
                break
            counts["answered" if status == 200 else "errors"] += 1
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def flip(server: Server) -> None:
    while await asyncio.to_thread(server.ready):
        pass


async def load(server: Server, requests: list[bytes], clients: int, seed: int) -> Round:
    """Clients, the signal after a random time, and what came of it."""
    found = Round()
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(client(server.port, requests, found.counts, 1000 * seed + number))
        await asyncio.sleep(random.Random(seed).uniform(0.5, 1.5))
        server.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        await flip(server)
        found.flip_ms = 1e3 * (time.monotonic() - begun)
        found.status = await asyncio.to_thread(server.process.wait, GRACE)
        found.exit_s = time.monotonic() - begun
    return found


def one_round(repository: Path, requests: list[bytes], options: argparse.Namespace, seed: int) -> Round:
    with serving(repository, "--drain-delay", str(options.delay), "--log-format", "text") as server:
        return asyncio.run(load(server, requests, options.clients, seed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--delay", type=float, default=1.0, help="the server's --drain-delay, in seconds")
    parser.add_argument("--json", type=Path, default=Path("build/drain.json"))
    options = parser.parse_args()
    noise = Image.effect_noise((640, 427), 60).convert("RGB")
    small, large = encode(noise, "JPEG"), encode(noise.resize((4000, 3000)), "JPEG")
    requests = [request(small)] * 49 + [request(large)]
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        write_colour_bundle(Path(folder))
        for seed in range(options.rounds):
            rounds.append(one_round(Path(folder), requests, options, seed))
            print(f"round {seed + 1} of {options.rounds}: {rounds[-1]}", file=sys.stderr)
    total: Counter[str] = sum((one.counts for one in rounds), Counter())
    print(f"{options.rounds} SIGTERMs, {options.clients} clients")
    for name in ("answered", "errors", "lost", "late"):
        print(f"{name:>12}  {total[name]}")
    for name in ("flip_ms", "exit_s"):
        values = [getattr(one, name) for one in rounds]
        print(f"{name:>12}  {median(values):.3g} (median), {max(values):.3g} (most)")
    statuses = {one.status for one in rounds}
    print(f"{'exit status':>12}  {', '.join(map(str, statuses))}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([vars(one) for one in rounds], indent=1))
    return int(bool(total["lost"]) or statuses != {0})


if __name__ == "__main__":
    sys.exit(main())
