"""The process: its command line, its environment, and how it ends."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from pydantic_settings import CliApp

from fakes import write_colour_bundle
from live import encode, wait_for
from service.__main__ import main
from service.commands.command import Command
from service.settings import Settings

PHOTO = encode(Image.linear_gradient("L").resize((4000, 3000)).convert("RGB"))
"""12 megapixels of a PNG, which take long to decode: a JPEG would be decoded at an eighth."""
"""A small file that takes long to decode."""


@contextlib.contextmanager
def process(repository: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A ready server process and its address."""
    started = subprocess.Popen(
        [sys.executable, "-m", "service", "run", "--repository", str(repository), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert started.stderr is not None
    try:
        lines = iter(started.stderr.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://[\d.:]+", line)))
        reader = threading.Thread(target=lambda: list(lines))  # an unread pipe would block the server
        reader.start()
        while httpx.get(f"{address}/readyz").status_code != 200:
            time.sleep(0.01)
        yield started, address
    finally:
        started.kill()
        started.wait()
        reader.join()
        started.stderr.close()


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_colour_bundle(folder)
    return folder


def test_sigterm_loses_no_request_that_was_accepted(colours: Path) -> None:
    with process(colours, MULTICROP_DRAIN_DELAY="5") as (server, address), httpx.Client(base_url=address) as client:
        connections = [http.client.HTTPConnection(address.removeprefix("http://")) for _ in range(20)]
        for connection in connections:
            connection.request("POST", "/v1/models/colours:classify", PHOTO)
        signalled = time.monotonic()
        server.send_signal(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            time.sleep(0.001)
        assert client.get("/livez").headers["Connection"] == "close"
        assert [connection.getresponse().status for connection in connections] == [200] * 20
        assert server.wait(20) == 0
        assert time.monotonic() - signalled >= 5
        for connection in connections:
            connection.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/livez")


def test_sigint_does_not_wait_for_load_balancers(colours: Path) -> None:
    with process(colours, MULTICROP_DRAIN_DELAY="60") as (server, _):
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0


def test_a_second_signal_ends_the_drain(colours: Path) -> None:
    with process(colours, MULTICROP_DRAIN_DELAY="60") as (server, address):
        server.send_signal(signal.SIGTERM)
        while httpx.get(f"{address}/readyz").status_code == 200:
            time.sleep(0.001)
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 128 + signal.SIGTERM


def metric(address: str, pattern: str) -> float:
    found = re.search(rf"{pattern} ([\d.]+)", httpx.get(f"{address}/metrics").text)
    return float(found[1]) if found else 0.0


def test_views_of_a_client_that_left_are_dropped(colours: Path) -> None:
    """More work than can be done, and a client that hangs up: the queue empties without it."""
    with process(colours) as (_, address):
        url = f"{address}/v1/models/colours:classify"
        request = httpx.Request("POST", url, files=[("images", ("a.png", PHOTO))] * 60)
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        connection.request("POST", request.url.path, request.read(), dict(request.headers))
        wait_for(lambda: metric(address, r"queue_views{.*}") > 0)
        connection.close()
        wait_for(lambda: metric(address, r'dropped_views_total{.*"cancelled"}') > 0)
        wait_for(lambda: metric(address, r'requests_total{method="POST",.*status="499"}') == 1)
        assert httpx.post(url, content=PHOTO).status_code == 200


def test_a_client_that_leaves_while_sending_is_not_our_error(colours: Path) -> None:
    with process(colours) as (_, address):
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        connection.putrequest("POST", "/v1/models/colours:classify")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"not all of it")
        connection.close()
        wait_for(lambda: metric(address, r'requests_total{method="POST",.*status="499"}') == 1)
        assert metric(address, r'requests_total{.*status="500"}') == 0


def test_other_environment_variables_set_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("run", '{"host": "0.0.0.0"}')
    command = CliApp.run(Command, cli_args=["run", "--repository", str(tmp_path)])
    assert command.run is not None
    assert command.run.host == "127.0.0.1"


def test_every_setting_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTICROP_PORT", "1234")
    monkeypatch.setenv("MULTICROP_PROVIDER", "cpu")
    assert (Settings().port, Settings().provider) == (1234, "cpu")
    assert Settings(port=5).port == 5


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "--repository", "/nowhere/at/all"], "no repository /nowhere/at/all"),
        (["run", "--port", "70000"], "port: Input should be less than or equal to 65535"),
        (["run", "--provider", "tpu"], "provider"),
        ([], "multicrop-service run"),
    ],
    ids=["repository", "port", "provider", "nothing"],
)
def test_a_wrong_command_line_is_named_and_ends_with_2(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(argv)
    except SystemExit as exit_:
        status = int(str(exit_.code))
    assert status == 2
    assert said in capsys.readouterr().err
