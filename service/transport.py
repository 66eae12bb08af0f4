"""What lies between uvicorn and a connection's transport: what is read of it, and how an answer is written to it."""

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

_INTERIM = b"HTTP/1.1 100 "


class Flow(FlowControl):
    """Reads nothing while requests wait for those before them.

    uvicorn reads on with every answer, thousands of small requests at a time: hundreds of megabytes on one connection.
    """

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class Answer:
    """What one answer writes: its head leaves with the first part of its body.

    uvicorn writes them one after the other: two system calls, and a client that wakes for a head and waits again.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        """Empty once it has left."""

    def write(self, data: bytes) -> None:
        if self._head is None and not data.startswith(_INTERIM):
            self._head = data
            return
        self._transport.write((self._head or b"") + data)
        if self._head:
            self._head = b""

    def close(self) -> None:
        if self._head:  # its body never came
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
