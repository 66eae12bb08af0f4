"""HARDENING's E01 to E08 at the command line: one clear line, another exit status than 0, nothing published."""

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle import store
from bundle.store import names, open_bundle, versions
from export import pipeline, verify
from export.__main__ import main
from export.architectures import find
from export.jobs import FreezeJob
from export.weights import random_network


def freeze(repository: Path, *options: str) -> int:
    return main(["freeze", "lenet5", "--weights", "random:0", "--repository", str(repository), *options])


def checkpoint(path: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> str:
    state: dict[str, Any] = random_network(find("lenet5"), 1).state_dict()
    change(state)
    torch.save(state, path)
    return str(path)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that is not progress."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = (line for line in captured.err.splitlines() if line.startswith("multicrop-export: "))
    assert "Traceback" not in captured.err
    return line.removeprefix("multicrop-export: ")


@pytest.mark.parametrize(("owner", "call"), [(Path, "open"), (os, "fsync"), (Path, "rename"), (Path, "mkdir")])
def test_e01_a_full_disk_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], owner: Any, call: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "models").mkdir()
    with monkeypatch.context() as patch:
        write = store.write_bundle

        def write_to_full_disk(*arguments: Any) -> Path:
            patch.setattr(owner, call, full)
            return write(*arguments)

        patch.setattr(pipeline, "write_bundle", write_to_full_disk)
        assert freeze(tmp_path / "models") == 1
    assert said(capsys) == f"lenet5 cannot be written to {tmp_path / 'models'}: No space left on device"
    assert not list((tmp_path / "models").rglob("*/*"))
    assert versions(tmp_path / "models", "lenet5") == []


STEPS = [*(("stage", number) for number in range(5)), *(("flush", number) for number in (0, 3, 5, 6, 99))]
"""Loading, folding, freezing, comparing, publishing; the writer flushes five times, renames, and flushes twice."""

KILLED = """
import logging, os, signal, sys
from export.__main__ import main
from export import pipeline, verify

arguments = ["freeze", "lenet5", "--weights", "random:0", "--repository"]
main([*arguments, sys.argv[1] + "/warm"])  # what is imported late is imported once
for kind, number in eval(sys.argv[2]):
    child = os.fork()
    if not child:
        left = number
        def tick(*_):
            global left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return True
        if kind == "stage":
            pipeline.log.addFilter(tick)
        else:
            flush = os.fsync
            os.fsync = lambda descriptor: (tick(), flush(descriptor))
        os._exit(main([*arguments, sys.argv[1] + "/models"]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder = sys.argv[1] + "/models/lenet5"
    print("step", status, len(os.listdir(folder)) if os.path.exists(folder) else 0, flush=True)
"""


@pytest.mark.slow
def test_e02_a_kill_at_every_step_leaves_old_or_new(tmp_path: Path) -> None:
    """A real SIGKILL at the start of each stage, and at flushes of the writer."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path), repr(STEPS)]
    output = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
    steps = [line.split()[1:] for line in output.splitlines() if line.startswith("step")]
    killed = str(-signal.SIGKILL)
    # Nothing until the rename, which comes before the flush that is number 5 from 0.
    assert steps == [*[[killed, "0"]] * 7, [killed, "1"], [killed, "2"], ["0", "3"]]
    assert names(tmp_path / "models") == ["lenet5"]
    assert versions(tmp_path / "models", "lenet5") == [1, 2, 3]
    assert len({open_bundle(tmp_path / "models", "lenet5", version).digest for version in (1, 2, 3)}) == 1


def test_e03_of_two_exporters_of_one_version_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require = verify.require

    def require_while_another_publishes(*arguments: Any) -> None:
        monkeypatch.setattr(pipeline, "require", require)
        pipeline.freeze(FreezeJob(network="lenet5", weights="random:5", repository=tmp_path, version=1))
        require(*arguments)

    monkeypatch.setattr(pipeline, "require", require_while_another_publishes)
    assert freeze(tmp_path, "--version", "1") == 1
    assert said(capsys) == "lenet5 has a version 1; leave --version out, or choose another"
    assert open_bundle(tmp_path, "lenet5", 1).manifest.source.name == "random:5"
    assert [path.name for path in tmp_path.iterdir()] == ["lenet5"]


def test_e04_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'run'}",)

    weights = checkpoint(tmp_path / "w.pth", lambda state: state.update({"conv1.weight": Evil()}))
    assert freeze(tmp_path / "models", "--weights", weights) == 1
    assert said(capsys).startswith("w.pth holds Python objects, not only tensors")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_e07_weights_that_are_not_finite_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    weights = checkpoint(tmp_path / "w.pth", lambda state: state["fc3.bias"].fill_(value))
    assert freeze(tmp_path / "models", "--weights", weights) == 1
    assert said(capsys).startswith("fc3.bias holds NaN or infinity")
    assert not (tmp_path / "models").exists()


def make_link(path: Path) -> None:
    (path.parents[1] / "elsewhere").mkdir()
    path.symlink_to(path.parents[1] / "elsewhere")


@pytest.mark.parametrize("make", [make_link, lambda path: path.symlink_to("nowhere"), lambda path: path.touch()])
@pytest.mark.parametrize(("place", "message"), [("lenet5", "is a link or a file"), ("lenet5/3", "has a version 3")])
def test_e08_a_target_that_is_a_link_or_a_file_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], place: str, message: str
) -> None:
    target = tmp_path / "models" / place
    target.parent.mkdir(parents=True)
    make(target)
    assert freeze(tmp_path / "models", "--version", "3", "--weights", "absent.pth") == 1
    assert message in said(capsys)
    assert not list((tmp_path / "elsewhere").glob("*"))


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").touch()
    assert freeze(tmp_path / "models") == 1
    assert "models" in said(capsys)


def test_labels_that_do_not_match_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    weights = checkpoint(tmp_path / "w.pth")
    assert freeze(tmp_path / "models", "--weights", weights, "--labels", str(tmp_path / "labels.txt")) == 1
    assert said(capsys) == "there are 2 labels for 10 classes; give one label a line for each class"
    assert not (tmp_path / "models").exists()


@pytest.fixture(autouse=True)
def _progress_goes_to_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
