"""The Open Inference Protocol through tritonclient itself, and through plain HTTP for what that cannot say."""

import asyncio
import base64
import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from PIL import Image
from tritonclient.utils import InferenceServerException

from fakes import FakeBackend, write_colour_bundle
from live import encode, serve, wait_for
from service import model
from service.engine.entry import Pixels, Scores
from service.settings import Settings

Plain = Callable[..., bytes]
RAW = {"Inference-Header-Content-Length": "0"}
ROWS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
LOGITS = 10 * ROWS.mean((1, 2)) / 255
"""What the colour bundle says of ROWS, worked out here."""
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


def host(client: httpx.Client) -> str:
    return str(client.base_url).removeprefix("http://").rstrip("/")


@pytest.fixture
def remote(client: httpx.Client) -> Iterator[Any]:
    with triton.InferenceServerClient(host(client)) as remote:
        yield remote


def images(rows: np.ndarray[Any, Any] = ROWS, *, binary: bool = True) -> Any:
    tensor = triton.InferInput("images", list(rows.shape), "UINT8")
    return tensor.set_data_from_numpy(rows, binary_data=binary)


def image(content: bytes) -> Any:
    tensor = triton.InferInput("image", [1], "BYTES")
    return tensor.set_data_from_numpy(np.array([content], dtype=np.object_))


def infer(client: httpx.Client, request: object, name: str = "colours", **options: Any) -> httpx.Response:
    """JSON alone, without any content type."""
    return client.post(f"/v2/models/{name}/infer", content=json.dumps(request).encode(), **options)


def wish(**more: Any) -> dict[str, Any]:
    tensor = {"name": "images", "shape": [3, 8, 8, 3], "datatype": "UINT8", "data": ROWS.ravel().tolist()}
    return {"inputs": [tensor], **more}


def values(answer: httpx.Response, name: str) -> Any:
    assert answer.status_code == 200, answer.text
    found = next(output for output in answer.json()["outputs"] if output["name"] == name)
    return np.reshape(found["data"], found["shape"])


