"""Requests of the Open Inference Protocol that nobody means well with: T01 to T17 of the catalogue, and bodies."""

import gzip
import hashlib
import json
import resource
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from fakes import FakeBackend, write_colour_bundle
from live import encode, serve
from service import model
from service.api.v2_codec import MAX_JSON_BYTES
from service.engine.entry import Pixels, Scores
from service.settings import Settings

INFER = "/v2/models/colours/infer"
PIXELS = bytes(192)


@pytest.fixture(scope="module")
def small(repository: Path) -> Iterator[httpx.Client]:
    """Of a server with small limits."""
    with serve(Settings(repository=repository, port=0, max_body_bytes=1 << 20, max_image_bytes=1 << 20)) as client:
        yield client


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "images", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [0] * 192, **changes}


def binary(size: object = 192, **changes: Any) -> dict[str, Any]:
    plain = {key: value for key, value in tensor(**changes).items() if key != "data"}
    return {**plain, "parameters": {"binary_data_size": size}}


def send(client: httpx.Client, request: object, behind: bytes = b"", **headers: str) -> httpx.Response:
    text = request if isinstance(request, bytes) else json.dumps(request).encode()
    if behind:
        headers = {"Inference_Header_Content_Length": str(len(text)), **headers}
    return client.post(INFER, content=text + behind, headers={key.replace("_", "-"): headers[key] for key in headers})


def refused(client: httpx.Client, answer: httpx.Response, status: int = 400, code: str | None = None) -> None:
    """With our words in both forms; and the server answers the next request."""
    said = answer.json()
    assert answer.status_code == status, answer.text
    assert code is None or said["code"] == code
    assert said["error"] == said["detail"]
    assert len(answer.content) < 4096
    assert "0x" not in answer.text
    assert "Traceback" not in answer.text
    assert client.get("/v2/health/live").status_code == 200
    assert send(client, {"inputs": [tensor()]}).status_code == 200


@pytest.mark.parametrize("count", [0, 1, 191, 193, 384])
def test_t01_more_or_fewer_values_than_the_shape_has(small: httpx.Client, count: int) -> None:
    refused(small, send(small, {"inputs": [tensor(data=[0] * count)]}), 400, "tensor_size_mismatch")
    if count:
        refused(small, send(small, {"inputs": [binary(count)]}, bytes(count)), 400, "tensor_size_mismatch")
        raw = small.post(INFER, content=bytes(count), headers={"Inference-Header-Content-Length": "0"})
        refused(small, raw, 400, "tensor_size_mismatch")


@pytest.mark.parametrize("datatype", ["INT8", "FP32", "uint8", "", "BYTES", 8, None])
def test_t02_another_datatype(small: httpx.Client, datatype: object) -> None:
    refused(small, send(small, {"inputs": [tensor(datatype=datatype)]}))


@pytest.mark.parametrize(
    "shape", [[], [192], [8, 8, 3], [1, 1, 8, 8, 3], [1, 3, 8, 8], [1, 8, 9, 3], [1, 8, 8, 1], [1] * 17]
)
def test_t03_another_rank_or_size(small: httpx.Client, shape: list[int]) -> None:
    refused(small, send(small, {"inputs": [tensor(shape=shape)]}))


@pytest.mark.parametrize("dim", [-1, 0, True, 1.0, 1.5, "1", None, [1]])
def test_t04_dimensions_that_are_none(small: httpx.Client, dim: object) -> None:
    refused(small, send(small, {"inputs": [tensor(shape=[dim, 8, 8, 3])]}))


