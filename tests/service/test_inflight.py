"""What bodies count for while they are held."""

import gzip
import json
from pathlib import Path

import httpx

from fakes import write_colour_bundle
from live import serve
from service.settings import Settings

ROWS = 40
TENSOR = {"name": "images", "shape": [ROWS, 8, 8, 3], "datatype": "UINT8", "data": [0] * ROWS * 192}


def ask(client: httpx.Client, body: bytes) -> httpx.Response:
    packed = {"Content-Encoding": "gzip"}
    return client.post("/v2/models/colours/infer", content=gzip.compress(body), headers=packed)


def test_a_packed_body_counts_as_what_it_is_unpacked(tmp_path: Path) -> None:
    """23 KB of zeros are a few hundred bytes on the way, and held whole."""
    write_colour_bundle(tmp_path)
    body = json.dumps({"inputs": [TENSOR]}).encode()
    assert len(gzip.compress(body)) < len(body) / 20
    with serve(Settings(repository=tmp_path, port=0, max_bytes_in_flight=len(body))) as client:
        assert ask(client, body).status_code == 200
        answer = ask(client, body + b" ")
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["Retry-After"] == "1"
        assert "multicrop_bytes_in_flight 0.0" in client.get("/metrics").text
