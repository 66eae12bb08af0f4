"""The service as a process of its own."""

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/readyz") as found:  # noqa: S310 the address is ours
                return bool(found.status == HTTPStatus.OK)
        except (HTTPError, OSError):
            return False


@contextlib.contextmanager
def serving(repository: Path, *options: str) -> Iterator[Server]:
    """`multicrop-service run` on a free port, ready; killed in the end if it still runs."""
    command = [sys.executable, "-m", "service", "run", "--repository", str(repository), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            port = next(int(known[1]) for line in lines if (known := re.search(r"http://127.0.0.1:(\d+)", line)))
            threading.Thread(target=lambda: list(lines), daemon=True).start()  # an unread pipe would hold it up
            server = Server(process, port)
            while not server.ready():
                time.sleep(0.02)
            yield server
        finally:
            process.kill()
