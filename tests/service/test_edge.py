"""Connections that do not behave, over raw sockets."""

import asyncio
import contextlib
import json
import logging
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from PIL import Image
from uvicorn.server import ServerState

from fakes import write_colour_bundle
from live import encode, serve
from service.edge import MAX_CHUNKS, MAX_HEADER_BYTES, MAX_HEADERS, edge
from service.engine.cpu import CpuBackend
from service.engine.entry import Pixels, Scores
from service.metrics import Metrics
from service.settings import Settings

HEADER_SECONDS = 0.4
BODY_SECONDS = 0.8
SLACK = 3.0
"""Seconds that a busy machine may be late."""
RED = encode(Image.new("RGB", (8, 8), "red"))
POST = b"POST /v1/models/colours:classify HTTP/1.1\r\nHost: a\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("repository")
    write_colour_bundle(folder)
    settings = Settings(repository=folder, port=0, header_timeout=HEADER_SECONDS, body_timeout=BODY_SECONDS)
    with serve(settings) as client:
        yield client


@contextlib.contextmanager
def connection(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as found:
        yield found


def rest(found: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionError):  # it closes before it has read all
        while part := found.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def told(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer after which the connection is closed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"content-type: application/problem+json" in lines
    assert b"connection: close" in lines
    problem = json.loads(body)
    assert b"x-request-id: " + problem["request_id"].encode() in lines
    assert problem["status"] == int(head.split()[1])
    return problem["status"], problem["code"]


def asked(client: httpx.Client, raw: bytes) -> tuple[int, str]:
    with connection(client) as found:
        with contextlib.suppress(ConnectionError):
            found.sendall(raw)
        return told(rest(found))


def refused(client: httpx.Client, code: str) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f'multicrop_http_refused_total{{code="{code}"}}'):
            return float(line.split()[1])
    return 0.0


def test_a_silent_connection_is_closed_at_the_deadline(server: httpx.Client) -> None:
    before = refused(server, "request_timeout")
    started = time.monotonic()
    with connection(server) as found:
        assert rest(found) == b""
        assert HEADER_SECONDS - 0.05 < time.monotonic() - started < HEADER_SECONDS + SLACK
    assert refused(server, "request_timeout") == before + 1


def test_a_header_that_trickles_in_is_408_at_the_deadline(server: httpx.Client) -> None:
    started = time.monotonic()
    with connection(server) as found:
        found.settimeout(0.02)
        answer = b""
        for byte in LIVE * 100:
            with contextlib.suppress(TimeoutError):
                if answer := found.recv(1 << 16):
                    break
            found.send(bytes([byte]))
            assert time.monotonic() - started < HEADER_SECONDS + SLACK
        assert told(answer) == (408, "request_timeout")
        assert time.monotonic() - started > HEADER_SECONDS - 0.05


def test_the_header_of_a_later_request_has_a_deadline_too(server: httpx.Client) -> None:
    with connection(server) as found:
        found.sendall(LIVE)
        assert found.recv(1 << 16).startswith(b"HTTP/1.1 200")
        time.sleep(2 * HEADER_SECONDS)  # a connection may wait between requests
        started = time.monotonic()
        found.sendall(b"GET /li")
        assert told(rest(found)) == (408, "request_timeout")
        assert HEADER_SECONDS - 0.05 < time.monotonic() - started < HEADER_SECONDS + SLACK


def test_empty_lines_do_not_keep_a_connection_open(server: httpx.Client) -> None:
    """The parser skips them before a request: it never says that one begins."""
    with connection(server) as found:
        found.sendall(LIVE)
        found.recv(1 << 16)
        started = time.monotonic()
        found.settimeout(0.05)
        while time.monotonic() - started < HEADER_SECONDS + SLACK:
            try:
                found.send(b"\r\n")
                if not found.recv(1 << 16):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - started < HEADER_SECONDS + SLACK


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n1\r\n"])
def test_a_body_that_does_not_arrive_is_408_at_its_deadline(server: httpx.Client, framing: bytes) -> None:
    with connection(server) as found:
        started = time.monotonic()
        found.sendall(POST + framing)
        assert told(rest(found)) == (408, "request_timeout")
        assert BODY_SECONDS - 0.05 < time.monotonic() - started < BODY_SECONDS + SLACK


@pytest.mark.parametrize("begun", [True, False], ids=["while it is read", "before it is read"])
def test_what_is_refused_within_its_body_is_told_once(
    server: httpx.Client, caplog: pytest.LogCaptureFixture, begun: bool
) -> None:
    """By the application, whose request it was: one line and one count, of the client's status, under one id."""
    caplog.set_level(logging.INFO, "service.logs")
    header = POST + b"X-Request-Id: within\r\nTransfer-Encoding: chunked\r\n"
    with connection(server) as found:
        if begun:
            found.sendall(header + b"Expect: 100-continue\r\n\r\n")
            assert found.recv(1000).startswith(b"HTTP/1.1 100")
        found.sendall((b"" if begun else header + b"\r\n") + b"1\r\naXX")
        answer = rest(found)
    assert told(answer) == (400, "bad_request")
    end = time.monotonic() + 5
    while server.get("/livez") and not (lines := posted(caplog)):  # a line is written behind its answer
        assert time.monotonic() < end
    (line,) = lines
    assert (line["id"] == "within") == begun
    assert b"\r\nx-request-id: %s\r\n" % line["id"].encode() in answer
    assert (line["status"], line["code"], line["route"]) == (400, "bad_request", "/v1/models/{name}:classify")


def posted(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of requests other than the probes."""
    found = [vars(record)["request"] for record in caplog.records]
    return [line for line in found if line["route"] != "/livez"]


def test_a_slow_answer_is_no_slow_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadlines are for what the client sends: views may take longer, and a second request waits its turn."""
    write_colour_bundle(tmp_path)
    run = CpuBackend.run

    def dawdle(backend: CpuBackend, images: Pixels, *, alone: bool = False) -> Scores:
        time.sleep(1.5)
        return run(backend, images, alone=alone)

    with serve(Settings(repository=tmp_path, port=0, header_timeout=1, body_timeout=1)) as client:
        monkeypatch.setattr(CpuBackend, "run", dawdle)
        with connection(client) as found:
            started = time.monotonic()
            found.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(RED) + RED + LIVE)
            answers(found, 2)
            assert time.monotonic() - started > 1.5


@pytest.mark.parametrize("gap", [True, False], ids=["then the next", "with the next"])
def test_a_head_has_its_answer_at_once(server: httpx.Client, gap: bool) -> None:
    """Not when the connection ends, and not that of the next request."""
    head = b"HEAD /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    with connection(server) as found:
        found.sendall(head if gap else head + LIVE)
        answer = found.recv(1 << 16)
        if gap:
            assert answer.endswith(b"\r\n\r\n")
            found.sendall(LIVE)
        answers(found, 2, answer)


def test_a_connection_that_was_answered_before_its_body_came_is_closed_when_nothing_follows() -> None:
    """The wait for a next request begins when the body is there, and again in vain behind a next one."""

    async def answer_early() -> None:
        answered, closed = asyncio.Event(), asyncio.Event()
        transport = Mock(spec=asyncio.Transport)
        transport.write.side_effect = lambda _: answered.set()
        transport.is_closing.side_effect = closed.is_set
        transport.get_extra_info.return_value = None
        transport.close.side_effect = closed.set
        config = uvicorn.Config(forbidden, log_config=None)
        config.load()
        config.timeout_keep_alive = 0.2  # type: ignore[assignment] # seconds of a timer
        protocol = edge(Settings(), Metrics())(config=config, server_state=ServerState(), app_state={})
        protocol.connection_made(transport)
        for _ in range(2):
            answered.clear()
            protocol.data_received(POST + b"Content-Length: 4\r\n\r\n")
            await asyncio.wait_for(answered.wait(), 10)
            protocol.data_received(b"body")
        await asyncio.wait_for(closed.wait(), 10)
        protocol.connection_lost(None)

    asyncio.run(answer_early())


async def forbidden(_scope: Any, _receive: Any, send: Any) -> None:
    """An application that asks for no body."""
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def answers(found: socket.socket, count: int, begun: bytes = b"") -> None:
    """Waits until so many good ones have come."""
    while begun.count(b"HTTP/1.1 200") < count:
        part = found.recv(1 << 16)
        assert part, begun
        begun += part


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", (400, "bad_host")),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", (400, "bad_host")),
        (b"GET /livez HTTP/1.1\r\nHost: a/b\r\n\r\n", (400, "bad_host")),
        (b"GET /livez HTTP/1.1\r\nHost: a?b\r\n\r\n", (400, "bad_host")),
        (b"GET /livez HTTP/1.1\r\nHost: u@a\r\n\r\n", (400, "bad_host")),
        (b"GET /livez HTTP/1.1\r\nHost: \r\n\r\n", (400, "bad_host")),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * MAX_HEADERS + b"\r\n", (431, "headers_too_large")),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * MAX_HEADER_BYTES + b"\r\n\r\n", (431, "headers_too_large")),
        (b"GET /livez?" + b"y" * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n", (431, "headers_too_large")),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * (30 << 20), (431, "headers_too_large")),
        (b"GET /" + b"y" * (1 << 20), (431, "headers_too_large")),
        (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400, "bad_request")),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", (400, "bad_request")),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", (400, "bad_request")),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400, "bad_request")),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", (400, "bad_request")),
        (POST + b"Content-Length: +3\r\n\r\nabc", (400, "bad_request")),
        (POST + b"Content-Length: 10000000000000000000000\r\n\r\nabc", (400, "bad_request")),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n", (400, "bad_request")),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\naXX0\r\n\r\n", (400, "bad_request")),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * (1 << 20), (431, "headers_too_large")),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * MAX_HEADERS, (431, "headers_too_large")),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * (MAX_CHUNKS + 1), (400, "too_many_chunks")),
        (b"GET /livez HTTP/1.1\nHost: a\n\n", (400, "bad_request")),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", (400, "bad_request")),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", (400, "bad_request")),
        (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", (400, "bad_request")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "bad_request")),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", (400, "bad_request")),
    ],
    ids=[
        "no host", "two hosts", "host with a path", "host with a query", "host with a user", "empty host",
        "too many lines", "long line", "long query", "30 MB in a line", "endless path", "length and chunks",
        "gzip chunks", "unknown encoding", "two encodings", "two lengths", "signed length", "huge length", "huge chunk",
        "chunk without end", "endless chunk extension", "too many trailers", "too many chunks", "bare newline",
        "folded line", "nul", "unknown method", "http/2", "connect",
    ],
)  # fmt: skip
def test_what_is_no_good_request_is_refused_with_its_code(
    server: httpx.Client, raw: bytes, expected: tuple[int, str]
) -> None:
    before = refused(server, expected[1])
    assert asked(server, raw) == expected
    assert refused(server, expected[1]) == before + 1
    assert server.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: my_service.name:8000\r\n" + b"X: y\r\n" * (MAX_HEADERS - 1) + b"\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * (MAX_HEADER_BYTES - 200) + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["http/1.0", "address", "many lines", "long line", "upgrade", "empty lines before"],
)
def test_what_is_within_the_bounds_is_answered(server: httpx.Client, raw: bytes) -> None:
    with connection(server) as found:
        found.sendall(raw)
        assert found.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_an_image_in_many_chunks_is_answered(server: httpx.Client) -> None:
    chunks = b"".join(b"1\r\n" + RED[place : place + 1] + b"\r\n" for place in range(len(RED)))
    padding = b"1\r\n\0\r\n" * (MAX_CHUNKS - len(RED) - 1)  # what follows an image does not matter
    with connection(server) as found:
        found.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + padding + b"0\r\n\r\n")
        assert found.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_all_answered(server: httpx.Client) -> None:
    """More of them than a header may have bytes: each is counted by itself."""
    count = 2 * MAX_HEADER_BYTES // len(LIVE)
    with connection(server) as found:
        found.sendall(LIVE * count)
        answers(found, count)


