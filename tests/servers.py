"""The service as a process of its own."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen


class NotServingError(Exception):
    """No model of a server can answer, and why."""


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self) -> str:
        """As /readyz says; gone where nobody answers."""
        try:
            with urlopen(f"{self.url}/readyz") as found:  # noqa: S310 the address is ours
                return str(json.load(found)["status"])
        except HTTPError as error:
            return str(json.load(error)["status"])
        except OSError:
            return "gone"

    def ready(self) -> bool:
        return self.status() == "ready"

    def reasons(self) -> str:
        """Why versions do not serve."""
        with urlopen(f"{self.url}/v1/models") as found:  # noqa: S310 the address is ours
            versions = [version for model in json.load(found) for version in model["versions"]]
        return "; ".join(version["reason"] for version in versions if version["reason"])


@contextlib.contextmanager
def serving(repository: Path, *options: str) -> Iterator[Server]:
    """`multicrop-service run` on a free port, ready; killed in the end if it still runs.

    Raises:
        NotServingError: it will not be ready.
    """
    command = [sys.executable, "-m", "service", "run", "--repository", str(repository), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            port = next(int(known[1]) for line in lines if (known := re.search(r"http://127.0.0.1:(\d+)", line)))
            threading.Thread(target=lambda: list(lines), daemon=True).start()  # an unread pipe would hold it up
            server = Server(process, port)
            while (status := server.status()) == "loading":
                time.sleep(0.02)
            if status != "ready":
                raise NotServingError("the server ended" if status == "gone" else f"{status}: {server.reasons()}")
            yield server
        finally:
            process.kill()
