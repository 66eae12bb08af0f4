"""A real server in this process, and files to send to it."""

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator

import httpx
from PIL import Image

from service.app import create_app
from service.server import Server
from service.settings import Settings


@contextlib.contextmanager
def serve(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a server that runs in a thread and has loaded its models."""
    server = Server(create_app(settings), settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while client.get("/readyz").json()["status"] == "loading":
                time.sleep(0.01)
            yield client
    finally:
        server.should_exit = True
        thread.join()


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Until it is true; fails when it has not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
