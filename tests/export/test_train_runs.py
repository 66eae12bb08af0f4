"""Trainings from start to end on a few images: what they keep, how they stop, how they go on."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bundle.errors import LabelledError
from bundle.store import open_bundle
from export.architectures import find
from export.errors import TrainingError
from export.pipeline import train
from export.train.data import open_data
from export.train.job import TrainJob
from export.train.recipe import Augmentation, Clip, Constant, Recipe, Steps
from export.train.recipes import RECIPES
from export.train.watch import BEST, LAST
from export.verify import one_thread
from tiny import RESNET8, recipe, rows, run_tiny, small, stripes, write_folders

RESNET, LENET = find("resnet20"), find("lenet5")
ROOT = Path(__file__).parents[2]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def last(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / LAST, weights_only=True)["state_dict"]
    return state


def kept(run: Path) -> dict[str, torch.Tensor]:
    """The weights of the best epoch."""
    state: dict[str, torch.Tensor] = torch.load(run / BEST, weights_only=True)["state_dict"]
    return state


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (run_tiny(small(), recipe(), seed=seed)[1].state for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first, other)


def test_stripes_are_learned() -> None:
    _, best = run_tiny(small(), recipe(epochs=8, rate=0.02))
    assert best.error < 0.2


def test_the_log_shows_how_a_training_converges(tmp_path: Path) -> None:
    wanted = recipe(clip=Clip(kind="global", threshold=0.5))
    run_tiny(small(), wanted, run=tmp_path / "run")
    found = rows(tmp_path / "run")
    steps = [row for row in found if row["train_loss"]]
    assert [int(row["step"]) for row in steps] == [5, 11]  # an epoch has six steps, fewer than fifty
    for row in steps:
        assert all(float(row[key]) > 0 for key in ("train_loss", "rate", "gradient_norm"))
        assert 0 <= float(row["train_error"]) <= 1
        assert float(row["gradient_norm_clipped"]) == pytest.approx(min(float(row["gradient_norm"]), 0.5), rel=1e-5)
        assert 0 < float(row["saturated/relu"]) < 1
    epochs = [row for row in found if row["validation_error"]]
    assert [int(row["epoch"]) for row in epochs] == [0, 1]
    assert all(0 <= float(row["validation_error"]) <= 1 and float(row["validation_loss"]) > 0 for row in epochs)
    assert sum(bool(row["train_error_epoch"]) for row in found) == 2
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


def test_the_best_epoch_is_that_of_the_smallest_error_in_the_log(tmp_path: Path) -> None:
    _, best = run_tiny(small(), recipe(epochs=6, rate=0.05), run=tmp_path / "run")
    errors = [float(row["validation_error"]) for row in rows(tmp_path / "run") if row["validation_error"]]
    assert best.error == min(errors) == errors[best.epoch]
    assert equal(kept(tmp_path / "run"), best.state)


def test_a_training_that_diverges_says_so_and_leaves_the_last_good_epoch(tmp_path: Path) -> None:
    wanted = recipe(rate=1e12, schedule=Constant(), epochs=5, clip=None)
    with pytest.raises(TrainingError, match=r"diverged at step \d+, epoch 1: .* rate 1e\+12; no epoch was finished"):
        run_tiny(small(), wanted, run=tmp_path / "early")
    # good for two epochs, then a rate that nothing survives
    wanted = recipe(rate=0.01, schedule=Steps(at=(2,), factor=1e14), epochs=5)
    with pytest.raises(TrainingError, match=r"diverged at step 1\d, epoch 3: .*last\.ckpt.*best\.pth.*lower --rate"):
        run_tiny(small(), wanted, run=tmp_path / "late")
    assert all(value.isfinite().all() for value in last(tmp_path / "late").values())
    good = run_tiny(small(), recipe(rate=0.01, schedule=Constant(), epochs=2), run=tmp_path / "good")
    assert equal(last(tmp_path / "late"), last(tmp_path / "good"))
    assert equal(kept(tmp_path / "late"), good[1].state)


def last_step_of_the_second_epoch(factor: float) -> Recipe:
    """The weights at the end of the second epoch are ruined, and no gradient has shown it before."""
    return recipe(rate=0.01, schedule=Steps(at=(11,), unit="iteration", factor=factor), epochs=5)


def test_an_epoch_that_ends_in_no_number_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 12, epoch 2: validation loss nan; the last good epoch is in .*last"):
        run_tiny(small(), last_step_of_the_second_epoch(1e30), run=tmp_path / "run")
    good = run_tiny(small(), recipe(rate=0.01, schedule=Constant(), epochs=1), run=tmp_path / "good")
    assert equal(last(tmp_path / "run"), last(tmp_path / "good"))
    assert equal(kept(tmp_path / "run"), good[1].state)


def test_a_checkpoint_from_which_no_step_can_be_taken_is_not_called_good(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 13, epoch 3: loss .*; the weights of the best epoch are in .*best"):
        run_tiny(small(), last_step_of_the_second_epoch(1e14), run=tmp_path / "run")


def test_without_a_folder_the_message_says_how_to_keep_an_epoch() -> None:
    with pytest.raises(TrainingError, match="with --run FOLDER the last good epoch is kept"):
        run_tiny(small(), recipe(rate=1e12, schedule=Constant()))


class Cliff(nn.Module):
    """Forty layers that are one: the loss has a cliff, as that of a recurrent network (Pascanu et al., 2012)."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 8, 8)
        self.again = nn.Linear(64, 64)
        self.linear = nn.Linear(64, classes)
        nn.init.eye_(self.again.weight)
        self.again.weight.data.mul_(1.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(1)
        for _ in range(40):
            x = self.again(x)
        logits: torch.Tensor = self.linear(x)
        return logits


def test_clipping_passes_the_cliff_at_which_a_training_diverges_without_it() -> None:
    row = replace(small(), name="cliff", build=Cliff)
    wanted = recipe("fine-tune", augmentation=Augmentation(), rate=1e-3, schedule=Constant(), epochs=12)
    with pytest.raises(TrainingError, match="diverged"):
        run_tiny(row, wanted)
    _, best = run_tiny(row, wanted.model_copy(update={"clip": Clip(kind="global", threshold=1.0)}))
    assert best.error <= 0.1


@pytest.mark.parametrize("kind", ["value", "norm", "global"])
def test_every_clipping_trains(kind: str) -> None:
    _, best = run_tiny(small(), recipe(rate=0.02, epochs=8, clip=Clip.parse(f"{kind}:0.1")))
    assert best.error < 0.4


def kill(run: Path, epoch: int) -> None:
    """Trains in a process of its own, which is killed in the middle of an epoch."""
    command = [sys.executable, str(ROOT / "tests" / "killed_training.py"), str(run), str(epoch)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr.decode()


@one_thread()  # other tests may have changed how many there are
def test_a_killed_run_goes_on_to_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    wanted = recipe(epochs=4)
    run_tiny(RESNET8, wanted, run=tmp_path / "whole")
    kill(tmp_path / "killed", 2)
    _, best = run_tiny(RESNET8, wanted, run=tmp_path / "killed", resume=True)
    assert equal(last(tmp_path / "killed"), last(tmp_path / "whole"))
    assert equal(best.state, kept(tmp_path / "whole"))
    logs = [
        [(row["step"], row["epoch"], row["train_loss"], row["validation_error"]) for row in rows(tmp_path / run)]
        for run in ("whole", "killed")
    ]
    assert logs[0] == logs[1]


def test_whatever_a_recipe_remembers_goes_on(tmp_path: Path) -> None:
    """Warm-up, plateau, averaged weights, dropout, colours, warps: two epochs and two more are four."""
    wanted = RECIPES["alexnet"].model_copy(
        update={
            "batch": 16,
            "epochs": 4,
            "ema": 0.9,
            "initialisation": recipe().initialisation,
            "rate": 0.01,
            "warm_up": RECIPES["resnet-cifar-110"].warm_up,
            "schedule": RECIPES["alexnet"].schedule.model_copy(update={"patience": 1}),
            "augmentation": Augmentation(crop=RECIPES["digits"].augmentation.crop, mirror=True, pca=0.1, jitter=0.4),
        }
    )
    run_tiny(small(), wanted, run=tmp_path / "whole")
    run_tiny(small(), wanted.model_copy(update={"epochs": 2}), run=tmp_path / "half")
    told = json.loads((tmp_path / "half" / "run.json").read_text())
    told["recipe"]["epochs"] = 4  # as if it had been asked for four and killed
    (tmp_path / "half" / "run.json").write_text(json.dumps(told))
    run_tiny(small(), wanted, run=tmp_path / "half", resume=True)
    assert equal(last(tmp_path / "half"), last(tmp_path / "whole"))


def test_files_that_workers_decode_go_on_too(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 20)
    data, wanted = open_data(str(tmp_path / "photos")), recipe(epochs=3)
    run_tiny(small(), wanted, data, run=tmp_path / "whole")
    run_tiny(small(), wanted.model_copy(update={"epochs": 2}), data, run=tmp_path / "half")
    told = (tmp_path / "half" / "run.json").read_text().replace('"epochs": 2', '"epochs": 3')
    (tmp_path / "half" / "run.json").write_text(told)
    run_tiny(small(), wanted, data, run=tmp_path / "half", resume=True)
    assert equal(last(tmp_path / "half"), last(tmp_path / "whole"))


def test_a_run_is_neither_overwritten_nor_mixed_with_another(tmp_path: Path) -> None:
    run_tiny(small(), recipe(epochs=1), run=tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run; add --resume to go on with it, or name another folder"):
        run_tiny(small(), recipe(epochs=1), run=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"is another one: seed was 0, is 5, recipe\.epochs was 1, is 2"):
        run_tiny(small(), recipe(epochs=2), run=tmp_path / "run", resume=True, seed=5)


def test_a_run_does_not_go_on_without_what_it_began_with_nor_with_its_labels_in_another_order(tmp_path: Path) -> None:
    begun = recipe(epochs=1, clip=Clip(kind="global", threshold=1.0))
    run_tiny(small(), begun, run=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"recipe\.clip\.kind was global, is None, .*threshold was 1\.0, is None"):
        run_tiny(small(), begun.model_copy(update={"clip": None}), run=tmp_path / "run", resume=True)
    other = replace(stripes(), labels=("stripe 2", "stripe 1", "stripe 0"))
    with pytest.raises(TrainingError, match=r"labels was \['stripe 0', .*\], is \['stripe 2', .*\]; repeat"):
        run_tiny(small(), begun, other, run=tmp_path / "run", resume=True)


def test_a_finished_run_that_is_resumed_gives_its_best_epoch_again(tmp_path: Path) -> None:
    _, best = run_tiny(small(), recipe(), run=tmp_path / "run")
    before = rows(tmp_path / "run")
    _, again = run_tiny(small(), recipe(), run=tmp_path / "run", resume=True)
    assert equal(best.state, again.state)
    assert rows(tmp_path / "run") == before


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_step(name: str) -> None:
    row = find({"digits": "lenet5", "lenet": "lenet5_1998", "lenet-distorted": "lenet5"}.get(name, "resnet20"))
    wanted = RECIPES[name]
    changes: dict[str, object] = {"batch": 16, "epochs": 1, "iterations": None}
    if wanted.dropout:
        changes["dropout"] = None
    if wanted.initialisation.kind == "alexnet":
        changes["initialisation"] = recipe().initialisation
    _, best = run_tiny(row, wanted.model_copy(update=changes))
    assert best.state


def test_a_folder_becomes_a_bundle_with_its_recipe_and_its_labels(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 20)
    torch.save(RESNET.build(10, 3).state_dict(), tmp_path / "ten.pth")
    asked = TrainJob(
        network="resnet20",
        data=str(tmp_path / "photos"),
        repository=tmp_path / "models",
        weights=str(tmp_path / "ten.pth"),
        epochs=1,
        batch=16,
        device="cpu",
        name="stripes",
    )
    train(asked)
    bundle = open_bundle(tmp_path / "models", "stripes", 1)
    assert bundle.labels == ("stripe_0", "stripe_1", "stripe_2")
    source = bundle.manifest.source
    assert (source.kind, source.name) == ("trained", "photos")
    assert source.recipe["name"] == "fine-tune"
    assert source.recipe["optimizer"] == {"kind": "sgd", "form": "torch", "momentum": 0.9, "weight_decay": 1e-4}
    assert (source.recipe["epochs"], source.recipe["batch"]) == (1, 16)
    assert source.recipe["split"]["train"] == 54  # type: ignore[index,call-overload]
    assert source.recipe["start"]["head"] == "new"  # type: ignore[index,call-overload]
    assert bundle.manifest.evaluations == ()


def test_a_damaged_image_ends_a_training_with_its_name(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 20)
    (tmp_path / "photos" / "stripe_0" / "0.png").write_bytes(b"no image")
    asked = TrainJob(
        network="resnet20", data=str(tmp_path / "photos"), repository=tmp_path, epochs=1, batch=16, device="cpu"
    )
    with pytest.raises(LabelledError, match=r"^photos[^:]*: stripe_0/0\.png: the bytes are not a JPEG"):
        train(asked)


@pytest.mark.slow
def test_two_processes_share_a_training_and_one_publishes_it(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 20)
    said = "train resnet20 --data photos --device cpu --devices 2 --epochs 2 --batch 16 --repository models --run run"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", "export", *said.split()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("models/resnet20/1\n")
    assert [entry.name for entry in (tmp_path / "models" / "resnet20").iterdir()] == ["1"]
    assert [int(row["epoch"]) for row in rows(tmp_path / "run") if row["validation_error"]] == [0, 1]
    state = last(tmp_path / "run")
    assert not torch.equal(state["network.conv1.weight"], RESNET.build(3, 3).state_dict()["conv1.weight"])
