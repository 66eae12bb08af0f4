"""Every command of the guide, run in its order in an empty folder."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundle.store import open_bundle, versions

ROOT = Path(__file__).parents[1]
BASH = shutil.which("bash") or "/bin/bash"
GUIDE = ROOT / "docs/from-checkpoint-to-answer.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def commands_of_this_checkout(folder: Path) -> dict[str, str]:
    """An environment in which the installed commands are those of this checkout."""
    folder.mkdir()
    for name, arguments in {"multicrop-export": "-m export", "multicrop-service": "-m service", "python": ""}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@contextmanager
def ended(servers: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
    finally:
        for server in servers:
            end(server)


def end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)
    server.wait()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_of_the_guide_works(tmp_path: Path) -> None:
    environment = commands_of_this_checkout(tmp_path / "bin")
    folder, port = tmp_path / "work", str(free_port())
    folder.mkdir()
    servers: list[subprocess.Popen[bytes]] = []
    said = []
    with ended(servers):
        for block in BLOCKS:
            if block.startswith("multicrop-service"):
                for server in servers:  # the reader ends the one before with Ctrl-C
                    end(server)
                command = [*shlex.split(block), "--port", port]
                servers[:] = [subprocess.Popen(command, cwd=folder, env=environment)]
                continue
            script = "set -euo pipefail\n" + block.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            done = subprocess.run(
                [BASH, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            said.append(done.stdout)
    answers = [json.loads(line) for line in re.findall(r'\{"model": ?.*?"request_id": ?"[^"]*"\}', "\n".join(said))]
    assert [answer["model"] for answer in answers] == ["pets", "mine", "pets"]
    assert answers[0]["views"]["planned"] == 10
    assert all(score["label"] in ("cat", "dog", "rabbit") for answer in answers for score in answer["predictions"])
    assert [answer["version"] for answer in answers] == [1, 2, 2]
    models = folder / "models"
    assert versions(models, "pets") == versions(models, "mine") == [1, 2]
    pets, mine = open_bundle(models, "pets", 2).manifest, open_bundle(models, "mine", 1).manifest
    assert (pets.input.resize, pets.input.interpolation, pets.parity.images) == (40, "bicubic", 1)
    assert (mine.folding.layers, mine.input.channels, mine.source.name) == (3, 1, "mine.pth")


def test_the_guide_is_found_from_the_readme() -> None:
    assert f"docs/{GUIDE.name}" in (ROOT / "README.md").read_text()


def test_every_option_of_freeze_that_changes_images_is_in_the_guide() -> None:
    text = GUIDE.read_text()
    for option in ("resize", "crop", "interpolation", "channels", "scale", "mean", "std"):
        assert f"| `--{option} " in text