@pytest.mark.parametrize(
    "shape", [[16, 2**60 + 2, 8, 3], [2**31, 2**31, 8, 3], [10**4000, 8, 8, 3], [1, -8, -8, 3], [2**64, 8, 8, 3]]
)
def test_t05_a_product_that_overflows_allocates_nothing(small: httpx.Client, shape: list[int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(small, send(small, {"inputs": [tensor(shape=shape)]}))
    refused(small, send(small, {"inputs": [binary(shape=shape)]}, PIXELS))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB"


def test_t06_too_many_rows(small: httpx.Client) -> None:
    refused(small, send(small, {"inputs": [binary(65 * 192, shape=[65, 8, 8, 3])]}, bytes(65 * 192)))
    assert send(small, {"inputs": [binary(64 * 192, shape=[64, 8, 8, 3])]}, bytes(64 * 192)).status_code == 200


@pytest.mark.parametrize(
    "inputs", [None, [], {}, [None], [tensor(name="image")], [tensor(), tensor()], [tensor(), tensor(name="more")]]
)
def test_t07_missing_extra_or_repeated_inputs(small: httpx.Client, inputs: object) -> None:
    refused(small, send(small, {"inputs": inputs}))
    refused(small, send(small, {}))


def test_t07_two_inputs_one_of_them_in_json(small: httpx.Client) -> None:
    refused(small, send(small, {"inputs": [tensor(), binary(name="other")]}, PIXELS), 400, "tensor_invalid")


@pytest.mark.parametrize(
    "names", [["nothing"], ["logits", "logits"], [f"output{number}" for number in range(1000)], [""], [None]]
)
def test_t08_unknown_repeated_or_many_outputs(small: httpx.Client, names: list[Any]) -> None:
    refused(small, send(small, {"inputs": [tensor()], "outputs": [{"name": name} for name in names]}))


@pytest.mark.parametrize("length", ["-1", "99999999999", "x", "", "1e1", "5 5", "+5", "٣", "9" * 5000, "193", "0x10"])
def test_t10_a_header_length_that_is_none(small: httpx.Client, length: str) -> None:
    headers = [(b"Inference-Header-Content-Length", length.encode())]
    answer = small.post(INFER, content=PIXELS, headers=headers)
    refused(small, answer)


@pytest.mark.parametrize("size", [0, 1, 191, 193, 2**63, 2**70, -1, 1.5, "192", True, None])
def test_t11_a_binary_data_size_that_lies(small: httpx.Client, size: object) -> None:
    refused(small, send(small, {"inputs": [binary(size)]}, PIXELS))


def test_t11_bytes_that_belong_to_nothing(small: httpx.Client) -> None:
    refused(small, send(small, {"inputs": [tensor()]}, b"x"), 400, "tensor_size_mismatch")
    both = {**tensor(), "parameters": {"binary_data_size": 192}}
    refused(small, send(small, {"inputs": [both]}, PIXELS), 400, "tensor_invalid")


@pytest.mark.parametrize(
    "data",
    [
        [[[[0] * 3] * 8] * 7 + [[[0] * 3] * 7]],
        [[[[0] * 3] * 8] * 7],
        [[0] * 96, [0] * 96],
        [[0] * 192],
        [0] * 191 + ["0"],
        [0] * 191 + [256],
        [0] * 191 + [-1],
        [0] * 191 + [0.5],
        [0] * 191 + [True],
        [0] * 191 + [None],
        [0] * 191 + [[0]],
        [0] * 191 + [1e40],
        [0] * 191 + [10**30],
        "A" * 192,
        {"0": 0},
    ],
)
def test_t12_data_that_are_ragged_or_no_bytes(small: httpx.Client, data: object) -> None:
    refused(small, send(small, {"inputs": [tensor(data=data)]}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_t09_what_is_no_number(small: httpx.Client, number: str) -> None:
    text = json.dumps({"inputs": [tensor()]}).replace("[0,", f"[{number},", 1)
    refused(small, send(small, text.encode()))


def test_t13_shared_memory(small: httpx.Client) -> None:
    region = {"shared_memory_region": "input", "shared_memory_byte_size": 192}
    wish = {key: value for key, value in tensor().items() if key != "data"}
    refused(small, send(small, {"inputs": [{**wish, "parameters": region}]}), 501, "not_implemented")
    outputs = [{"name": "logits", "parameters": region}]
    refused(small, send(small, {"inputs": [tensor()], "outputs": outputs}), 501, "not_implemented")


@pytest.mark.parametrize("name", ["i" * (1 << 19), 7, ["a"], "\ud800"])
def test_t14_ids(small: httpx.Client, name: object) -> None:
    refused(small, send(small, {"id": name, "inputs": [tensor()]}), 400, "request_invalid")


@pytest.mark.parametrize(
    "parameters",
    [
        [],
        "x",
        {"priority": "1"},
        {"priority": -1},
        {"priority": 4},
        {"priority": 1.5},
        {"priority": 10**30},
        {"timeout": -1},
        {"timeout": "1"},
        {"timeout": True},
        {"binary_data_output": 1},
        {"binary_data_output": "true"},
    ],
)
def test_t16_parameters_of_the_wrong_type(small: httpx.Client, parameters: object) -> None:
    refused(small, send(small, {"inputs": [tensor()], "parameters": parameters}), 400, "request_invalid")


@pytest.mark.parametrize(
    "parameters", [[], {"binary_data": 1}, {"classification": -1}, {"classification": "2"}, {"classification": True}]
)
def test_t16_parameters_of_an_output(small: httpx.Client, parameters: object) -> None:
    outputs = [{"name": "logits", "parameters": parameters}]
    refused(small, send(small, {"inputs": [tensor()], "outputs": outputs}), 400, "request_invalid")


def test_parameters_of_others_are_passed_over(small: httpx.Client) -> None:
    more = {"parameters": {"mine": [1, {"a": None}], "timeout": 10**400, "sequence_id": 0}, "more": 1}
    assert send(small, {"inputs": [tensor(more=1)], **more}).status_code == 200


def test_t17_a_network_that_answers_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers well while it is loaded."""

    class Broken(FakeBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            scores: Scores = (10 * images.mean((1, 2)) / 255).astype(np.float32)
            scores[images[:, 0, 0, 0] == 77] = np.nan
            return scores

    monkeypatch.setattr(model, "open_backend", lambda *_: Broken())
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0)) as client:
        refused(client, send(client, {"inputs": [tensor(data=[77] * 192)]}), 500, "model_output_invalid")
        image = encode(Image.new("RGB", (8, 8), (77, 77, 77)))
        for query in ("", "?views=flips&stop=exact", "?format=labels"):
            answer = client.post(f"/v1/models/colours:classify{query}", content=image)
            assert (answer.status_code, answer.json()["code"]) == (500, "model_output_invalid")
        statistics = client.get("/v2/models/colours/stats").json()["model_stats"][0]["inference_stats"]
        assert (statistics["success"]["count"], statistics["fail"]["count"]) == (1, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'{"inputs": []} x',
        b'\xef\xbb\xbf{"inputs": []}',
        '{"inputs": []}'.encode("utf-16"),
        b'{"inputs": "\xff"}',
        b'{"inputs": [], "inputs": []}',
        b'{"inputs": [' + b"9" * 5000 + b"]}",
        b"[" * 250_000 + b"]" * 250_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
    ids=range(13),
)
def test_bodies_that_are_no_request(small: httpx.Client, body: bytes) -> None:
    refused(small, send(small, body), 400, "request_invalid")


def test_what_was_sent_is_not_repeated(small: httpx.Client) -> None:
    secret = "s3cret" * 100
    wrong = [
        {"inputs": [tensor(datatype=secret)]},
        {"inputs": [tensor(shape=secret)]},
        {"inputs": [tensor(data=[secret])]},
        {"inputs": [tensor(name=secret[:200])]},
        {"inputs": [tensor()], "outputs": [{"name": secret[:200]}]},
        {"inputs": [tensor()], "parameters": {"priority": secret}},
    ]
    for request in wrong:
        answer = send(small, request)
        refused(small, answer)
        assert secret[:40] not in answer.text


def test_bodies_over_the_cap(small: httpx.Client) -> None:
    refused(small, send(small, b"x" * ((1 << 20) + 1)), 413, "body_too_large")
    bomb = gzip.compress(bytes(1 << 26))
    assert len(bomb) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(small, send(small, bomb, Content_Encoding="gzip"), 413, "body_too_large")
    refused(small, send(small, zlib.compress(bytes(1 << 26)), Content_Encoding="deflate"), 413, "body_too_large")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10, "KiB"


def test_json_over_its_cap(client: httpx.Client) -> None:
    refused(client, send(client, b" " * (MAX_JSON_BYTES + 1)), 413, "body_too_large")


WHOLE = gzip.compress(json.dumps({"inputs": [tensor()]}).encode())


@pytest.mark.parametrize(
    "body",
    [b"x", b"", WHOLE[:-3], WHOLE + b"x", WHOLE + gzip.compress(b" ")],
    ids=["garbage", "empty", "cut", "more", "two members"],
)
def test_packed_bodies_that_are_not_whole(small: httpx.Client, body: bytes) -> None:
    refused(small, send(small, body, Content_Encoding="gzip"), 400, "request_invalid")


def test_a_packed_body_that_is_whole(small: httpx.Client) -> None:
    assert send(small, WHOLE, Content_Encoding="gzip").status_code == 200


@pytest.mark.parametrize(
    "more", ['"id": "a", "id": "b"', '"more": NaN', '"more": Infinity', '"more": {"a": 1, "a": 1}']
)
def test_json_that_others_would_take(small: httpx.Client, more: str) -> None:
    text = json.dumps({"inputs": [tensor()]})
    refused(small, send(small, f"{text[:-1]}, {more}}}".encode()), 400, "request_invalid")


def test_other_encodings(small: httpx.Client) -> None:
    refused(small, send(small, b"{}", Content_Encoding="br"), 415, "media_type_unsupported")
    refused(small, send(small, b"{}", Content_Encoding="gzip, gzip"), 415, "media_type_unsupported")


@pytest.mark.parametrize(
    ("size", "behind"),
    [
        (0, b""),
        (3, b"\0\0\0"),
        (4, b"\xff\xff\xff\xff"),
        (5, b"\0\0\0\0x"),
        (8, b"\2\0\0\0abcd"),
        (8, b"\0\0\0\0\0\0\0\0"),
        (4000, bytes(4000)),
    ],
)
def test_elements_that_do_not_fit(small: httpx.Client, size: int, behind: bytes) -> None:
    wish = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [wish]}).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    refused(small, small.post("/v2/models/colours-center/infer", content=text + behind, headers=length))


@pytest.mark.parametrize("data", [[], [7], ["%"], ["QQ"], ["QQ==", "QQ=="], [["QQ=="]], ["ä"]])
def test_images_in_json_that_are_none(small: httpx.Client, data: list[Any]) -> None:
    wish = {"name": "image", "shape": [1], "datatype": "BYTES", "data": data}
    refused(small, small.post("/v2/models/colours-center/infer", content=json.dumps({"inputs": [wish]}).encode()))


def test_an_image_that_is_empty_or_too_large(small: httpx.Client) -> None:
    path, raw = "/v2/models/colours-center/infer", {"Inference-Header-Content-Length": "0"}
    refused(small, small.post(path, content=b"", headers=raw), 422, "image_empty")
    refused(small, small.post(path, content=bytes(2 << 20), headers=raw), 413, "body_too_large")


@pytest.mark.parametrize(
    "name", ["colours-", "-center", "colours-eleven", "colours-center-center", "%00", "a" * 5000, "ä", "colours%2f1"]
)
def test_names_that_are_none(small: httpx.Client, name: str) -> None:
    for path in ("", "/ready", "/config", "/stats", "/versions/1"):
        refused(small, small.get(f"/v2/models/{name}{path}"), 404)


@pytest.mark.parametrize("version", ["0", "2", "-1", "1.0", "latest", "9" * 30, "٣", "%201"])
def test_versions_that_are_none(small: httpx.Client, version: str) -> None:
    refused(small, small.get(f"/v2/models/colours/versions/{version}"), 404, "model_not_found")


def test_keys_and_quotas_hold_here_too(repository: Path, tmp_path: Path) -> None:
    """A row of a tensor is a view: 64 of them leave a key of 0.1 views a second in debt for minutes."""
    key = hashlib.sha256(b"a-long-enough-key").hexdigest()
    path = tmp_path / "keys.toml"
    path.write_text(f'[[keys]]\nname = "a"\nsha256 = "{key}"\nscopes = ["infer"]\nviews_per_second = 0.1\n')
    bearer = {"Authorization": "Bearer a-long-enough-key"}
    with serve(Settings(repository=repository, port=0, keys=path)) as client:
        nobody = client.get("/v2/models/colours")
        assert (nobody.status_code, nobody.json()["error"]) == (401, nobody.json()["detail"])
        codes = [
            send(client, {"inputs": [binary(64 * 192, shape=[64, 8, 8, 3])]}, bytes(64 * 192), **bearer).status_code
            for _ in range(3)
        ]
        assert codes == [200, 429, 429]
        assert client.post("/v2/repository/models/colours/load", headers=bearer).status_code == 403
