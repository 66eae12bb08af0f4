"""The catalogue of bad repositories, R11 to R21 and what else needs more than a bad bundle.

R20, signatures, is not built: digests say that a bundle is whole, not whose it is.
"""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle import store
from bundle.preprocess import ImageLimits
from damaged import flip, labels, republish
from fakes import write_colour_bundle
from live import encode, serve
from service import loading, memory
from service.engine import places
from service.engine.driver import count_gpus
from service.errors import ModelNotFoundError
from service.metrics import Metrics
from service.model import ServedModel
from service.registry import Change, ModelRegistry
from service.repository import ModelRepository, Stamp
from service.settings import Settings
from service.work import Asked, Bounds

RED = encode(Image.new("RGB", (8, 8), "red"))
SECONDS = 30.0


@contextlib.contextmanager
def registry_of(repository: Path, **settings: Any) -> Iterator[ModelRegistry]:
    registry = ModelRegistry(Settings(repository=repository, **settings), Metrics())
    registry.start()
    try:
        registry.reload().result(SECONDS)
        yield registry
    finally:
        registry.close()


def outcomes(changes: list[Change]) -> list[tuple[int | None, str]]:
    return [(change.version, change.outcome) for change in changes]


def reload(registry: ModelRegistry, *, again: bool = True) -> list[Change]:
    return registry.reload(again=again).result(SECONDS)


def top(found: object) -> tuple[str, float]:
    """What it says of a red image."""
    assert isinstance(found, ServedModel)
    bounds = Bounds(ImageLimits(10_000, 20.0), 1.0, SECONDS)
    answered = asyncio.run(found.answer(RED, Asked(), bounds, time.monotonic() + SECONDS))
    index = int(np.argmax(answered.probabilities))
    return found.labels[index], float(answered.probabilities[index])


def case(name: str) -> pytest.MarkDecorator:
    """Gives a test the id of the catalogue."""
    return pytest.mark.parametrize((), [()], ids=[name])


@case("R05-duplicate")
def test_labels_may_be_alike(tmp_path: Path) -> None:
    """ImageNet has two classes "crane" and two "maillot"."""
    write_colour_bundle(tmp_path)
    labels(b"crane\ngreen\ncrane")(tmp_path / "colours")
    with registry_of(tmp_path) as registry:
        assert top(registry.get("colours", 2))[0] == "crane"


@case("R10-unreadable")
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said by a patch: who runs the tests may be allowed to read everything."""
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        locked = republish(tmp_path / "colours", macs=2) / store.GOLDEN
        read = Path.read_bytes

        def refuse(path: Path) -> bytes:
            if path == locked:
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
        (change,) = reload(registry)
        assert (change.outcome, change.reason) == ("refused", "golden.npz cannot be read; export the bundle again")
        assert registry.get("colours").version == 1


@case("R11-half-copied")
def test_a_copy_under_way_is_passed_over_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        half = tmp_path / "colours" / "2"
        half.mkdir()
        shutil.copy(tmp_path / "colours" / "1" / store.MODEL, half)
        with caplog.at_level(logging.INFO):
            assert [reload(registry, again=False) for _ in range(3)] == [[], [], []]
        assert caplog.text.count("colours version 2 is not whole yet") == 1
        assert list(registry.index()["colours"]) == [1]


@case("R12-changed-while-loading")
def test_what_serves_is_what_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is another one between its digest and its session."""
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        new = write_colour_bundle(tmp_path, scale=20.0)
        other = write_colour_bundle(tmp_path / "elsewhere", scale=3.0)
        open_bundle = store.open_bundle

        def then_change(*where: Any) -> store.Bundle:
            bundle = open_bundle(*where)
            shutil.copy(other / store.MODEL, new / store.MODEL)
            return bundle

        monkeypatch.setattr(store, "open_bundle", then_change)
        assert outcomes(reload(registry)) == [(2, "loaded")]
        label, probability = top(registry.get("colours", 2))
        assert label == "red"
        assert probability == pytest.approx(1 / (1 + 2 * np.exp(-20.0)), rel=1e-6), "3 would give 0.909"


@case("R13-case-clash")
def test_names_that_differ_in_case_are_two_models(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path, "colours")
    write_colour_bundle(tmp_path, "Colours", labels=("rot", "gruen", "blau"))
    with registry_of(tmp_path) as registry:
        assert (top(registry.get("colours"))[0], top(registry.get("Colours"))[0]) == ("red", "rot")


@case("R13-loops")
def test_links_that_lead_to_themselves(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    folder = tmp_path / "colours"
    (folder / "latest").symlink_to("latest")
    (folder / "2").symlink_to("2")
    (folder / "3").symlink_to("1")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "again").symlink_to(".")
    with registry_of(tmp_path) as registry:
        assert [found.state for found in registry.index()["colours"].values()] == ["READY", "UNAVAILABLE"]
        assert registry.index()["colours"][3].reason.startswith("3 is a link or a file")
        assert registry.get("colours").version == 1


