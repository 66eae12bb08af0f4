"""The catalogue of bad repositories, R01 to R10, against a server that has a good version of each model."""

import contextlib
import os
import re
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from damaged import CASES, write_weights
from fakes import write_colour_bundle
from live import encode, serve
from service.settings import Settings

RED = encode(Image.new("RGB", (8, 8), "red"))
SECONDS = 30.0
LEAK = re.compile(r"0x[0-9a-f]+|Traceback|/\w+/|\.py\b|ONNXRuntime", re.IGNORECASE)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server whose models have each got a bad version 2 while it ran."""
    repository, started_in = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("outer") / "cwd"
    started_in.mkdir()
    write_weights(started_in)
    for name in CASES:
        write_colour_bundle(repository, name)
    with contextlib.chdir(started_in), serve(Settings(repository=repository, port=0, admin=True)) as client:
        assert client.get("/readyz").status_code == 200
        for name, (make, _) in CASES.items():
            make(repository / name)
        # Some thirty children, one after the other, which give way to whatever else the machine does.
        told = client.post("/v1/repository/reload", timeout=600).json()["changes"]
        assert [(change["model"], change["version"], change["outcome"]) for change in told] == [
            (name, 2, "refused") for name in sorted(CASES)
        ]
        yield client


@pytest.mark.parametrize("name", CASES)
def test_a_bad_bundle_is_refused_with_the_reason_and_the_good_one_answers(client: httpx.Client, name: str) -> None:
    process = os.getpid()
    lines = {line["version"]: line for line in client.post("/v2/repository/index").json() if line["name"] == name}
    assert {version: line["state"] for version, line in lines.items()} == {"1": "READY", "2": "UNAVAILABLE"}
    reason = lines["2"]["reason"]
    assert CASES[name][1] in reason
    assert not LEAK.search(reason)
    answer = client.post(f"/v1/models/{name}:classify", content=RED).json()
    assert (answer["version"], answer["predictions"][0]["label"]) == (1, "red")
    answer = client.post(f"/v1/models/{name}:classify", content=RED, params={"version": "2"})
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert not LEAK.search(answer.json()["detail"])
    assert (client.get("/livez").status_code, os.getpid()) == (200, process)
