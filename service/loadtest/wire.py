"""Requests on kept connections, as cheaply as Python can: what generates load must not be what is measured.

httpx takes more than a millisecond of a core for each request, these a fifteenth of that (docs/benchmarks.md).
"""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass

import httpx
from httptools import HttpParserError, HttpResponseParser

from service.client.exchange import Answer, Question

GIVE_UP = 60.0
"""Seconds after which a request is not waited for any more."""
IDLE = 2.0
"""Seconds after which a connection that was not used is not trusted: the server may be closing it just now."""


class NoAnswerError(Exception):
    """The connection could not be made, broke, or said nothing in time; the message is a code."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._waiting: asyncio.Future[Reply] | None = None
        self._body = bytearray()
        self.reusable = False
        self.since = 0.0
        """When it was last used."""

    async def ask(self, request: bytes) -> Reply:
        """Raises NoAnswerError."""
        assert self._transport is not None  # noqa: S101 connections are made by `Wire` alone
        self._waiting = asyncio.get_running_loop().create_future()
        self.reusable = False
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 create_connection's
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio's signature
        self.reusable = False
        self._fail("connection_lost")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._fail("no_http")
            self.close()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.reusable = self._parser.should_keep_alive()
        reply, self._body = Reply(status, bytes(self._body)), bytearray()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(reply)

    def _fail(self, code: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(NoAnswerError(code))


class Wire:
    """Connections to one server, as many as are needed at once.

    Args:
        url: of the server; https is verified as httpx does.
    """

    def __init__(self, url: httpx.URL) -> None:
        self._place = url.host, url.port or (443 if url.scheme == "https" else 80)
        self._name = url.host
        self._tls: ssl.SSLContext | None = httpx.create_ssl_context() if url.scheme == "https" else None
        self._idle: list[Connection] = []
        self._resolved = False

    async def ask(self, request: bytes) -> Reply:
        """Raises NoAnswerError."""
        connection = self._kept()
        try:
            async with asyncio.timeout(GIVE_UP):
                if connection is None:
                    connection = await self._connect()
                reply = await connection.ask(request)
        except TimeoutError:
            raise NoAnswerError("no_answer") from None
        except OSError as error:
            raise NoAnswerError("no_connection") from error
        finally:
            self._keep(connection)
        return reply

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _kept(self) -> Connection | None:
        """The one used last, so that those beyond the need grow old."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and now - connection.since < IDLE:
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection | None) -> None:
        if connection is None:
            return
        if connection.reusable:
            connection.since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> Connection:
        """The name is looked up once: thousands of look-ups would be measured too."""
        loop = asyncio.get_running_loop()
        name = self._name if self._tls else None
        transport, connection = await loop.create_connection(
            Connection, *self._place, ssl=self._tls, server_hostname=name
        )
        if not self._resolved:
            self._place = transport.get_extra_info("peername")[:2]
            self._resolved = True
        return connection


def encode(http: httpx.Client, question: Question[Answer]) -> bytes:
    """A request as it goes over the connection, with the headers of the client."""
    request = question.request(http)
    lines = [f"{request.method} ".encode() + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw if name.lower() != b"accept-encoding"]
    return b"\r\n".join([*lines, b"", request.content])


def raise_file_limit(wanted: int) -> int:
    """Connections that may be open at once, at most `wanted`: each is an open file."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 Windows has none

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted + 256
        if soft != resource.RLIM_INFINITY and soft < most:
            soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - 256))
    return wanted
