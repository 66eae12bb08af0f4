"""Admission by the bytes of request bodies: images and tensors are held in memory until they are answered."""

from prometheus_client import Gauge
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import refuse
from service.errors import QueueFullError

RETRY_SECONDS = 1.0


class BytesInFlight:
    """Pure ASGI, inside `RequestContext`: refuses a body that does not fit beside those that are held.

    A body counts from its header on with what it announces, one that announces nothing with what has arrived, and
    until its request is answered, however that ends. How much it is when it is unpacked `request.state.hold` is told.

    Args:
        app: what is behind it.
        most: bytes of all requests together.
        gauge: shows what is held.
    """

    def __init__(self, app: ASGIApp, most: int, gauge: Gauge) -> None:
        self._app = app
        self._most = most
        self._gauge = gauge
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = self._announced(scope)
        if announced > self._most - self._held:
            await refuse(Request(scope), self._full())(scope, receive, send)
            return
        held, arrived = announced, 0

        async def counted() -> Message:
            nonlocal held, arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            hold(arrived)
            return message

        def hold(size: int) -> None:
            """At least so many bytes from now on; raises QueueFullError when they do not fit."""
            nonlocal held
            if size > held:
                if size - held > self._most - self._held:
                    raise self._full()
                self._hold(size - held)
                held = size

        scope["state"]["hold"] = hold
        self._hold(held)
        try:
            await self._app(scope, counted, send)
        finally:
            self._hold(-held)

    def _announced(self, scope: Scope) -> int:
        """0 of what is larger than everything: its route says how large a body may be, before it reads it."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        return size if size <= self._most else 0

    def _hold(self, size: int) -> None:
        self._held += size
        self._gauge.set(self._held)

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"the bodies of other requests hold {self._held} bytes, all together may hold {self._most};"
            " try again later, or send fewer at once",
            RETRY_SECONDS,
        )
