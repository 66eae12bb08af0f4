"""One question to the server until it is answered or given up: a state machine, without sending or waiting.

    429 or 503 with Retry-After -> asked again after that time, BUSY_TRIES times in all
    408, other 502, 503, 504, no connection, no answer -> asked again, BROKEN_TRIES times in all
    any other refusal or failure -> ClientError at once

All that is asked here may be asked twice: it changes nothing on the server.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from bundle.aggregate import Average
from service.client.received import Geometry, ModelInfo, ModelList, Prediction, Problem
from service.work import Merge

BUSY_TRIES = 30
BROKEN_TRIES = 4
BROKEN_PAUSE = 0.5
"""Seconds before the second try; twice as many before each further one."""
MAX_PAUSE = 60.0
"""The longest `Retry-After` that is believed, in seconds."""

_BUSY, _BROKEN = {429, 503}, {408, 502, 503, 504}

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


class Options(TypedDict, total=False):
    """Of a classification, as docs/api.md explains them; what is left out, or None, is the server's choice."""

    views: str | None
    average: Average | None
    stop: str | None
    merge: Merge | None
    detail: Literal["views"] | None
    top_k: int | None
    version: int | str | None
    """A number, or an alias of the operator's."""
    timeout_ms: int | None
    priority: int | None


@dataclass(frozen=True)
class Question(Generic[Answer]):
    kind: type[Answer]
    """Of the answer."""
    method: str
    path: str
    query: Mapping[str, object]
    """None stands for what is left out."""
    body: bytes | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        given = {name: str(value) for name, value in self.query.items() if value is not None}
        return http.build_request(self.method, self.path, params=given, content=self.body)


def authorization(api_key: str | None) -> dict[str, str]:
    """The header of a key.

    Raises:
        ValueError: it cannot stand in a header; httpx would tell the key when it says so.
    """
    if api_key is None:
        return {}
    if not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
        raise ValueError("the API key is empty, or has other characters than printable ASCII; copy it again")
    return {"Authorization": f"Bearer {api_key}"}


def models() -> Question[ModelList]:
    return Question(ModelList, "GET", "/v1/models", {})


def model(name: str, version: int | str | None) -> Question[ModelInfo]:
    return Question(ModelInfo, "GET", _path(name), {"version": version})


def geometry(name: str, plan: str, size: tuple[int, int], version: int | str | None) -> Question[Geometry]:
    query = {"width": size[0], "height": size[1], "version": version}
    return Question(Geometry, "GET", f"{_path(name)}/views/{quote(plan, safe='')}", query)


def classify(name: str, image: bytes, options: Options) -> Question[Prediction]:
    return Question(Prediction, "POST", f"{_path(name)}:classify", options, image)


def _path(name: str) -> str:
    return f"/v1/models/{quote(name, safe='')}"


@dataclass(frozen=True)
class Again:
    """Ask again after a pause."""

    seconds: float
    problem: ClientError
    """Why; to be raised by a caller who does not want to wait."""


class Exchange(Generic[Answer]):
    """Of one question with the server at `url`."""

    def __init__(self, url: str, question: Question[Answer]) -> None:
        self._url = url
        self._kind = question.kind
        self._busy = self._broken = 0

    def hear(self, heard: httpx.Response | httpx.RequestError) -> Answer | Again:
        """What to make of the last try.

        Raises:
            ClientError: there is no point in asking again.
        """
        if isinstance(heard, httpx.RequestError):
            return self._again(self._no_answer(heard), None)
        if heard.is_success:
            return self._read(heard)
        return self._again(self._refusal(heard), heard.headers.get("retry-after"))

    def _again(self, problem: ClientError, retry_after: str | None) -> Again:
        if problem.status in _BUSY and retry_after is not None:
            self._busy += 1
            pause = _seconds(retry_after)
        elif problem.status is None or problem.status in _BROKEN:
            pause = BROKEN_PAUSE * 2**self._broken
            self._broken += 1
        else:
            raise problem
        if self._busy >= BUSY_TRIES or self._broken >= BROKEN_TRIES:
            raise problem
        return Again(pause, problem)

    def _no_answer(self, error: httpx.RequestError) -> ClientError:
        said = str(error) or type(error).__name__
        return ClientError(None, "no_answer", f"no answer from {self._url} ({said}); is a server running there?")

    def _read(self, answer: httpx.Response) -> Answer:
        try:
            return self._kind.model_validate_json(answer.content)
        except ValidationError as error:
            raise self._unexpected(answer) from error

    def _refusal(self, answer: httpx.Response) -> ClientError:
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValidationError:
            return self._unexpected(answer)
        return ClientError(answer.status_code, problem.code, problem.detail)

    def _unexpected(self, answer: httpx.Response) -> ClientError:
        path = answer.request.url.path
        return ClientError(
            answer.status_code,
            "unexpected_answer",
            f"{self._url} answers {path} with status {answer.status_code}, but not as a Multicrop server does; is this"
            " its address?",
        )


def _seconds(retry_after: str) -> float:
    """1 of what is no whole number: a date is of another clock."""
    return min(float(retry_after), MAX_PAUSE) if retry_after.isascii() and retry_after.isdecimal() else 1.0