def test_health_and_metadata(remote: Any) -> None:
    assert remote.is_server_live()
    assert remote.is_server_ready()
    assert remote.is_model_ready("colours")
    assert remote.is_model_ready("colours", "1")
    assert remote.is_model_ready("colours-ten_crop")
    assert not remote.is_model_ready("colours", "2")
    assert not remote.is_model_ready("colours-nothing")
    assert remote.get_server_metadata()["name"] == "multicrop"
    assert remote.get_model_metadata("colours") == {
        "name": "colours",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    plan = remote.get_model_metadata("colours-ten_crop", "1")
    assert plan["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [1]}]
    assert plan["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [3]}]


def test_config_is_what_perf_analyzer_reads(remote: Any) -> None:
    config = remote.get_model_config("colours")
    assert config["max_batch_size"] > 0
    assert config["input"] == [{"name": "images", "data_type": "TYPE_UINT8", "dims": [8, 8, 3]}]
    assert [(output["name"], output["dims"]) for output in config["output"]] == [
        ("logits", [3]),
        ("probabilities", [3]),
    ]
    assert "dynamic_batching" in config
    plan = remote.get_model_config("colours-center")
    assert (plan["max_batch_size"], plan["input"][0]["dims"], plan["input"][0]["data_type"]) == (0, [1], "TYPE_STRING")


def test_only_what_is_done_is_listed(remote: Any, client: httpx.Client) -> None:
    extensions = remote.get_server_metadata()["extensions"]
    assert {"binary_tensor_data", "classification", "statistics", "schedule_policy"} <= set(extensions)
    assert not [name for name in extensions if "shared_memory" in name or name in ("trace", "logging", "sequence")]
    for ask in (remote.get_system_shared_memory_status, remote.get_trace_settings, remote.get_log_settings):
        with pytest.raises(InferenceServerException) as refused:
            ask()
        assert refused.value.status() == "501"
    assert client.post("/v2/cudasharedmemory/region/a/register", content=b"{}").status_code == 501


def test_every_route_is_in_the_openapi_page(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer", "/v2/logging"} <= paths.keys()


def test_binary_in_binary_out(remote: Any) -> None:
    found = remote.infer("colours", [images()], request_id="a b/ç")
    assert np.allclose(found.as_numpy("logits"), LOGITS, atol=1e-5)
    assert np.allclose(found.as_numpy("probabilities"), PROBABILITIES, atol=1e-6)
    assert found.as_numpy("logits").dtype == np.float32
    said = found.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("colours", "1", "a b/ç")
    assert [output["parameters"] for output in said["outputs"]] == [{"binary_data_size": 36}] * 2


@pytest.mark.parametrize("data", [ROWS.ravel().tolist(), ROWS.tolist()], ids=["flat", "nested"])
def test_json_in_json_out(client: httpx.Client, data: list[Any]) -> None:
    answer = infer(client, {"inputs": [{"name": "images", "shape": [3, 8, 8, 3], "datatype": "UINT8", "data": data}]})
    assert np.allclose(values(answer, "logits"), LOGITS, atol=1e-5)
    assert np.allclose(values(answer, "probabilities"), PROBABILITIES, atol=1e-6)
    assert "Inference-Header-Content-Length" not in answer.headers
    assert "id" not in answer.json()


def test_json_in_one_output_binary_the_other_not(remote: Any) -> None:
    outputs = [
        triton.InferRequestedOutput("probabilities", binary_data=False),
        triton.InferRequestedOutput("logits", binary_data=True),
    ]
    found = remote.infer("colours", [images(binary=False)], outputs=outputs)
    assert [output["name"] for output in found.get_response()["outputs"]] == ["probabilities", "logits"]
    assert np.allclose(found.as_numpy("logits"), LOGITS, atol=1e-5)
    assert np.allclose(found.as_numpy("probabilities"), PROBABILITIES, atol=1e-6)


def test_an_output_overrules_binary_data_output(client: httpx.Client) -> None:
    outputs = [{"name": "probabilities"}, {"name": "logits", "parameters": {"binary_data": False}}]
    answer = infer(client, wish(parameters={"binary_data_output": True}, outputs=outputs))
    length = int(answer.headers["Inference-Header-Content-Length"])
    first, second = json.loads(answer.content[:length])["outputs"]
    assert first["parameters"] == {"binary_data_size": 36}
    assert "data" not in first
    assert np.allclose(np.frombuffer(answer.content[length:], "<f4").reshape(3, 3), PROBABILITIES, atol=1e-6)
    assert "parameters" not in second
    assert np.allclose(second["data"], LOGITS.ravel(), atol=1e-5)


def test_a_header_length_of_the_whole_body_is_json_too(client: httpx.Client) -> None:
    """The C++ client always sends it, and an id, even an empty one."""
    content = json.dumps(wish(id="")).encode()
    length = {"Inference-Header-Content-Length": str(len(content))}
    answer = client.post("/v2/models/colours/infer", content=content, headers=length)
    assert np.allclose(values(answer, "logits"), LOGITS, atol=1e-5)
    assert answer.json()["id"] == ""


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_packed_bodies(remote: Any, algorithm: str) -> None:
    found = remote.infer(
        "colours",
        [images()],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert np.allclose(found.as_numpy("logits"), LOGITS, atol=1e-5)


def test_a_raw_image_is_a_request(client: httpx.Client, plain: Plain) -> None:
    answer = client.post("/v2/models/colours-center/infer", content=plain("blue", (20, 10), "JPEG"), headers=RAW)
    length = int(answer.headers["Inference-Header-Content-Length"])
    output = json.loads(answer.content[:length])["outputs"][0]
    assert output == {
        "name": "probabilities", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}
    }  # fmt: skip
    assert np.frombuffer(answer.content[length:], "<f4").argmax() == 2


def test_a_raw_row_is_a_batch_of_one(client: httpx.Client) -> None:
    answer = client.post("/v2/models/colours/infer", content=ROWS[1].tobytes(), headers=RAW)
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert [output["shape"] for output in json.loads(answer.content[:length])["outputs"]] == [[1, 3], [1, 3]]
    assert np.allclose(np.frombuffer(answer.content[length:][:12], "<f4"), LOGITS[1], atol=1e-5)


def test_an_image_is_answered_as_on_v1(remote: Any, client: httpx.Client) -> None:
    """16 x 8, left half red, right half blue: what a plan says is the plan's own mean."""
    halves = Image.new("RGB", (16, 8), "red")
    halves.paste("blue", (8, 0, 16, 8))
    file = encode(halves)
    for plan in ("center", "ten_crop", "five_crop"):
        one = remote.infer(f"colours-{plan}", [image(file)]).as_numpy("probabilities")
        two = client.post("/v1/models/colours:classify", content=file, params={"views": plan}).json()["predictions"]
        assert one.shape == (3,)
        assert np.allclose([one[score["index"]] for score in two], [score["probability"] for score in two], atol=1e-6)
    centre = np.exp([5.0, 0, 5]) / np.exp([5.0, 0, 5]).sum()
    assert np.allclose(remote.infer("colours-center", [image(file)]).as_numpy("probabilities"), centre, atol=1e-5)


def test_an_image_in_json_is_base64(client: httpx.Client) -> None:
    text = base64.b64encode(encode(Image.new("RGB", (8, 8), "green"))).decode()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    answer = infer(client, {"inputs": [tensor]}, "colours-center")
    assert values(answer, "probabilities").argmax() == 1


def test_classification_is_as_triton_writes_it(remote: Any) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=2), triton.InferRequestedOutput("logits")]
    found = remote.infer("colours", [images()], outputs=outputs)
    classes = found.as_numpy("probabilities")
    assert classes.shape == (3, 2)
    for row, expected in zip(classes, PROBABILITIES, strict=True):
        value, index, label = row[0].decode().split(":")
        assert int(index) == expected.argmax()
        assert label == ("red", "green", "blue")[int(index)]
        assert float(value) == pytest.approx(expected.max(), abs=1e-5)
        assert float(row[1].decode().split(":")[0]) <= float(value)
    assert found.as_numpy("logits").shape == (3, 3)


def test_classification_of_an_image_in_json(client: httpx.Client, plain: Plain) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=False, class_count=99)]
    with triton.InferenceServerClient(host(client)) as remote:
        found = remote.infer("colours-center", [image(plain("red"))], outputs=outputs).get_output("probabilities")
    assert (found["shape"], found["datatype"]) == ([3], "BYTES")
    assert found["data"][0].split(":")[1:] == ["0", "red"]


