"""What a connection may do before a request is one: how slowly it may send, and how much.

uvicorn waits for ever for a header or a body, and takes headers of any size. Here a request has a deadline for its
header and one for its body, and its framing is bounded; what is refused is told in a problem document, counted, and
the connection is closed.
"""

import asyncio
import json
import re
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.logs import Told, log_request
from service.metrics import Metrics
from service.settings import Settings
from service.transport import Answer, Flow

MAX_HEADER_BYTES = 32 << 10
"""Of the request line and all header lines; and of everything else in a request that is no body."""
MAX_HEADERS = 100
MAX_CHUNKS = 65_536
"""In a body that is sent in chunks: each costs a call, and a million of one byte would hold the others up."""
CHUNK_BYTES = 16
"""What the framing of a chunk may take."""
CLOSE_SECONDS = 5.0
"""Given to a client to read the last answer on its connection."""
LINGER_SECONDS = 0.25
"""For a request that is on its way when the server ends."""

_HOST = re.compile(rb"([A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")

REFUSALS = {
    "bad_request": (400, "the request is not valid HTTP/1.1"),
    "bad_host": (400, "the request needs exactly one Host header with a host, and a port if it is not the default"),
    "too_many_chunks": (400, f"the body has more than {MAX_CHUNKS} chunks; send larger ones"),
    "request_timeout": (408, "the request did not arrive in time; send it without pauses"),
    "headers_too_large": (431, f"a header has at most {MAX_HEADERS} lines and {MAX_HEADER_BYTES} bytes; send less"),
}
"""What is answered here, by its code: status and detail."""


