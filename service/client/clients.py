"""Clients of this server's HTTP API, typed, patient where patience helps (`exchange` has the rule).

`Client` waits for its answers and may be shared by threads; `AsyncClient` is the same for asyncio.
"""

import asyncio
import threading
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from service.client import exchange
from service.client.exchange import Again, Answer, Exchange, Options, Question
from service.client.received import (
    Geometry,
    ModelInfo,
    ModelSummary,
    Prediction,
)


class Client:
    """Of one server. Threads may share it; each call waits for its answer.

    Args:
        url: of the server, as http://127.0.0.1:8000.
        api_key: sent as `Authorization: Bearer`; None sends none.
        timeout: seconds without a byte after which an attempt is given up.
        connections: at most; threads beyond that wait for their turn.

    Every method raises ClientError when the server refuses, fails, or stays away; the constructor ValueError of a key
    that no header can hold.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0, connections: int = 8) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(**_settings(self.url, api_key, timeout, connections))
        # A thread that waits inside httpcore's full pool closes connections that others are about to use.
        self._turns = threading.Semaphore(connections)
        self._closed = threading.Event()
        self._under_way = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Also ends the pauses of threads that wait before they ask again; requests under way are left to finish."""
        self._closed.set()
        self._count(0)

    def models(self) -> list[ModelSummary]:
        """Every model and ensemble of the repository."""
        return self._ask(exchange.models()).root

    def model(self, name: str, version: int | str | None = None) -> ModelInfo:
        """The facts of a version, or of the one that answers when none is named."""
        return self._ask(exchange.model(name, version))

    def geometry(self, name: str, plan: str, size: tuple[int, int], version: int | str | None = None) -> Geometry:
        """Where a plan looks in an upright image of that width and height, in pixels; nothing is run."""
        return self._ask(exchange.geometry(name, plan, size, version))

    def classify(self, name: str, image: bytes, **options: Unpack[Options]) -> Prediction:
        """The answer for one encoded image."""
        return self._ask(exchange.classify(name, image, options))

    def _ask(self, question: Question[Answer]) -> Answer:
        request, talk = question.request(self._http), Exchange(self.url, question)
        while isinstance(answer := talk.hear(self._send(request)), Again):
            if self._closed.wait(answer.seconds):
                raise answer.problem
        return answer

    def _send(self, request: httpx.Request) -> httpx.Response | httpx.RequestError:
        with self._turns:
            if self._closed.is_set():
                return httpx.RequestError("this client was closed")
            self._count(1)
            try:
                return self._http.send(request)
            except httpx.RequestError as error:
                return error
            finally:
                self._count(-1)

    def _count(self, more: int) -> None:
        """The last one out closes: of a pool that is closed under a thread, a connection would be left open."""
        with self._lock:
            self._under_way += more
            if self._closed.is_set() and not self._under_way:
                self._http.close()


class AsyncClient:
    """Of one server, for asyncio; tasks may share it. Arguments and errors are those of `Client`.

    Tasks beyond `connections` wait for their turn.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0, connections: int = 8) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(**_settings(self.url, api_key, timeout, connections))
        self._turns = asyncio.Semaphore(connections)
        self._closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Also ends the pauses of tasks that wait before they ask again."""
        self._closed.set()
        await self._http.aclose()

    async def models(self) -> list[ModelSummary]:
        """See `Client.models`."""
        return (await self._ask(exchange.models())).root

    async def model(self, name: str, version: int | str | None = None) -> ModelInfo:
        """See `Client.model`."""
        return await self._ask(exchange.model(name, version))

    async def geometry(self, name: str, plan: str, size: tuple[int, int], version: int | str | None = None) -> Geometry:
        """See `Client.geometry`."""
        return await self._ask(exchange.geometry(name, plan, size, version))

    async def classify(self, name: str, image: bytes, **options: Unpack[Options]) -> Prediction:
        """See `Client.classify`."""
        return await self._ask(exchange.classify(name, image, options))

    async def _ask(self, question: Question[Answer]) -> Answer:
        request, talk = question.request(self._http), Exchange(self.url, question)
        while isinstance(answer := talk.hear(await self._send(request)), Again):
            if await self._closed_within(answer.seconds):
                raise answer.problem
        return answer

    async def _send(self, request: httpx.Request) -> httpx.Response | httpx.RequestError:
        try:
            async with self._turns:
                return await self._http.send(request)
        except httpx.RequestError as error:
            return error

    async def _closed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._closed.wait()
        except TimeoutError:
            return False


def _settings(url: str, api_key: str | None, timeout: float, connections: int) -> dict[str, Any]:
    """Of httpx's client, either kind."""
    return {
        "base_url": url,
        "headers": exchange.authorization(api_key),
        "timeout": timeout,
        "limits": httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
    }