def test_the_index(remote: Any, client: httpx.Client) -> None:
    line = {"name": "colours", "version": "1", "state": "READY", "reason": ""}
    assert remote.get_model_repository_index() == [line]
    assert client.post("/v2/repository/index", content=b'{"ready": true}').json() == [line]
    assert client.post("/v2/repository/index", content=b'{"ready": 1}').status_code == 400


def test_load_and_unload_are_off_by_default(remote: Any) -> None:
    for ask in (remote.load_model, remote.unload_model):
        with pytest.raises(InferenceServerException, match="--admin") as refused:
            ask("colours")
        assert refused.value.status() == "501"


def test_load_and_unload(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    with (
        serve(Settings(repository=tmp_path, port=0, admin=True)) as client,
        triton.InferenceServerClient(host(client)) as remote,
    ):
        remote.unload_model("colours")
        assert not remote.is_model_ready("colours")
        assert [line["state"] for line in remote.get_model_repository_index()] == ["UNAVAILABLE"]
        assert client.post("/v2/repository/index", content=b'{"ready": true}').json() == []
        remote.load_model("colours")
        assert np.allclose(remote.infer("colours", [images()]).as_numpy("logits"), LOGITS, atol=1e-5)
        with pytest.raises(InferenceServerException) as unknown:
            remote.load_model("nothing")
        assert unknown.value.status() == "404"
        with pytest.raises(InferenceServerException) as sent:
            remote.load_model("colours", config="{}")
        assert sent.value.status() == "501"


def test_errors_are_read_by_the_client_and_by_ours(remote: Any, client: httpx.Client) -> None:
    with pytest.raises(InferenceServerException, match="there is no model 'nothing'") as unknown:
        remote.infer("nothing", [images()])
    assert unknown.value.status() == "404"
    answer = client.get("/v2/models/nothing")
    assert answer.json()["error"] == answer.json()["detail"]
    assert answer.json()["code"] == "model_not_found"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert "error" not in client.get("/v1/models/nothing").json()
    for path, status in (("/v2/nothing", 404), ("/v2/models/colours/versions/x", 404), ("/v2/models/a/infer", 405)):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (status, answer.json()["detail"])
    with pytest.raises(InferenceServerException, match="8, 8, 3") as wrong:
        remote.infer("colours", [images(np.zeros((1, 9, 8, 3), np.uint8))])
    assert wrong.value.status() == "400"
    with pytest.raises(InferenceServerException) as bad:
        remote.infer("colours-center", [image(b"no image")])
    assert bad.value.status() == "415"


def test_asyncio(client: httpx.Client, plain: Plain) -> None:
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(host(client)) as remote:
            assert await remote.is_server_ready()
            assert (await remote.get_model_metadata("colours"))["versions"] == ["1"]
            assert (await remote.get_model_config("colours"))["max_batch_size"] > 0
            assert (await remote.get_model_repository_index())[0]["name"] == "colours"
            assert (await remote.get_inference_statistics("colours"))["model_stats"]
            with pytest.raises(InferenceServerException) as unknown:
                await remote.get_model_metadata("nothing")
            assert unknown.value.status() == "404"
            packed = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
            return list(
                await asyncio.gather(
                    *(remote.infer("colours", [images()], request_id=str(number)) for number in range(20)),
                    remote.infer("colours", [images()], request_id="20", **packed),
                    remote.infer("colours-ten_crop", [image(plain("green"))], request_id="21"),
                )
            )

    found = asyncio.run(ask())
    assert [answer.get_response()["id"] for answer in found] == [str(number) for number in range(22)]
    assert all(np.allclose(answer.as_numpy("logits"), LOGITS, atol=1e-5) for answer in found[:21])
    assert found[21].as_numpy("probabilities").argmax() == 1


def test_a_dense_network_takes_larger_tensors(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path, dynamic=True, macs=1_000_000)
    rows = np.random.default_rng(1).integers(0, 256, (2, 10, 12, 3)).astype(np.uint8)
    limits = Settings(repository=tmp_path, port=0, max_gmacs=0.05)
    with serve(limits) as client, triton.InferenceServerClient(host(client)) as remote:
        assert remote.get_model_metadata("colours")["inputs"][0]["shape"] == [-1, -1, -1, 3]
        found = remote.infer("colours", [images(rows)]).as_numpy("logits")
        assert np.allclose(found, 10 * rows.mean((1, 2)) / 255, atol=1e-5)
        for shape, code in (((1, 7, 8, 3), "tensor_invalid"), ((1, 64, 64, 3), "work_limit")):
            answer = client.post(
                "/v2/models/colours/infer",
                content=json.dumps(
                    {"inputs": [{"name": "images", "shape": shape, "datatype": "UINT8", "data": [0]}]}
                ).encode(),
            )
            assert answer.json()["code"] == code


def test_an_ensemble_takes_images(tmp_path: Path, plain: Plain) -> None:
    write_colour_bundle(tmp_path, "one", scale=2.0)
    write_colour_bundle(tmp_path, "two", scale=4.0)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "ensemble.toml").write_text('members = [{model = "one"}, {model = "two"}]\n')
    means = [np.exp([scale, 0, 0]) / np.exp([scale, 0, 0]).sum() for scale in (2.0, 4.0)]
    with (
        serve(Settings(repository=tmp_path, port=0)) as client,
        triton.InferenceServerClient(host(client)) as remote,
    ):
        for name in ("both", "both-ten_crop"):
            assert remote.get_model_metadata(name)["versions"] == ["1"]
            found = remote.infer(name, [image(plain("red"))], model_version="1").as_numpy("probabilities")
            assert np.allclose(found, np.mean(means, axis=0), atol=1e-6)
        assert not remote.is_model_ready("both", "2")


