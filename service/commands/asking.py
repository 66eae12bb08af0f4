"""What the commands that ask a running server for many images have in common."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, SecretStr

from bundle.aggregate import Average
from bundle.stop import StopOption
from service.client import Client, ClientError
from service.client.exchange import authorization

Item = TypeVar("Item")
Result = TypeVar("Result")

_OF_THE_IMAGE = {413, 415}
"""Statuses that say something of the image alone; of the others a code does."""


def _stop(text: str) -> str:
    StopOption.parse(text)
    return text


def _key(key: SecretStr | None) -> SecretStr | None:
    authorization(_text(key))
    return key


def _text(key: SecretStr | None) -> str | None:
    return None if key is None else key.get_secret_value()


def from_environment() -> SecretStr | None:
    key = os.environ.get("MULTICROP_API_KEY")
    return None if key is None else SecretStr(key)


class ServerJob(BaseModel):
    """Which server is asked, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    url: HttpUrl = HttpUrl("http://127.0.0.1:8000")
    """of the server"""
    api_key: Annotated[SecretStr | None, AfterValidator(_key)] = Field(default_factory=from_environment)
    """of the server, where it wants one; better in the environment, as MULTICROP_API_KEY: others see command lines"""
    model: str
    """of the server: a model or an ensemble"""
    average: Average | None = None
    """over the views; the model's own choice when left out"""
    stop: Annotated[str, AfterValidator(_stop)] | None = None
    """early exit: never, exact, confident, confident:0.9; the model's own choice when left out"""
    concurrency: int = Field(default=8, ge=1, le=256)
    """requests under way at a time"""
    version: str | None = Field(default=None, min_length=1)
    """of the model: a number or an alias of the operator's; the newest that serves when left out"""

    @property
    def key(self) -> str | None:
        return _text(self.api_key)

    def client(self) -> Client:
        return Client(str(self.url), api_key=self.key, connections=self.concurrency)


def of_the_image(error: ClientError) -> bool:
    """Whether another image might be answered: it is too large, damaged, or too much work with this plan."""
    return error.status in _OF_THE_IMAGE or error.code.startswith("image_") or error.code == "work_limit"


def named(error: ClientError, image: str) -> ClientError:
    """The same, with the image that it was met at."""
    return ClientError(error.status, error.code, f"{image}: {error.detail}")


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """That ask; leaving it drops what is not under way."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="ask")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_order(pool: Executor, ask: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """The results in the order of the items; at most `ahead` are begun and not yet taken."""
    left = iter(items)
    window = deque(pool.submit(ask, item) for item in islice(left, ahead))
    while window:
        result = window.popleft().result()
        window.extend(pool.submit(ask, item) for item in islice(left, 1))
        yield result
