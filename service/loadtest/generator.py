"""The two ways to send: an open loop, whose requests come when they are due, and a closed one, whose clients wait.

An open loop measures from when a request was due. What a stalled server keeps waiting is counted in full, also those
requests that came during the stall: leaving them out is known as coordinated omission.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import count

from service.loadtest.sample import Sample, Told

MOST_CONNECTIONS = 4096
"""Requests under way at once in an open loop; more wait, and the generator counts as late."""

Ask = Callable[[int], Awaitable[Told]]
"""Sends the request of that number, from 0, and waits for what comes."""


async def open_loop(ask: Ask, due: Iterable[float], samples: list[Sample], most: int = MOST_CONNECTIONS) -> None:
    """Ends when everything was answered.

    Args:
        ask: for one.
        due: seconds from now, ascending.
        samples: added to, in the order of the answers.
        most: under way at once.
    """
    loop = asyncio.get_running_loop()
    start, turns = loop.time(), asyncio.Semaphore(most)

    async def one(number: int, at: float) -> None:
        async with turns:
            late = loop.time() - start - at
            told = await ask(number)
        samples.append(Sample(at, late, loop.time() - start - at, told))

    async with asyncio.TaskGroup() as group:
        for number, at in enumerate(due):
            await asyncio.sleep(max(0.0, start + at - loop.time()))  # of 0 lets others work
            group.create_task(one(number, float(at)))


async def closed_loop(ask: Ask, clients: int, seconds: float, samples: list[Sample]) -> None:
    """Each client sends the next request when it has the answer to the last; none begins after `seconds`."""
    loop, numbers = asyncio.get_running_loop(), count()
    start = loop.time()

    async def client() -> None:
        while (at := loop.time() - start) < seconds:
            told = await ask(next(numbers))
            samples.append(Sample(at, 0.0, loop.time() - start - at, told))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