def test_a_model_called_like_another_ones_plan_is_refused(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path, "a")
    write_colour_bundle(tmp_path, "a-center")
    write_colour_bundle(tmp_path, "a-large")
    with (
        serve(Settings(repository=tmp_path, port=0)) as client,
        triton.InferenceServerClient(host(client)) as remote,
    ):
        states = {line["name"]: line for line in remote.get_model_repository_index()}
        assert {name: line["state"] for name, line in states.items()} == {
            "a": "READY",
            "a-center": "UNAVAILABLE",
            "a-large": "READY",
        }
        assert "the plan center of the model a" in states["a-center"]["reason"]
        assert remote.get_model_metadata("a-large")["inputs"][0]["name"] == "images"


class Shut(FakeBackend):
    """Waits for the test; `batches` are those that were let go."""

    def __init__(self) -> None:
        super().__init__(max_batch_size=1)
        self.seen: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        if not self.open.is_set():
            self.entered.release()
            assert self.open.wait(10)
        self.batches.append(len(images))
        self.seen += images[:, 0, 0, 0].tolist()
        scores: Scores = (10 * images.mean((1, 2)) / 255).astype(np.float32)
        return scores


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shut]:
    backend = Shut()
    monkeypatch.setattr(model, "open_backend", lambda *_: backend)
    yield backend
    backend.open.set()


