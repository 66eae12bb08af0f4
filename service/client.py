"""A client of this server's HTTP API: typed, synchronous, and patient where patience helps.

    429 or 503 with Retry-After -> asked again after that time, BUSY_TRIES times in all
    other 502, 503, 504, no connection, no answer -> asked again, BROKEN_TRIES times in all
    any other refusal or failure -> ClientError at once

All that is sent here may be sent twice: it changes nothing on the server.
"""

import threading
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, Field, ValidationError, model_validator

from bundle.aggregate import Average

BUSY_TRIES = 30
BROKEN_TRIES = 4
BROKEN_PAUSE = 0.5
"""Seconds before the second try; twice as many before each further one."""
MAX_PAUSE = 60.0
"""The longest `Retry-After` that is believed, in seconds."""

_BUSY, _BROKEN = {429, 503}, {502, 503, 504}

Answer = TypeVar("Answer", bound=BaseModel)


class ClientError(Exception):
    """The server refused, failed, or was not there.

    Args:
        status: of HTTP; None when no answer came.
        code: of the problem document; no_answer, or unexpected_answer of what is no Multicrop server.
        detail: what is wrong and what to do.
    """

    def __init__(self, status: int | None, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail


class ModelInfo(BaseModel):
    """What is read here of `GET /v1/models/NAME`."""

    name: str
    version: int | None = None
    """That answers when none is named; an ensemble has none."""
    labels: list[str] = Field(min_length=1)


class Score(BaseModel):
    index: int
    label: str
    probability: float


class Looks(BaseModel):
    """What a model looked at."""

    plan: str
    computed: int = Field(ge=1)
    """Views that were run."""
    gmacs: float = Field(ge=0)
    """10^9 multiply-adds of those."""
    average: Average = "probabilities"
    stop: str = "never"


class Member(BaseModel):
    """Of an ensemble."""

    model: str
    views: Looks | None = None
    """None: it failed and was left out."""


class Prediction(BaseModel):
    """What is read here of an answer."""

    model: str
    version: int | None = None
    views: Looks | None = None
    """None: an ensemble, whose members say what they looked at."""
    members: list[Member] = []
    predictions: list[Score] = Field(min_length=1)
    """The best first."""

    @model_validator(mode="after")
    def _looked_at_something(self) -> Self:
        if not self.looks:
            raise ValueError("neither views nor members with views")
        return self

    @property
    def looks(self) -> list[Looks]:
        """What was run: by the model, or by each member that answered."""
        asked = [member.views for member in self.members] or [self.views]
        return [views for views in asked if views]


class _Problem(BaseModel):
    code: str
    detail: str


class Client:
    """Of one server. Threads may share it; each call waits for its answer.

    Args:
        url: of the server, as http://127.0.0.1:8000.
        timeout: seconds without a byte after which an attempt is given up.
        connections: at most; threads beyond that wait for their turn.
    """

    def __init__(self, url: str, *, timeout: float = 60.0, connections: int = 8) -> None:
        self.url = url.rstrip("/")
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.Client(base_url=self.url, timeout=timeout, limits=limits)
        # A thread that waits inside httpcore's full pool closes connections that others are about to use.
        self._turns = threading.Semaphore(connections)
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Also ends the pauses of threads that wait before they ask again."""
        self._closed.set()
        self._http.close()

    def model(self, name: str, version: int | None = None) -> ModelInfo:
        """The facts of a version, or of the one that answers when none is named."""
        query: dict[str, str | int] = {} if version is None else {"version": version}
        return self._ask(ModelInfo, "GET", f"/v1/models/{quote(name, safe='')}", query)

    def classify(
        self,
        name: str,
        image: bytes,
        *,
        views: str | None = None,
        average: Average | None = None,
        stop: str | None = None,
        top_k: int | None = None,
        version: int | None = None,
    ) -> Prediction:
        """The answer for one encoded image; what is left out is the server's choice."""
        options = {"views": views, "average": average, "stop": stop, "top_k": top_k, "version": version}
        given = {option: value for option, value in options.items() if value is not None}
        return self._ask(Prediction, "POST", f"/v1/models/{quote(name, safe='')}:classify", given, image)

    def _ask(
        self,
        kind: type[Answer],
        method: str,
        path: str,
        query: dict[str, str | int] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Asks until there is an answer, or reason to give up.

        Raises:
            ClientError: the last one.
        """
        request = self._http.build_request(method, path, params=query, content=body)
        busy = broken = 0
        while True:
            answer = self._try(request)
            if isinstance(answer, httpx.Response) and answer.is_success:
                return self._read(kind, answer)
            problem = answer if isinstance(answer, ClientError) else self._refusal(answer)
            if isinstance(answer, httpx.Response) and answer.status_code in _BUSY and "retry-after" in answer.headers:
                busy, pause = busy + 1, _seconds(answer.headers["retry-after"])
            elif problem.status is None or problem.status in _BROKEN:
                broken, pause = broken + 1, BROKEN_PAUSE * 2**broken
            else:
                raise problem
            if busy >= BUSY_TRIES or broken >= BROKEN_TRIES or self._closed.wait(pause):
                raise problem

    def _try(self, request: httpx.Request) -> httpx.Response | ClientError:
        try:
            with self._turns:
                return self._http.send(request)
        except httpx.TransportError as error:
            said = str(error) or type(error).__name__
            return ClientError(None, "no_answer", f"no answer from {self.url} ({said}); is a server running there?")

    def _read(self, kind: type[Answer], answer: httpx.Response) -> Answer:
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            raise self._unexpected(answer) from error

    def _refusal(self, answer: httpx.Response) -> ClientError:
        try:
            problem = _Problem.model_validate_json(answer.content)
        except ValidationError:
            return self._unexpected(answer)
        return ClientError(answer.status_code, problem.code, problem.detail)

    def _unexpected(self, answer: httpx.Response) -> ClientError:
        path = answer.request.url.path
        return ClientError(
            answer.status_code,
            "unexpected_answer",
            f"{self.url} answers {path} with status {answer.status_code}, but not as a Multicrop server does; is this"
            " its address?",
        )


def _seconds(retry_after: str) -> float:
    """1 of what is no whole number: a date is of another clock."""
    return min(float(retry_after), MAX_PAUSE) if retry_after.isascii() and retry_after.isdecimal() else 1.0