@case("R14-ten-thousand-versions")
def test_of_ten_thousand_versions_a_hundred_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_colour_bundle(tmp_path)
    folder = tmp_path / "colours"
    for number in range(2, 10_000):
        (folder / str(number)).mkdir()
    write_colour_bundle(tmp_path)
    (folder / "serving.toml").write_text("aliases = {first = 1}")
    looked: list[int] = []
    stamp = ModelRepository._stamp

    def noted(self: ModelRepository, path: Path, number: int, beside: str) -> Stamp:
        looked.append(number)
        return stamp(self, path, number, beside)

    monkeypatch.setattr(ModelRepository, "_stamp", noted)
    started = time.monotonic()
    found = ModelRepository(tmp_path).look("colours")
    print(f"a look at 10,000 versions takes {time.monotonic() - started:.3f} s")
    assert looked == list(found.lines) == [1, *range(9901, 10_001)]
    with registry_of(tmp_path) as registry:
        assert (registry.get("colours").version, registry.get("colours", "first").version) == (10_000, 1)
        assert len(registry.index()["colours"]) == 101
    assert "colours has 9899 versions too many" in caplog.text


@case("R15-memory")
def test_what_does_not_fit_beside_the_old_one_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        write_colour_bundle(tmp_path, size=512, resize=512)
        monkeypatch.setattr(memory, "free_memory", lambda: 5 << 20)
        monkeypatch.setattr(loading, "_try_in_a_child", lambda _: pytest.fail("it was opened"))
        (change,) = reload(registry)
        assert change.outcome == "refused"
        assert re.match(r"it needs about \d+ MiB and 5 MiB are free: ", change.reason)
        assert top(registry.get("colours"))[0] == "red"


@case("R15-sparse")
def test_a_file_larger_than_the_memory_is_not_read(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        with (republish(tmp_path / "colours", macs=2) / store.MODEL).open("ab") as file:
            file.truncate(1 << 42)
        (change,) = reload(registry)
        assert change.outcome == "refused"
        assert change.reason.startswith("it needs about 4194304 MiB and ")


@case("R16-fell-back")
def test_a_session_that_falls_back_to_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime only warns where CUDA is asked for and cannot be."""
    if count_gpus():
        pytest.skip("there is a GPU here, on which it would not")
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        old = registry.get("colours")
        monkeypatch.setattr(places, "count_gpus", lambda: 1)
        (tmp_path / "colours" / "serving.toml").write_text('devices = ["cuda:0"]')
        (change,) = reload(registry)
        assert change.outcome == "refused"
        assert change.reason.startswith("cuda:0 does not work, or has no room for it; ")
        assert registry.get("colours") is old


@case("R17-deleted")
def test_a_version_that_is_deleted_answers_who_has_it_and_nobody_else(tmp_path: Path) -> None:
    folder = write_colour_bundle(tmp_path)
    write_colour_bundle(tmp_path, scale=20.0)
    with registry_of(tmp_path) as registry:
        held = registry.get("colours", 1)
        shutil.rmtree(folder)
        assert outcomes(reload(registry)) == [(1, "retired")]
        assert top(held)[0] == "red"
        with pytest.raises(ModelNotFoundError):
            registry.get("colours", 1)


@case("R18-two-loads")
def test_of_two_loads_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_colour_bundle(tmp_path)
    write_colour_bundle(tmp_path, "other")
    with serve(Settings(repository=tmp_path, port=0, admin=True)) as client:
        write_colour_bundle(tmp_path)
        begun, gate = threading.Event(), threading.Event()

        def wait(_: store.Bundle) -> None:
            begun.set()
            assert gate.wait(SECONDS)

        monkeypatch.setattr(loading, "_try_in_a_child", wait)
        answers: list[int] = []
        ask = "/v2/repository/models/colours/load"
        first = threading.Thread(target=lambda: answers.append(client.post(ask).status_code))
        first.start()
        assert begun.wait(SECONDS)
        second = client.post(ask)
        assert (second.status_code, second.json()["code"]) == (409, "load_in_progress")
        assert second.json()["error"] == second.json()["detail"]
        assert client.post("/v1/models/colours:classify", content=RED).json()["version"] == 1
        gate.set()
        first.join(SECONDS)
        assert answers == [200]
        assert client.post("/v1/models/colours:classify", content=RED).json()["version"] == 2
        assert [client.post(f"/v2/repository/models/{name}/load").status_code for name in ("colours", "no", "no")] == [
            200,
            404,
            404,
        ], "who is done, or failed, stands in nobody's way"


@case("R19-hangs")
def test_a_load_that_hangs_ends_with_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        told = tmp_path.parent / "child"
        hang = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        monkeypatch.setattr(loading, "SMOKE", (sys.executable, "-c", hang))
        monkeypatch.setattr(loading, "SMOKE_SECONDS", 5.0)
        write_colour_bundle(tmp_path, scale=20.0)
        (change,) = reload(registry)
        assert "model.onnx was not opened within 5 s" in change.reason
        with pytest.raises(ProcessLookupError):
            os.kill(int(told.read_text()), 0)
        assert top(registry.get("colours"))[0] == "red"


@case("R21-rollback")
def test_a_smaller_version_takes_over(tmp_path: Path) -> None:
    """Also when it has to be read again, and the larger one is damaged meanwhile."""
    write_colour_bundle(tmp_path)
    larger = write_colour_bundle(tmp_path, scale=20.0)
    serving = tmp_path / "colours" / "serving.toml"
    serving.write_text("versions = [2]\naliases = {stable = 2}")
    with registry_of(tmp_path) as registry:
        assert registry.get("colours").version == 2
        (larger / store.MODEL).write_bytes(flip((larger / store.MODEL).read_bytes()))
        serving.write_text("versions = [1]\naliases = {stable = 1}")
        assert outcomes(reload(registry)) == [(1, "loaded"), (2, "retired")]
        assert (registry.get("colours").version, registry.get("colours", "stable").version) == (1, 1)
