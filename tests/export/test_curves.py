"""What a page of trainings says, against logs written by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.lines import Line2D

from export.__main__ import main
from export.errors import ExportError
from export.train import curves
from export.train.curves_plot import learning, saturation, steering
from export.train.job import CurvesJob
from export.train.log import Run, read_run
from export.train.run import hushed
from export.train.watch import continued_log

HEAD = (
    "epoch,gradient_norm,gradient_norm_clipped,rate,saturated/relu1,saturated/relu2,step,train_error,"
    "train_error_epoch,train_loss,train_loss_epoch,validation_error,validation_loss"
)
LOG = (
    "0,4.0,2.0,0.1,0.5,0.25,9,0.5,,1.5,,,",
    "0,,,,,,9,,,,,0.30,1.0",
    "0,,,,,,9,,0.6,,1.8,,",
    "1,3.0,2.0,0.1,0.5,0.75,19,0.2,,0.5,,,",
    "1,,,,,,19,,,,,0.04,0.31",
    "1,,,,,,19,,0.25,,0.6,,",
    "2,1.0,1.0,0.01,0.5,1.0,29,0.0,,0.25,,,",
    "2,,,,,,29,,,,,0.04,0.30",
    "2,,,,,,29,,0.05,,0.3,,",
    "3,1.0,1.0,0.01,0.5,1.0,39,0.0,,0.125,,,",
    "3,,,,,,39,,,,,0.05,0.2",
    "3,,,,,,39,,0.03,,0.2,,",
)
"""Four epochs of ten steps; the second and the third have the same error, the third the smaller loss."""


def write(folder: Path, log: str = "\n".join((HEAD, *LOG, "")), network: str = "lenet5", **changes: object) -> Path:
    recipe = {"source": "ours", "batch": 16, "epochs": 4, "iterations": None, "activation": None} | changes
    split = {"train": 165, "validation": 50}
    told = {"network": network, "data": "stripes", "seed": 0, "split": split, "recipe": recipe}
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(told))
    (folder / "metrics.csv").write_text(log)
    return folder


def ys(line: Line2D) -> list[float]:
    found: list[float] = np.asarray(line.get_ydata()).tolist()
    return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return read_run(write(tmp_path / "tanh"), "tanh")


def test_the_best_epoch_has_the_smallest_error_and_then_the_smallest_loss(run: Run) -> None:
    assert run.best() == (0.04, 0.30, 3, 30, 0.05)
    assert run.whole


def test_steps_to_an_error_are_those_at_the_end_of_the_first_epoch_that_has_it(run: Run) -> None:
    assert [run.reached(error) for error in (0.5, 0.3, 0.1, 0.04, 0.03)] == [10, 10, 20, 20, None]


def test_an_error_of_just_so_many_images_is_reached(tmp_path: Path) -> None:
    log = "\n".join((HEAD, *LOG[:3], "1,,,,,,19,,,,,0.05000000074505806,0.3", ""))  # as Lightning writes 5 %
    assert read_run(write(tmp_path / "run", log), "run").reached(0.05) == 20


def test_the_table_has_the_figures_of_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, cut = write(tmp_path / "tanh"), write(tmp_path / "relu", "\n".join((HEAD, *LOG[:3], "")), activation="relu")
    said = ["curves", str(whole), str(cut), "--page", str(tmp_path / "page.html"), "--error", "10"]
    assert main(said) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", head) == [
        "run", "validation error %", "epoch", "steps", "training error %", "epochs", "steps to 10 %",
    ]  # fmt: skip
    assert [re.split(r"\s{2,}", line) for line in lines] == [
        ["tanh", "4.00", "3", "30", "5.00", "4", "20"],
        ["relu", "30.00", "1", "10", "60.00", "1 of 4", "-"],
        [str(tmp_path / "page.html")],
    ]


@pytest.mark.parametrize("cut", ["1,3.0,2.0,0.1", "1,", LOG[3][:-1], "1,3.0,2.0,0.1,0.5,0.75,19,0.2,,0.5,,,0"])
def test_a_line_that_a_killed_run_did_not_finish_is_left_out(tmp_path: Path, cut: str) -> None:
    folder = write(tmp_path / "killed", "\n".join((HEAD, *LOG[:3], cut)))
    run = read_run(folder, "killed")
    assert run.column("train_loss") == ((10,), (1.5,))
    assert run.best() == (0.30, 1.0, 1, 10, 0.6)
    assert (run.epochs_done, run.whole) == (1, False)


def test_a_log_that_was_cut_within_a_line_goes_on(tmp_path: Path) -> None:
    folder = write(tmp_path / "killed", "\n".join((HEAD, *LOG[:3], "1,3.0,2.0")))
    with hushed():
        logger = continued_log(folder, 10)
    logger.log_metrics({"train_loss": 0.5}, 19)
    logger.save()
    assert read_run(folder, "killed").column("train_loss") == ((10, 20), (1.5, 0.5))


def test_a_run_without_a_validated_epoch_has_no_best_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "young", "\n".join((HEAD, LOG[0], "")))
    run = read_run(folder, "young")
    assert run.best() is None
    assert run.reached(0.9) is None
    job = CurvesJob(runs=[folder], page=tmp_path / "page.html", error=10)
    line = curves.tell(job).splitlines()[1]
    assert line.split()[1:] == ["-", "-", "-", "-", "0", "of", "4", "-"]


def test_epochs_of_a_run_that_counts_steps_are_rounded_up(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", epochs=None, iterations=31), "run")
    assert run.asked.epochs == 4


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    log = "\n".join((HEAD, *LOG[:3], "1,,,,,,19,,,,,nan,nan", ""))
    run = read_run(write(tmp_path / "run", log), "run")
    assert run.best() == (0.30, 1.0, 1, 10, 0.6)
    assert learning([run], None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", None, "holds no run; name a folder that was given to train --run"),
        ("run.json", "{", "is not what train --run wrote"),
        ("run.json", "[]", "is not what train --run wrote"),
        ("run.json", "{}", "is not what train --run wrote"),
        ("metrics.csv", None, "has no row in metrics.csv yet; wait for the run's first epoch"),
        ("metrics.csv", HEAD + "\n", "has no row in metrics.csv yet"),
        ("metrics.csv", "\n".join((HEAD, "1,2", LOG[1], "")), "line 2 of .* is no row of a log"),
        ("metrics.csv", "a,b\n1,2\n", "line 2 of .* is no row of a log"),
        ("metrics.csv", "\n".join((HEAD, LOG[0].replace("4.0", "many"), "")), "no number: .*'many'"),
    ],
)
def test_a_folder_that_holds_no_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, said: str
) -> None:
    folder = write(tmp_path / "run")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    assert main(["curves", str(folder), "--page", str(tmp_path / "page.html")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line)
    assert str(folder) in line
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    job = CurvesJob(runs=[write(tmp_path / "run")], page=tmp_path / "missing" / "page.html")
    with pytest.raises(ExportError, match=r"page\.html cannot be written: No such file or directory; choose another"):
        curves.tell(job)


def test_an_error_of_all_images_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", "run", "--page", "page.html", "--error", "100"]) == 2
    assert capsys.readouterr().err == "multicrop-export: error: Input should be less than 100, not '100'\n"


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    assert curves.names([tmp_path / "relu", tmp_path / "tanh"]) == ["relu", "tanh"]
    assert curves.names([Path("a/run"), Path("b/run")]) == ["a/run", "b/run"]


def test_the_page_says_what_was_asked_for_otherwise(tmp_path: Path) -> None:
    runs = [
        read_run(write(tmp_path / "plain"), "plain"),
        read_run(write(tmp_path / "clipped", clip={"kind": "global", "threshold": 1.0}, rate=0.5), "clipped"),
    ]
    assert curves.differences(runs) == ["", "clip kind global, clip threshold 1.0, rate 0.5"]
    assert curves.differences(runs[:1]) == [""]


def test_every_value_of_the_logs_is_drawn(run: Run, tmp_path: Path) -> None:
    other = read_run(write(tmp_path / "relu", activation="relu"), "relu")
    panels = learning([run, other], 0.1).axes
    validation = [line for line in panels[3].lines if line.get_gid()]
    assert [line.get_gid() for line in validation] == ["validation_error-0", "validation_error-1"]
    assert np.asarray(validation[0].get_xdata()).tolist() == [10, 20, 30, 40]
    assert ys(validation[0]) == [30, 4, 4, 5]
    assert [ys(line) for line in panels[0].lines[:2]] == [[1.5, 0.5, 0.25, 0.125], [1.8, 0.6, 0.3, 0.2]]
    bound = next(line for line in panels[3].lines if not line.get_gid())
    assert set(ys(bound)) == {10}
    rate, before, after = steering([run]).axes
    assert [ys(axes.lines[0]) for axes in (rate, before, after)] == [
        [0.1, 0.1, 0.01, 0.01], [4, 3, 1, 1], [2, 2, 1, 1],
    ]  # fmt: skip
    assert before.get_ylim() == after.get_ylim()
    (layers,) = saturation([run]).axes
    assert {str(line.get_label()): ys(line) for line in layers.lines} == {
        "relu1": [50, 50, 50, 50],
        "relu2": [25, 75, 100, 100],
    }


def test_what_was_never_clipped_has_one_panel_of_the_gradient(tmp_path: Path) -> None:
    log = "\n".join((HEAD, *LOG[6:], ""))
    assert len(steering([read_run(write(tmp_path / "run", log), "run")]).axes) == 2


def test_the_page_holds_all_that_it_shows_and_nothing_of_a_name_is_code(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a&b", network="<script>alert(1)</script>"), write(tmp_path / "other")]
    curves.tell(CurvesJob(runs=folders, page=tmp_path / "page.html", error=10))
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") == 3
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    addresses = set(re.findall(r'https?://[^"\s<]+', page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "a&amp;b: 4.00 % in epoch 3" in page  # over its lines
    assert "Steps to 10 %" in page


def test_layers_stand_in_the_order_of_the_network(tmp_path: Path) -> None:
    layers = ["layer1.0.relu", "layer1.0.relu.2", "layer1.10.relu", "layer1.2.relu", "relu"]
    log = "\n".join((",".join(["epoch", "step", *(f"saturated/{layer}" for layer in layers)]), "0,9,1,1,1,1,1", ""))
    run = curves.in_order(read_run(write(tmp_path / "run", log, network="resnet110"), "run"))
    assert run.layers == ("relu", "layer1.0.relu", "layer1.0.relu.2", "layer1.2.relu", "layer1.10.relu")
    other = read_run(write(tmp_path / "other", log, network="of another day"), "other")
    assert curves.in_order(other).layers == tuple(layers)


def test_a_deep_network_names_some_of_its_layers(tmp_path: Path) -> None:
    layers = [f"saturated/relu{place}" for place in range(55)]
    log = "\n".join((",".join(["epoch", "step", *layers]), ",".join(["0", "9", *["0.5"] * 55]), ""))
    (axes,) = saturation([read_run(write(tmp_path / "deep", log), "deep")]).axes
    assert len(axes.lines) == 55
    legend = axes.get_legend()
    assert legend is not None
    named = [text.get_text() for text in legend.get_texts()]
    assert (len(named), named[0], named[-1]) == (9, "relu0", "relu54")