def wait_for_views(client: httpx.Client, views: int) -> None:
    wait_for(lambda: f'multicrop_queue_views{{model="colours"}} {views}.0' in client.get("/metrics").text)


def test_a_full_queue_is_503_and_an_expired_deadline_504(tmp_path: Path, shut: Shut) -> None:
    write_colour_bundle(tmp_path)
    one = [images(ROWS[:1])]
    with (
        serve(Settings(repository=tmp_path, port=0, max_queue_size=2)) as client,
        ThreadPoolExecutor(4) as pool,
        triton.InferenceServerClient(host(client)) as remote,
    ):
        shut.open.clear()
        request = {"inputs": [{**wish()["inputs"][0], "shape": [1, 8, 8, 3], "data": ROWS[0].ravel().tolist()}]}
        first = pool.submit(infer, client, request)
        assert shut.entered.acquire(timeout=10)
        with pytest.raises(InferenceServerException) as late:
            remote.infer("colours", one, timeout=50_000)
        assert late.value.status() == "504"
        waiting = [pool.submit(infer, client, request) for _ in range(2)]
        wait_for_views(client, 2)
        with pytest.raises(InferenceServerException) as full:
            remote.infer("colours", one)
        assert full.value.status() == "503"
        shut.batches.clear()
        shut.open.set()
        assert [answer.result().status_code for answer in (first, *waiting)] == [200] * 3
        assert shut.batches == [1, 1, 1], "what was refused or late is never run"


def test_the_first_priority_runs_first(tmp_path: Path, shut: Shut) -> None:
    write_colour_bundle(tmp_path)

    def ask(client: httpx.Client, priority: int) -> None:
        """The pixels say what it is."""
        tensor = {"name": "images", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [priority] * 192}
        assert infer(client, {"inputs": [tensor], "parameters": {"priority": priority}}).status_code == 200

    with serve(Settings(repository=tmp_path, port=0)) as client, ThreadPoolExecutor(5) as pool:
        shut.seen.clear()
        shut.open.clear()
        first = pool.submit(ask, client, 0)
        assert shut.entered.acquire(timeout=10)
        asked = []
        for waiting, priority in enumerate((3, 2, 1), 1):
            asked.append(pool.submit(ask, client, priority))
            wait_for_views(client, waiting)
        shut.open.set()
        for answer in (first, *asked):
            answer.result()
    assert shut.seen == [0, 1, 2, 3]


def test_a_client_that_leaves_while_it_waits_is_not_run(tmp_path: Path, shut: Shut) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0)) as client, ThreadPoolExecutor(2) as pool:
        shut.open.clear()
        first = pool.submit(infer, client, wish())
        assert shut.entered.acquire(timeout=10)
        with pytest.raises(httpx.ReadTimeout):
            infer(client, wish(), timeout=0.5)
        wait_for(lambda: 'reason="cancelled"} 3.0' in client.get("/metrics").text.replace('model="colours",', ""))
        shut.batches.clear()
        shut.open.set()
        assert first.result().status_code == 200
        assert shut.batches == [1, 1, 1]
        stats = client.get("/v2/models/colours/stats").json()["model_stats"][0]["inference_stats"]
        assert (stats["success"]["count"], stats["fail"]["count"]) == (1, 1)


def test_packed_bodies_by_hand(client: httpx.Client) -> None:
    """The header counts the JSON as it was before packing."""
    text = json.dumps({"inputs": [{**wish()["inputs"][0], "data": None, "parameters": {"binary_data_size": 576}}]})
    for pack, encoding in ((gzip.compress, "gzip"), (zlib.compress, "deflate")):
        headers = {"Content-Encoding": encoding, "Inference-Header-Content-Length": str(len(text))}
        answer = client.post("/v2/models/colours/infer", content=pack(text.encode() + ROWS.tobytes()), headers=headers)
        assert np.allclose(values(answer, "logits"), LOGITS, atol=1e-5)
