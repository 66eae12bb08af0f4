"""uvicorn, with a shutdown that loses nothing."""

import asyncio
import contextlib
import gc
import math
import os
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.edge import edge
from service.settings import Settings


class Server(uvicorn.Server):
    """On SIGTERM: not ready at once, listening a little longer, then the requests in flight, then exit status 0.

    SIGINT skips the delay: a person at a terminal is no load balancer. A second signal ends everything now.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            http=edge(settings, app.state.metrics),  # type: ignore[arg-type] # anything that makes a protocol
            ws="none",
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
        )
        super().__init__(config)
        self._app = app
        self._drain_delay = settings.drain_delay
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self._loop = asyncio.get_running_loop()
        gc.freeze()  # modules stay: the collector would walk them again and again, 1 ms of each request
        await super().startup(sockets)  # type: ignore[arg-type]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Who has connected is answered, also those whose connection nobody has taken from the system yet."""
        copies = [socket.socket(fileno=os.dup(found.fileno())) for server in self.servers for found in server.sockets]
        for server in self.servers:
            server.close()
        waiting = [connection for copy in copies for connection in _accept_all(copy)]
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes one for a connection."""
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        return made

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 the signature is uvicorn's
        if self._app.state.draining or self._loop is None:
            os._exit(128 + sig)  # threads may be deep in a decoder, which nothing gentler ends
        self._app.state.draining = True
        delay = self._drain_delay if sig == signal.SIGTERM else 0.0
        self._loop.call_soon_threadsafe(self._loop.call_later, delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def _accept_all(listening: socket.socket) -> list[socket.socket]:
    """The connections that the system holds for a socket, which then listens no more."""
    found = []
    listening.setblocking(False)
    with listening, contextlib.suppress(OSError):  # BlockingIOError: there is no other
        while True:
            found.append(listening.accept()[0])
    return found
