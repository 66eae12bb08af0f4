"""The repository changes under a server that answers: what is asked is answered, by one version or the other."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle import store
from bundle.errors import BundleError
from bundle.preprocess import ImageLimits
from bundle.serving import Serving, read_serving
from fakes import write_colour_bundle
from live import encode, wait_for
from service import loading, repository
from service.engine.entry import Entry
from service.errors import ModelNotFoundError, ModelNotReadyError, ShuttingDownError
from service.metrics import Metrics
from service.model import ServedModel
from service.registry import Change, ModelRegistry
from service.repository import ModelRepository
from service.settings import Settings
from service.watcher import Watcher
from service.work import Asked, Bounds
from service.worker import Worker

RED = encode(Image.new("RGB", (8, 8), "red"))
SECONDS = 20.0


@contextlib.contextmanager
def registry_of(folder: Path, metrics: Metrics | None = None) -> Iterator[ModelRegistry]:
    registry = ModelRegistry(Settings(repository=folder), metrics or Metrics())
    registry.start()
    try:
        registry.reload().result(SECONDS)
        yield registry
    finally:
        registry.close()


def outcomes(changes: list[Change]) -> list[tuple[str, int | None, str]]:
    return [(change.name, change.version, change.outcome) for change in changes]


def lanes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lane-")]


def break_model(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no graph")


def damage_serving(folder: Path) -> None:
    (folder / "serving.toml").write_text("versions = ")


def served(registry: ModelRegistry, name: str, version: int | str | None = None) -> ServedModel:
    found = registry.get(name, version)
    assert isinstance(found, ServedModel)
    return found


def ask(model: ServedModel) -> str:
    """What it says of a red image."""
    bounds = Bounds(ImageLimits(10_000, 20.0), 1.0, SECONDS)
    answered = asyncio.run(model.answer(RED, Asked(), bounds, time.monotonic() + SECONDS))
    return model.labels[int(np.argmax(answered.probabilities))]


def test_a_look_that_finds_nothing_new_changes_nothing(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        before = registry.get("colours")
        assert registry.reload().result(SECONDS) == []
        assert registry.get("colours") is before


def test_what_is_new_serves_and_what_is_gone_is_not_found(tmp_path: Path) -> None:
    first = write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        write_colour_bundle(tmp_path, scale=20.0)
        write_colour_bundle(tmp_path, "other")
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 2, "loaded"), ("other", 1, "loaded")]
        assert (registry.get("colours").version, registry.get("colours", 1).version) == (2, 1)
        shutil.rmtree(first)
        shutil.rmtree(tmp_path / "other")
        assert sorted(outcomes(registry.reload().result(SECONDS))) == [
            ("colours", 1, "retired"),
            ("other", 1, "retired"),
        ]
        assert list(registry.index()["colours"]) == [2]
        with pytest.raises(ModelNotFoundError, match="no version 1"):
            registry.get("colours", 1)
        with pytest.raises(ModelNotFoundError, match="no model 'other'"):
            registry.get("other")


def test_a_listed_version_that_is_gone_is_not_ready(tmp_path: Path) -> None:
    folder, metrics = write_colour_bundle(tmp_path), Metrics()
    (tmp_path / "colours" / "serving.toml").write_text("versions = [1]")
    labels = {"model": "colours", "version": "1"}
    with registry_of(tmp_path, metrics) as registry:
        assert metrics.registry.get_sample_value("multicrop_model_ready", labels) == 1
        shutil.rmtree(folder)
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 1, "retired")]
        assert metrics.registry.get_sample_value("multicrop_model_ready", labels) == 0
        assert registry.index()["colours"][1].state == "UNAVAILABLE"


def test_a_version_that_was_replaced_in_its_place_is_loaded_anew(tmp_path: Path) -> None:
    folder = write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        before = registry.get("colours").digest
        shutil.rmtree(folder)
        write_colour_bundle(tmp_path, scale=20.0)
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 1, "loaded")]
        assert registry.get("colours").digest == store.open_bundle(tmp_path, "colours", 1).digest != before


def test_a_smaller_version_is_rolled_back_to(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    write_colour_bundle(tmp_path, scale=20.0)
    serving = tmp_path / "colours" / "serving.toml"
    serving.write_text("versions = [2]")
    with registry_of(tmp_path) as registry:
        serving.write_text("versions = [1]")
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 1, "loaded"), ("colours", 2, "retired")]
        assert registry.get("colours").version == 1


def test_a_bundle_that_fails_leaves_the_old_one_serving_and_says_why(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    bad = write_colour_bundle(tmp_path, scale=20.0)
    break_model(bad)
    (tmp_path / "colours" / "serving.toml").write_text("versions = [1]")
    with registry_of(tmp_path) as registry:
        old = registry.get("colours")
        (tmp_path / "colours" / "serving.toml").write_text("versions = [2]")
        changes = registry.reload().result(SECONDS)
        assert outcomes(changes) == [("colours", 2, "refused")]
        assert "model.onnx is not the file that was exported" in changes[0].reason
        assert registry.get("colours") is old, "nothing that is wished serves, so the old one does"
        assert registry.index()["colours"][2].reason == changes[0].reason


def test_an_alias_stays_where_it_was_until_its_version_serves(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    serving = tmp_path / "colours" / "serving.toml"
    serving.write_text("aliases = {stable = 1}")
    with registry_of(tmp_path) as registry:
        bad = write_colour_bundle(tmp_path, scale=20.0)
        break_model(bad)
        serving.write_text("aliases = {stable = 2}")
        assert sorted(outcomes(registry.reload().result(SECONDS))) == [
            ("colours", 1, "changed"),
            ("colours", 2, "refused"),
        ]
        assert registry.get("colours", "stable").version == 1
        shutil.rmtree(bad)
        write_colour_bundle(tmp_path, scale=20.0)
        assert ("colours", 2, "loaded") in outcomes(registry.reload().result(SECONDS))
        assert registry.get("colours", "stable").version == 2


def test_a_replacement_that_fails_leaves_the_old_one_serving_until_it_is_repaired(tmp_path: Path) -> None:
    folder = write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        old = registry.get("colours")
        shutil.rmtree(folder)
        break_model(write_colour_bundle(tmp_path, scale=20.0))
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 1, "refused")]
        found = registry.index()["colours"][1]
        assert (found.state, found.model) == ("READY", old)
        assert found.reason.endswith("(the one before still serves)")
        assert registry.reload(again=False).result(SECONDS) == [], "the clock does not try the same again"
        shutil.rmtree(folder)
        write_colour_bundle(tmp_path, scale=20.0)
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 1, "loaded")]
        assert registry.index()["colours"][1].reason == ""


def test_a_damaged_serving_toml_changes_nothing_but_the_reason(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    serving = tmp_path / "colours" / "serving.toml"
    serving.write_text("aliases = {stable = 1}")
    with registry_of(tmp_path) as registry:
        old = registry.get("colours")
        damage_serving(tmp_path / "colours")
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 1, "refused")]
        assert registry.reload().result(SECONDS) == [], "it is said once"
        assert registry.get("colours", "stable") is old
        assert "serving.toml is no TOML file" in registry.index()["colours"][1].reason
        serving.write_text("aliases = {stable = 1}")
        assert outcomes(registry.reload(again=False).result(SECONDS)) == [("colours", 1, "changed")]
        assert registry.index()["colours"][1].reason == ""


def test_a_serving_toml_that_comes_while_another_one_is_read_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colour_bundle(tmp_path)
    serving = tmp_path / "colours" / "serving.toml"

    def read(folder: Path) -> Serving:
        found = read_serving(folder)
        serving.write_text('views = "flips"')
        return found

    with registry_of(tmp_path) as registry:
        serving.write_text('views = "center"')
        monkeypatch.setattr(repository, "read_serving", read)
        registry.reload().result(SECONDS)
        monkeypatch.undo()
        assert served(registry, "colours").wishes.serving.views == "center"
        assert outcomes(registry.reload(again=False).result(SECONDS)) == [("colours", 1, "changed")]
        assert served(registry, "colours").wishes.serving.views == "flips"


def test_what_lies_beside_a_version_changes_without_a_new_session(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        before = served(registry, "colours")
        (tmp_path / "colours" / "serving.toml").write_text('views = "flips"')
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 1, "changed")]
        after = served(registry, "colours")
        assert (before.wishes.serving.views, after.wishes.serving.views) == ("center", "flips")
        assert after.batcher is before.batcher
        del before
        gc.collect()
        assert ask(after) == "red", "the old one has not taken the engine with it"


def test_the_old_engine_ends_with_the_last_who_holds_it(tmp_path: Path) -> None:
    folder = write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        count = len(lanes())
        held = served(registry, "colours")
        batcher = held.batcher
        shutil.rmtree(folder)
        write_colour_bundle(tmp_path, scale=20.0)
        registry.reload().result(SECONDS)
        assert len(lanes()) == 2 * count, "somebody may still be on the old one"
        assert ask(held) == "red"
        del held
        wait_for(lambda: len(lanes()) == count)
        with pytest.raises(ShuttingDownError):
            batcher.submit(Entry(1, (8, 8, 3), lambda _: None))


def test_unload_and_load(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        registry.unload("colours").result(SECONDS)
        wait_for(lambda: not lanes())
        with pytest.raises(ModelNotReadyError, match="it was unloaded"):
            registry.get("colours")
        assert registry.reload().result(SECONDS) == [], "no reload brings it back"
        registry.load("colours").result(SECONDS)
        assert registry.get("colours").version == 1
        for act in (registry.load, registry.unload):
            with pytest.raises(ModelNotFoundError):
                act("nobody").result(SECONDS)
            with pytest.raises(ModelNotFoundError):
                act("../colours").result(SECONDS)


def test_loading_what_is_refused_says_why(tmp_path: Path) -> None:
    break_model(write_colour_bundle(tmp_path))
    with registry_of(tmp_path) as registry, pytest.raises(ModelNotReadyError, match=r"refused: model\.onnx"):
        registry.load("colours").result(SECONDS)


def test_ensembles_follow_their_members(tmp_path: Path) -> None:
    folder = write_colour_bundle(tmp_path, "one")
    write_colour_bundle(tmp_path, "two")
    (tmp_path / "both").mkdir()
    file = tmp_path / "both" / "ensemble.toml"
    file.write_text('members = [{model = "one"}, {model = "two"}]')
    with registry_of(tmp_path) as registry:
        first = registry.get("both")
        shutil.rmtree(folder)
        write_colour_bundle(tmp_path, "one", scale=20.0)
        assert outcomes(registry.reload().result(SECONDS)) == [("one", 1, "loaded"), ("both", None, "loaded")]
        second = registry.get("both")
        assert second.digest != first.digest
        file.write_text("members = ")
        assert outcomes(registry.reload().result(SECONDS)) == [("both", None, "refused")]
        assert registry.get("both") is second, "its members serve as they did"
        registry.unload("two").result(SECONDS)
        with pytest.raises(ModelNotReadyError):
            registry.get("both")
        file.write_text('members = [{model = "one"}]')
        assert outcomes(registry.reload().result(SECONDS)) == [("both", None, "loaded")]


def test_the_clock_passes_over_a_copy_that_is_not_whole(tmp_path: Path) -> None:
    source = write_colour_bundle(tmp_path / "elsewhere", scale=20.0)
    write_colour_bundle(tmp_path / "models")
    target = tmp_path / "models" / "colours" / "2"
    with registry_of(tmp_path / "models") as registry:
        target.mkdir()
        for file in ("labels.txt", "golden.npz", "manifest.json", "model.onnx"):
            assert registry.reload(again=False).result(SECONDS) == []
            assert list(registry.index()["colours"]) == [1]
            content = (source / file).read_bytes()
            (target / file).write_bytes(content[:-1])
            assert registry.reload(again=False).result(SECONDS) == []
            (target / file).write_bytes(content)
        assert outcomes(registry.reload(again=False).result(SECONDS)) == [("colours", 2, "loaded")]


def test_a_folder_that_cannot_be_read_now_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        old = registry.get("colours")

        def look(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(ModelRepository, "look", look)
            assert registry.reload().result(SECONDS) == []
        with monkeypatch.context() as patch:
            patch.setattr(ModelRepository, "names", look)
            with pytest.raises(PermissionError):
                registry.reload().result(SECONDS)
        assert registry.get("colours") is old
        assert registry.reload().result(SECONDS) == [], "the thread still works"


def test_a_version_that_loses_a_file_goes_on(tmp_path: Path) -> None:
    folder = write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        old = registry.get("colours")
        (folder / "manifest.json").unlink()
        assert registry.reload(again=False).result(SECONDS) == []
        assert outcomes(registry.reload().result(SECONDS)) == [("colours", 1, "refused")]
        assert registry.get("colours") is old


@pytest.mark.parametrize(
    ("child", "seconds", "reason"),
    [
        ("import os; os.abort()", SECONDS, "ends the process that opens it (signal 6)"),
        ("import time; time.sleep(60)", 0.5, "was not opened within 0.5 s"),
    ],
    ids=["crash", "hang"],
)
def test_a_graph_that_ends_its_process_ends_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, seconds: float, reason: str
) -> None:
    write_colour_bundle(tmp_path)
    with registry_of(tmp_path) as registry:
        old = registry.get("colours")
        monkeypatch.setattr(loading, "SMOKE", (sys.executable, "-c", child))
        monkeypatch.setattr(loading, "SMOKE_SECONDS", seconds)
        write_colour_bundle(tmp_path, scale=20.0)
        changes = registry.reload().result(SECONDS)
        assert outcomes(changes) == [("colours", 2, "refused")]
        assert reason in changes[0].reason
        assert registry.get("colours") is old


def test_the_child_runs_the_graph(tmp_path: Path) -> None:
    """By itself: a child that could do nothing would let everything pass."""
    write_colour_bundle(tmp_path)
    bundle = store.open_bundle(tmp_path, "colours", 1)
    codes = []
    for shape in (("8", "8", "3"), ("9", "8", "3")):
        run = subprocess.run([*loading.SMOKE, *shape], input=bundle.model, capture_output=True, check=False)
        codes.append(run.returncode)
    assert codes == [0, 1], "the graph takes 8 x 8 alone"


def test_sighup_and_the_clock_look_again(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    before = signal.getsignal(signal.SIGHUP)
    with registry_of(tmp_path) as registry:
        by_signal, by_clock = Watcher(registry, 0.0), Watcher(registry, 0.01)
        try:
            by_signal.start()
            write_colour_bundle(tmp_path)
            os.kill(os.getpid(), signal.SIGHUP)
            wait_for(lambda: registry.get("colours").version == 2)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            by_clock.start()
            write_colour_bundle(tmp_path)
            wait_for(lambda: registry.get("colours").version == 3)
        finally:
            by_clock.close()
            signal.signal(signal.SIGHUP, before)


def test_a_worker_that_closes_begins_nothing_more() -> None:
    worker, begun, gate = Worker("test"), threading.Event(), threading.Event()
    worker.start()

    def wait() -> bool:
        begun.set()
        return gate.wait(SECONDS)

    first = worker.submit(wait)
    assert begun.wait(SECONDS)
    second: Future[Any] = worker.submit(lambda: 1 / 0)
    worker.close(0.0)
    with pytest.raises(ShuttingDownError):
        worker.submit(lambda: None)
    gate.set()
    assert first.result(SECONDS)
    with pytest.raises(ShuttingDownError):
        second.result(SECONDS)


@pytest.mark.parametrize(
    "aliases", ["{Stable = 1}", "{1 = 1}", "{stable = 0}", '{stable = "two"}', "{'../x' = 1}", "3"]
)
def test_what_is_no_alias_refuses_the_file(tmp_path: Path, aliases: str) -> None:
    (tmp_path / "serving.toml").write_text(f"aliases = {aliases}")
    with pytest.raises(BundleError, match=r"serving\.toml: aliases"):
        read_serving(tmp_path)