class RefusedError(Exception):
    """Ends the parsing of a request; `code` is one of `REFUSALS`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Edge(HttpToolsProtocol):
    """One connection.

    Args:
        settings: the receipt deadlines.
        metrics: count what is refused here, by its code.
        others: uvicorn's own.
    """

    def __init__(self, *others: Any, settings: Settings, metrics: Metrics, **options: Any) -> None:
        super().__init__(*others, **options)
        self._header_timeout = settings.header_timeout
        self._body_timeout = settings.body_timeout
        self._metrics = metrics
        self._receipt: asyncio.TimerHandle | None = None
        """Runs while a header or a body is awaited."""
        self._end: asyncio.TimerHandle | None = None
        """Runs while the client has to read before anything else happens."""
        self._answering: RequestResponseCycle | None = None
        self._code = ""
        """Why the connection is refused."""
        self._silent = True
        """Nothing has arrived of the request that is awaited."""
        self._since = 0.0
        """When it began to arrive, on the loop's clock."""
        self._unframed = 0
        """Bytes since the request began that are no body; those of a line that is not parsed yet too."""
        self._begin()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._await(self._header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._received()
        self._is_read()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True  # uvicorn tells only the last of several requests
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._code or self.transport.is_closing():
            return
        if self._receipt is None and (self.cycle is None or self.cycle.response_complete):
            self._await(self._header_timeout)  # the first bytes of the next request
        if self._silent:
            self._silent, self._since = False, self.loop.time()
        self._unframed = max(self._unframed, 0) + len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if not self._code and self._unframed > MAX_HEADER_BYTES + CHUNK_BYTES * self._chunks:
            self._refuse("headers_too_large")  # of a line that has no end yet the parser says nothing

    def _feed(self, data: bytes) -> None:
        """A parser that is offered another protocol stops at the header; a new one goes on without the offer."""
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    data = b""
                except HttpParserUpgrade as offer:
                    if not self._is_offer():
                        raise
                    data = self._header_without_offer() + data[offer.args[0] :]
                    self.parser = HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        except (HttpParserError, HttpParserUpgrade):
            self._refuse(self._code or "bad_request")

    def _header_without_offer(self) -> bytes:
        start = (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%s: %s\r\n" % line for line in self.headers if line[0] != b"upgrade"]
        return b"%s %s HTTP/%s\r\n" % start + b"".join(lines) + b"\r\n"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # it may follow in the bytes that ended the one before
        self._begin()
        if self._receipt is None:
            self._await(self._header_timeout)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers come here too."""
        self._lines += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._check_host()
        if self._is_offer():
            return
        encodings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if encodings and (encodings != [b"chunked"] or self.parser.get_http_version() != "1.1"):
            self._raise("bad_request")
        super().on_headers_complete()
        self._await(self._body_timeout)

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            self._raise("too_many_chunks")

    def on_body(self, body: bytes) -> None:
        self._unframed -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_offer():
            return
        self._received()
        self._unframed = 0  # what follows in the same bytes is counted from the next ones
        super().on_message_complete()
        if self.cycle.response_complete:  # before its body was there, whose bytes ended the wait for a next request
            self._silent = True
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        if cycle.scope["method"] != "HEAD":  # its head has no body to wait for
            cycle.transport = Answer(cycle.transport)  # type: ignore[assignment] # it does what a cycle asks for
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._silent = True
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def shutdown(self) -> None:
        """The end of the server: a connection that owes nothing may have sent a request that is not read yet."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_after(self._body_timeout)

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self._is_read()
        super().resume_writing()

    def _begin(self) -> None:
        self._lines = 0
        self._bytes = 0
        self._chunks = 0

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._lines > MAX_HEADERS or self._bytes > MAX_HEADER_BYTES:
            self._raise("headers_too_large")

    def _check_host(self) -> None:
        """HTTP/1.0 has none; old probes of load balancers speak it."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts and self.parser.get_http_version() == "1.0":
            return
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            self._raise("bad_host")

    def _is_offer(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _raise(self, code: str) -> None:
        self._code = code
        raise RefusedError(code)

    def _await(self, seconds: float) -> None:
        self._received()
        self._receipt = self.loop.call_later(seconds, self._late, seconds)

    def _received(self) -> None:
        if self._receipt is not None:
            self._receipt.cancel()
            self._receipt = None

    def _abort_after(self, seconds: float) -> None:
        self._is_read()
        self._end = self.loop.call_later(seconds, self.transport.abort)

    def _is_read(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _late(self, seconds: float) -> None:
        if self.flow.read_paused:  # the client is held back by us: its own requests before, or a body that is not read
            self._await(seconds)
        elif self._silent:  # a browser that connects ahead would take an answer for that of its next request
            self._metrics.refused.labels("request_timeout").inc()
            self._close()
        else:
            self._refuse("request_timeout")

    def _refuse(self, code: str) -> None:
        """Answers, unless the connection owes an answer to an earlier request: then it closes after that one."""
        self._code = code
        self._metrics.refused.labels(code).inc()
        self._received()
        cycle = self.cycle
        in_body = cycle is not None and cycle.more_body
        request_id = self._tell_application(code) if in_body else self._tell(code)
        if cycle is not None and not in_body and not cycle.response_complete:
            cycle.keep_alive = False
            return
        if not self.pipeline and not (in_body and cycle.response_started):
            self.transport.write(_problem(code, request_id))
        if in_body:
            cycle.disconnected = True  # who reads the body is told that it ends
            cycle.message_event.set()
        self._close()

    def _tell(self, code: str) -> str:
        """The line and the count of what never was a request; the id that it gets."""
        told, status = Told(uuid.uuid4().hex, code=code), REFUSALS[code][0]
        self._metrics.requests.labels("other", "other", status).inc()
        log_request(told, None, None, status, self.loop.time() - self._since)
        return told.id

    def _tell_application(self, code: str) -> str:
        """A request whose body is awaited has its line already: it gets the status and the code. The request's id."""
        state = self.cycle.scope["state"]
        told = state.setdefault("told", Told(uuid.uuid4().hex))  # it waits behind others and has not begun
        state["refused"], told.code = REFUSALS[code][0], code
        return str(told.id)

    def _close(self) -> None:
        """What a client does not read is thrown away in the end."""
        if not self.transport.is_closing():
            self.transport.close()
            self._abort_after(CLOSE_SECONDS)


def edge(settings: Settings, metrics: Metrics) -> Callable[..., Edge]:
    """The protocol for uvicorn's `http`."""

    def connect(*others: Any, **options: Any) -> Edge:
        return Edge(*others, settings=settings, metrics=metrics, **options)

    return connect


def _problem(code: str, request_id: str) -> bytes:
    status, detail = REFUSALS[code]
    facts = {"title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail}
    body = json.dumps({"type": "about:blank", **facts, "request_id": request_id})
    headers = {"content-type": "application/problem+json", "content-length": len(body), "x-request-id": request_id}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[status] + f"{lines}connection: close\r\n\r\n{body}".encode("ascii")
