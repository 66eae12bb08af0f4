"""Connections that send or read too slowly, too much, or not to the end."""

import socket
import struct
import time
from collections.abc import Callable

from catalogue import BODY_SECONDS, CLOSED, HEADER_SECONDS, Answer, Case, Served, received
from hostile_http import KEY, LIVE, POST

SLACK = 3.0
"""Seconds that a busy machine may be late."""


def slow_header(served: Served) -> Answer:
    started = time.monotonic()
    with served.connect() as connection:
        connection.settimeout(0.1)
        for byte in LIVE:
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                connection.send(bytes([byte]))
        return in_time(received(connection, "GET"), started, HEADER_SECONDS)


def silent(served: Served) -> Answer:
    started = time.monotonic()
    with served.connect() as connection:
        return in_time(received(connection), started, HEADER_SECONDS)


def slow_body(served: Served) -> Answer:
    started = time.monotonic()
    with served.connect() as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        connection.settimeout(0.1)
        while True:
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    return in_time(received(connection), started, BODY_SECONDS)
            except TimeoutError:
                connection.send(b"x")


def in_time(answer: Answer, started: float, limit: float) -> Answer:
    assert limit - 0.1 < time.monotonic() - started < limit + SLACK
    return answer


def never_reads(served: Served) -> Answer:
    """Its answers wait in bounded buffers, and then the connection ends."""
    before, asked = served.memory(), LIVE.replace(b"/livez", b"/openapi.json") + KEY + b"\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(served.address)
        connection.settimeout(BODY_SECONDS + SLACK)
        started = time.monotonic()
        try:
            while True:
                connection.sendall(asked * 100)
        except ConnectionError:
            assert time.monotonic() - started < BODY_SECONDS + SLACK + 1
    assert served.memory() - before < 32 << 20
    return CLOSED


def pipelined(served: Served) -> list[Answer]:
    with served.connect() as connection:
        connection.sendall((LIVE + b"\r\n") * 99 + LIVE + b"Connection: close\r\n\r\n")
        parts = list(iter(lambda: connection.recv(1 << 16), b""))
    answers = b"".join(parts).split(b"HTTP/1.1 ")[1:]
    assert len(answers) == 100
    return [Answer(int(answer[:3]), {}, answer.partition(b"\r\n\r\n")[2]) for answer in answers]


def reset_within_the_body(served: Served) -> Answer:
    """What it announced is held no more."""
    held = served.metric("multicrop_bytes_in_flight")
    with served.connect() as connection:
        connection.sendall(POST + b"Content-Length: 1000000\r\n\r\nab")
        wait(lambda: served.metric("multicrop_bytes_in_flight") >= held + 1_000_000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait(lambda: served.metric("multicrop_bytes_in_flight") == held)
    return CLOSED


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not until():
        assert time.monotonic() < end
        time.sleep(0.005)


CASES = [
    Case("H20-slow-header", slow_header, "408 request_timeout"),
    Case("H21-silent-connection", silent, "closed"),
    Case("H22-slow-body", slow_body, "408 request_timeout"),
    Case("H23-client-that-never-reads", never_reads, "closed"),
    Case("H24-100-pipelined", pipelined, "200"),
    Case("H25-reset-within-the-body", reset_within_the_body, "closed"),
]
