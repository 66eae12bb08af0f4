"""The statistics extension: what perf_analyzer subtracts from what it read before."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from fakes import FakeBackend, write_colour_bundle
from live import serve
from service.settings import Settings
from service.statistics import CountedBackend, Duration, Stages, Statistics, total

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[httpx.Client]:
    """A server that was asked nothing so far, with two versions of a model."""
    write_colour_bundle(tmp_path)
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0)) as client:
        yield client


@pytest.fixture
def remote(served: httpx.Client) -> Iterator[Any]:
    with triton.InferenceServerClient(str(served.base_url).removeprefix("http://").rstrip("/")) as remote:
        yield remote


def rows(count: int, size: int = 8) -> Any:
    array = np.zeros((count, size, size, 3), np.uint8)
    return [triton.InferInput("images", list(array.shape), "UINT8").set_data_from_numpy(array)]


def of(remote: Any, name: str, version: str = "") -> dict[str, Any]:
    """Of the version, or of the newest."""
    found: dict[str, Any] = remote.get_inference_statistics(name, version)["model_stats"][-1]
    return found


def test_three_requests(remote: Any) -> None:
    assert of(remote, "colours")["inference_stats"]["success"] == {"count": 0, "ns": 0}
    for _ in range(3):
        remote.infer("colours", rows(2))
    said = of(remote, "colours")
    stages = said["inference_stats"]
    assert (said["version"], said["inference_count"]) == ("2", 6)
    assert stages["success"]["count"] == 3
    assert [stages[stage]["count"] for stage in STAGES] == [3] * 4
    assert stages["fail"] == stages["cache_hit"] == stages["cache_miss"] == {"count": 0, "ns": 0}
    assert 0 < sum(stages[stage]["ns"] for stage in STAGES) <= stages["success"]["ns"]
    assert stages["compute_infer"]["ns"] > 0
    assert 3 <= said["execution_count"] <= 6, "a request of two rows is one or two batches"
    views = sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in said["batch_stats"])
    assert views == 6
    assert sum(batch["compute_infer"]["count"] for batch in said["batch_stats"]) == said["execution_count"]
    assert said["last_inference"] > 1_600_000_000_000


def test_versions_and_names_are_counted_apart(remote: Any, served: httpx.Client) -> None:
    remote.infer("colours", rows(1), model_version="1")
    said = remote.get_inference_statistics("colours")["model_stats"]
    assert [(line["version"], line["inference_count"]) for line in said] == [("1", 1), ("2", 0)]
    assert of(remote, "colours", "1")["inference_count"] == 1
    assert of(remote, "colours-center", "1")["inference_count"] == 0
    names = {line["name"] for line in remote.get_inference_statistics()["model_stats"]}
    assert names == {"colours"}
    served.post("/v2/models/colours-center/infer", content=b"x", headers={"Inference-Header-Content-Length": "0"})
    lines = remote.get_inference_statistics()["model_stats"]
    assert [(line["name"], line["version"]) for line in lines] == [
        ("colours", "1"),
        ("colours", "2"),
        ("colours-center", "1"),
        ("colours-center", "2"),
    ]
    assert [line["inference_stats"]["fail"]["count"] for line in lines] == [0, 0, 0, 1]


def test_the_calls_of_perf_analyzer(served: httpx.Client) -> None:
    """In its order and with its bytes (its C++ client), and what it needs of each answer."""
    model = served.get("/v2/models/colours").json()
    config = served.get("/v2/models/colours/config").json()
    assert config["max_batch_size"] >= 8
    assert {tensor["name"] for tensor in config["input"]} <= {tensor["name"] for tensor in model["inputs"]}
    assert {tensor["name"] for tensor in config["output"]} <= {tensor["name"] for tensor in model["outputs"]}
    assert "statistics" in served.get("/v2").json()["extensions"]
    before = served.get("/v2/models/colours/stats").json()["model_stats"]
    wish = {"name": "images", "datatype": "UINT8", "shape": [8, 8, 8, 3], "parameters": {"binary_data_size": 1536}}
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("logits", "probabilities")]
    for number in range(4):
        text = json.dumps({"id": str(number), "inputs": [wish], "outputs": outputs}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
        answer = served.post("/v2/models/colours/infer", content=text + bytes(1536), headers=headers)
        said = json.loads(answer.content[: int(answer.headers["Inference-Header-Content-Length"])])
        assert said["id"] == str(number)
        assert [output["parameters"] for output in said["outputs"]] == [{"binary_data_size": 96}] * 2
    after = served.get("/v2/models/colours/stats").json()["model_stats"]
    assert [int(line["version"]) for line in after] == [1, 2]
    rise = {
        stage: after[1]["inference_stats"][stage]["count"] - before[1]["inference_stats"][stage]["count"]
        for stage in after[1]["inference_stats"]
    }
    assert rise == {"success": 4, "fail": 0, **dict.fromkeys(STAGES, 4), "cache_hit": 0, "cache_miss": 0}
    assert after[1]["inference_count"] - before[1]["inference_count"] == 32


def test_failures(remote: Any) -> None:
    for _ in range(2):
        with pytest.raises(InferenceServerException):
            remote.infer("colours", rows(1, size=9))
    said = of(remote, "colours")["inference_stats"]
    assert (said["fail"]["count"], said["success"]["count"], said["queue"]["count"]) == (2, 0, 0)


def test_names_that_are_none_leave_no_trace(remote: Any) -> None:
    for name in ("nothing", "colours-nothing"):
        with pytest.raises(InferenceServerException):
            remote.infer(name, rows(1))
        with pytest.raises(InferenceServerException):
            remote.get_inference_statistics(name)
    assert {line["name"] for line in remote.get_inference_statistics()["model_stats"]} == {"colours"}


def test_tallies_add_up() -> None:
    statistics = Statistics(wall=lambda: 12.5)
    statistics.succeeded("a", 1, 4, 1.0, Stages(0.1, 0.2, 0.3, 0.4))
    statistics.succeeded("a", 1, 1, 0.5, Stages(0.1, 0.0, 0.25, -1e-9))
    statistics.failed("a", 1, 2.0)
    found = statistics.of("a", 1)
    assert (found.inference_count, found.last_inference) == (5, 12_500)
    assert (found.success, found.fail) == (Duration(2, 1_500_000_000), Duration(1, 2_000_000_000))
    assert (found.queue, found.compute_infer) == (Duration(2, 200_000_000), Duration(2, 550_000_000))
    assert found.compute_output == Duration(2, 400_000_000)
    assert statistics.names() == [("a", 1)]


def test_batches_that_fail_are_not_counted() -> None:
    class Sometimes(FakeBackend):
        def run(self, images: Any, *, alone: bool = False) -> Any:
            if len(images) == 3:
                raise RuntimeError
            return super().run(images, alone=alone)

    counted = CountedBackend(Sometimes(max_batch_size=5, lanes=2, fills_ahead=True))
    assert (counted.max_batch_size, counted.lanes, counted.fills_ahead, counted.provider) == (5, 2, True, "cpu")
    for size in (2, 1, 2):
        counted.run(np.zeros((size, 1, 1, 3), np.uint8))
    with pytest.raises(RuntimeError):
        counted.run(np.zeros((3, 1, 1, 3), np.uint8))
    assert {size: batches.count for size, batches in counted.batches.items()} == {1: 1, 2: 2}


def test_the_batches_of_several_devices_are_counted_together() -> None:
    parts = [{4: Duration(2, 70), 8: Duration(1, 5)}, {}, {1: Duration(1, 1), 4: Duration(3, 30)}]
    assert list(total(parts).items()) == [(1, Duration(1, 1)), (4, Duration(5, 100)), (8, Duration(1, 5))]
