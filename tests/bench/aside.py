"""Work in another process."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Self, TypeVar

Result = TypeVar("Result")


class Aside:
    """A process of its own for whatever must not share this one's interpreter, memory or libraries."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def __call__(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return self._pool.submit(work, *arguments).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
