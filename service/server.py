"""uvicorn, with a shutdown that loses nothing."""

import asyncio
import os
import signal
from types import FrameType

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
            http=edge(settings, app.state.metrics.refused),  # type: ignore[arg-type] # anything that makes a protocol
            ws="none",
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=int(settings.drain_timeout),
        )
        super().__init__(config)
        self._app = app
        self._drain_delay = settings.drain_delay
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 the signature is uvicorn's
        if self._app.state.draining or self._loop is None:
            os._exit(128 + sig)  # threads may be deep in a decoder, which nothing gentler ends
        self._app.state.draining = True
        delay = self._drain_delay if sig == signal.SIGTERM else 0.0
        self._loop.call_soon_threadsafe(self._loop.call_later, delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True
