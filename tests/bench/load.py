"""Clients that cost little, since they share the cores with the server that they measure.

One thread, plain sockets that are kept, requests that are ready beforehand. A closed loop sends the next request when
the answer is there; an open loop sends when a request is due, whatever became of those before, and counts from then.
"""

import random
import re
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle
from math import ceil
from typing import NamedTuple, cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

LOST = 0
"""The status of a request that was never answered."""


class Answer(NamedTuple):
    """One request; all in seconds on the clock of time.monotonic."""

    due: float
    sent: float
    ended: float
    status: int


@dataclass(frozen=True)
class Load:
    """What clients saw."""

    answers: list[Answer]
    seconds: float
    """That they were measured."""
    client_seconds: float
    """CPU time that the clients themselves took, over all requests they sent."""
    sent: int

    @property
    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == HTTPStatus.OK]

    def within(self, deadline: float) -> int:
        """Good answers at most so many seconds after they were due."""
        return sum(answer.ended - answer.due <= deadline for answer in self.good)

    def statuses(self) -> dict[int, int]:
        """How often each status came."""
        found = sorted(answer.status for answer in self.answers)
        return {status: found.count(status) for status in dict.fromkeys(found)}

    def latency_ms(self, percent: float) -> float:
        """Of the good answers, from when they were due; nan when there are none."""
        return 1e3 * percentile([answer.ended - answer.due for answer in self.good], percent)

    def lag_ms(self, percent: float) -> float:
        """By which the clients themselves were late."""
        return 1e3 * percentile([answer.sent - answer.due for answer in self.answers], percent)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is no less than so many percent of them (the nearest rank); nan of none."""
    if not values:
        return float("nan")
    return sorted(values)[max(ceil(percent / 100 * len(values)), 1) - 1]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """When the requests of a Poisson process of `rate` a second are due, in seconds from its start."""
    draw, now, due = random.Random(seed), 0.0, list[float]()
    while (now := now + draw.expovariate(rate)) < seconds:
        due.append(now)
    return due


def request(path: str, body: bytes, kind: str = "image/jpeg") -> bytes:
    """A POST as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """Kept, with one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = self.sent = 0.0
        self.busy = False
        self.closes = False
        """The server has said that it closes, or has closed."""
        self._buffer = b""
        self._end = 0

    def send(self, request: bytes, due: float | None = None) -> None:
        """Due now when nothing else is said."""
        self.sent = time.monotonic()
        self.due = self.sent if due is None else due
        self.busy, self._buffer, self._end = True, b"", 0
        with suppress(OSError):  # the server closes it at this moment; `receive` will find out
            self.socket.sendall(request)

    def receive(self) -> Answer | None:
        """The answer once all of it is there; nothing is lost when a server closes a connection that is idle."""
        try:
            received = self.socket.recv(1 << 16)
        except OSError:
            received = b""
        self._buffer += received
        if not received:
            self.closes = True
            return self.end(LOST) if self.busy else None
        if not self._end:
            self._end = self._find_end()
        if self._end and len(self._buffer) >= self._end:
            return self.end(int(self._buffer[9:12]))
        return None

    def end(self, status: int) -> Answer:
        self.busy = False
        return Answer(self.due, self.sent, time.monotonic(), status)

    def _find_end(self) -> int:
        """Of the answer in the buffer; 0 while its header is not whole."""
        header = self._buffer.find(b"\r\n\r\n")
        if header < 0:
            return 0
        head = self._buffer[: header + 2]
        length = _LENGTH.search(head)
        assert length is not None, head
        self.closes = _CLOSE.search(head) is not None
        return header + 4 + int(length[1])


class _Clients:
    """Connections in one selector."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()

    def connect(self) -> Connection:
        connection = Connection(self._port)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def answered(self, timeout: float | None = None) -> list[tuple[Connection, Answer]]:
        """What came within the time; connections that the server closes are forgotten, idle ones too."""
        found = []
        for key, _ in self._selector.select(timeout):
            connection = cast(Connection, key.data)
            if answer := connection.receive():
                found.append((connection, answer))
            if connection.closes and not connection.busy:
                self.forget(connection)
        return found

    def free(self, connection: Connection) -> Connection:
        """The connection, or a new one when its server has closed it."""
        return self.connect() if connection.closes else connection

    def busy(self) -> list[Connection]:
        return [key.data for key in self._selector.get_map().values() if key.data.busy]

    def forget(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            self.forget(key.data)


def closed_loop(port: int, requests: Sequence[bytes], connections: int, warm: float, seconds: float) -> Load:
    """`connections` clients that each send one request after the other.

    In the end they wait for the answers that are under way, so that the server has worked for every request.

    Args:
        port: of the server, on this machine.
        requests: sent in turn.
        connections: clients.
        warm: seconds before the measurement.
        seconds: of the measurement; answers that end in it count.
    """
    clients, turn, cpu = _Clients(port), cycle(requests), time.process_time()
    answers = list[Answer]()
    for _ in range(connections):
        clients.connect().send(next(turn))
    sent = under_way = connections
    begun = time.monotonic() + warm
    while under_way:
        for connection, answer in clients.answered():
            answers.append(answer)
            if answer.ended > begun + seconds:
                under_way -= 1
                continue
            clients.free(connection).send(next(turn))
            sent += 1
    clients.close()
    counted = [answer for answer in answers if begun <= answer.ended <= begun + seconds]
    return Load(counted, seconds, time.process_time() - cpu, sent)


def send_all(port: int, requests: Sequence[bytes], connections: int) -> Load:
    """Every request once, by at most `connections` clients; `seconds` is what all of them took."""
    clients, cpu, left = _Clients(port), time.process_time(), list(reversed(requests))
    answers, begun = list[Answer](), time.monotonic()
    for _ in range(min(connections, len(left))):
        clients.connect().send(left.pop())
    while len(answers) < len(requests):
        for connection, answer in clients.answered():
            answers.append(answer)
            if left:
                clients.free(connection).send(left.pop())
    clients.close()
    return Load(answers, time.monotonic() - begun, time.process_time() - cpu, len(requests))


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float, patience: float, seed: int) -> Load:
    """Requests at the times of a Poisson process, on as many connections as are under way.

    Args:
        port: of the server, on this machine.
        requests: sent in turn.
        rate: requests a second.
        seconds: during which requests are due.
        patience: seconds after that until what is not answered is lost.
        seed: of the times.
    """
    clients, turn, cpu = _Clients(port), cycle(requests), time.process_time()
    answers, idle = list[Answer](), list[Connection]()
    begun = time.monotonic()
    due = [begun + time_ for time_ in reversed(arrivals(rate, seconds, seed))]
    sent, last, under_way = len(due), begun + seconds + patience, 0
    while due or under_way:
        now = time.monotonic()
        while due and due[-1] <= now:
            (clients.free(idle.pop()) if idle else clients.connect()).send(next(turn), due.pop())
            under_way += 1
        if not due and now >= last:
            break
        for connection, answer in clients.answered(max((due[-1] if due else last) - now, 0.0)):
            answers.append(answer)
            under_way -= 1
            idle.append(connection)
    answers += [connection.end(LOST) for connection in clients.busy()]
    clients.close()
    return Load(answers, seconds, time.process_time() - cpu, sent)
