"""The command line: results on stdout, one clear line for each error, no traceback."""

from pathlib import Path

import numpy as np
import pytest

from bundle.store import open_bundle
from export.__main__ import main
from export.verify import open_session, run


def test_freeze_prints_the_folder_and_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(
        ["freeze", "lenet5", "--weights", "random:0", "--repository", str(tmp_path), "--name", "mine", "--version", "3"]
    )
    folder, parity, digest = capsys.readouterr().out.splitlines()
    assert status == 0
    assert Path(folder) == tmp_path / "mine" / "3"
    assert "0 BatchNorm folded" in parity
    assert digest == f"sha256:{open_bundle(tmp_path, 'mine', 3).digest}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("freeze resnet21 --weights random:0", "there is no network 'resnet21'; choose one of lenet5, "),
        ("freeze resnet20 --weights absent.pth", "absent.pth cannot be read; check the path given with --weights"),
        (
            "freeze resnet20 --weights random:0 --labels absent.txt",
            "absent.txt cannot be read; check the path given with --labels",
        ),
        ("freeze resnet20 --weights random:0 --name ..", "'..' is no model name"),
        (
            "train lenet5 --data digits --batch 2000",
            "digits has 1077 images to train on and a batch is 2000; see --batch",
        ),
    ],
)
def test_what_does_not_work_is_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, line: str
) -> None:
    assert main([*arguments.split(), "--repository", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(f"multicrop-export: {line}")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "say what to do, for example freeze or train"),
        (
            ["freeze", "lenet5", "--weights", "random:0", "--repository", "r", "--version", "0"],
            "version: Input should be greater than or equal to 1, not '0'",
        ),
        (
            ["train", "lenet5", "--data", "digits", "--repository", "r", "--clip", "2"],
            "clip: '2' is no clipping; write value:0.5, norm:1.0 or global:2.0",
        ),
        (["freeze", "lenet5", "--repository", "r"], "freeze: lenet5 needs --weights: a file, or random:SEED"),
        (["freeze", "--repository", "r"], "freeze: name one network: NETWORK, --module"),
        (
            ["freeze", "lenet5", "--weights", "random:0", "--repository", "r", "--std", "0"],
            "std.0: Input should be greater than 0",
        ),
        (
            ["learn-weights", "r/m", "--data", "d", "--views", "flips", "--name", "My-Plan"],
            "name: 'My-Plan' is no plan's name; take small letters, digits and '_', at most 64",
        ),
        (
            ["frontier", "r/m", "--data", "d", "--out", "o", "--latency", "50"],
            "latency: '50' is no time above 0; write 50ms or 0.05s",
        ),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"multicrop-export: {line}")
    assert captured.err.count("\n") == 1


def test_the_repository_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["freeze", "lenet5", "--weights", "random:0"])
    assert "--repository" in capsys.readouterr().err.splitlines()[-1]


def test_lists_of_numbers_are_written_with_commas(tmp_path: Path) -> None:
    options = ["--mean=-0.5", "--std", "0.25,0.25,0.25", "--channels", "bgr", "--scale", "0.01"]
    assert main(["freeze", "resnet20", "--weights", "random:0", "--repository", str(tmp_path), *options]) == 0
    black = open_session(open_bundle(tmp_path, "resnet20", 1).model)
    assert run(black, np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 10)


def test_help_is_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["freeze", "--help"])
    assert "the folder of all bundles" in capsys.readouterr().out


def test_the_environment_is_not_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("train", '{"network": "lenet5", "data": "digits", "repository": "r"}')
    assert main([]) == 2
    assert "say what to do" in capsys.readouterr().err