def test_a_bad_request_behind_a_good_one_does_not_take_its_answer(server: httpx.Client) -> None:
    """The refusal would be read as the answer to the first."""
    with connection(server) as found:
        found.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(RED) + RED + b"GET / HTTP/1.1\r\n\r\n")
        answer = rest(found)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


def test_an_upload_that_is_refused_is_answered_before_its_body_and_closed_at_the_deadline(server: httpx.Client) -> None:
    with connection(server) as found:
        started = time.monotonic()
        found.sendall(POST + b"Content-Length: 99999999999\r\n\r\n")
        assert found.recv(1 << 16).startswith(b"HTTP/1.1 413")
        assert time.monotonic() - started < BODY_SECONDS
        assert rest(found) == b""
        assert BODY_SECONDS - 0.05 < time.monotonic() - started < BODY_SECONDS + SLACK


def test_a_client_that_offers_another_protocol_is_answered_in_this_one(
    server: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """As Java's and curl's do, for HTTP/2."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with connection(server) as found:
        found.sendall(POST + offer + b"Content-Length: %d\r\n\r\n" % len(RED) + RED)
        assert found.recv(1 << 16).startswith(b"HTTP/1.1 200")
        found.sendall(POST + offer + b"Transfer-Encoding: chunked\r\n\r\n")
        found.sendall(b"%x\r\n" % len(RED) + RED + b"\r\n0\r\n\r\n" + LIVE)
        answers(found, 2)
    with connection(server) as found:  # far more of them than calls may be nested
        found.sendall((LIVE[:-2] + offer + b"\r\n") * 2000)
        answers(found, 2000)
    assert not caplog.records


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def stall() -> None:
        aborted = asyncio.Event()
        transport = Mock(spec=asyncio.Transport)
        transport.is_closing.return_value = False
        transport.get_extra_info.return_value = None
        transport.abort.side_effect = aborted.set
        connect = edge(Settings(body_timeout=0.1), Metrics())
        protocol = connect(config=uvicorn.Config(Mock(), log_config=None), server_state=ServerState(), app_state={})
        protocol.connection_made(transport)
        protocol.pause_writing()
        protocol.resume_writing()
        await asyncio.sleep(0.2)
        assert not aborted.is_set(), "it has read in time"
        protocol.pause_writing()
        await asyncio.wait_for(aborted.wait(), 10)
        protocol.connection_lost(None)

    asyncio.run(stall())


def test_a_crowd_of_slow_clients_does_not_slow_a_good_one(server: httpx.Client) -> None:
    def median() -> float:
        seconds = []
        for _ in range(30):
            started = time.perf_counter()
            assert server.post("/v1/models/colours:classify", content=RED).status_code == 200
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    alone = median()
    with contextlib.ExitStack() as crowd:
        slow = [crowd.enter_context(connection(server)) for _ in range(200)]
        for number, found in enumerate(slow):
            found.sendall((b"", LIVE[:10], POST + b"Content-Length: 1000\r\n\r\nab")[number % 3])
        among = median()
        for number, found in enumerate(slow):
            answer = rest(found)
            assert answer == b"" if number % 3 == 0 else told(answer) == (408, "request_timeout")
    print(f"a request takes {1000 * alone:.2f} ms alone and {1000 * among:.2f} ms beside 200 slow clients")
    assert among < 3 * alone + 0.1  # far less than a deadline: they are not waited for
