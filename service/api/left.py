"""Clients that do not wait for their answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

Result = TypeVar("Result")


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of the work; None when the client leaves first: the work is cancelled, its views leave the queue.

    The work is done by the caller's own task: another one would cost a turn of the event loop before it and after it.
    The body of the request has to be read already.
    """
    worker = asyncio.current_task()
    assert worker is not None  # noqa: S101 for the type checker; a coroutine runs in one
    cancelled = done = False

    def leave(watch: "asyncio.Task[None]") -> None:
        nonlocal cancelled
        if not (done or watch.cancelled()):
            cancelled = worker.cancel()

    left = asyncio.ensure_future(_left(request))
    left.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if not cancelled or worker.uncancel():  # somebody else ends the task
            raise
        return None
    finally:
        done = True
        left.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
