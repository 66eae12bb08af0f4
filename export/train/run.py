"""A training, from the job to the network that is published: recipe, data, start, Lightning, best epoch."""

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import JsonValue

from bundle.errors import LabelledError
from bundle.labelled import Labelled
from bundle.manifest import Source
from export.architectures import Architecture
from export.errors import ExportError, TrainingError
from export.quiet import quiet
from export.train.augment import require_fits
from export.train.data import Pictures, TrainingData, open_data
from export.train.folder import prepare, steps_done
from export.train.interrupt import Interrupt
from export.train.job import TrainJob
from export.train.module import Learner
from export.train.recipe import Centre, Clip, Recipe
from export.train.recipe_file import find_recipe
from export.train.recipes import RECIPES, default_recipe
from export.train.start import Start, begin
from export.train.watch import BEST, LAST, Bar, BestEpoch, LastEpoch, continued_log, is_first
from export.weights import Loaded

log = logging.getLogger(__name__)

LOG_EVERY = 50
"""Steps."""

MOST_WORKERS = 8
"""Processes that decode files."""


@dataclass(frozen=True)
class Trained:
    loaded: Loaded
    labels: tuple[str, ...]


def train(job: TrainJob, architecture: Architecture, labels: tuple[str, ...] | None = None) -> Trained:
    """Trains a network and returns it at its best epoch; the same seed gives the same network on the same CPU.

    Args:
        job: what was asked for.
        architecture: the network's row.
        labels: of the classes in order; the data's own when None.

    Raises:
        ExportError, LabelledError: what does not fit together; a training that diverged.
    """
    data = open_data(job.data, labels, job.part, job.validation)
    name, recipe = choose_recipe(job, architecture, data)
    with torch.random.fork_rng(devices=[]), hushed():
        torch.manual_seed(job.seed)
        start = begin(architecture, recipe, len(data.labels), job.weights)
        best = fit(start, recipe, data, job)
    recorded: dict[str, JsonValue] = {
        "name": name,
        **recipe.model_dump(mode="json", exclude_none=True),
        "seed": job.seed,
        "split": data.split,
        "chosen": {
            "epoch": best.epoch + 1,
            "by": "validation error, then loss",
            "accuracy": round(1 - best.error, 4),
        },
    }
    if start.origin is not None:
        recorded["start"] = start.origin
    if job.precision != "32-true":
        recorded["precision"] = job.precision
    source = Source(kind="trained", name=data.name, recipe=recorded)
    return Trained(Loaded(start.finish(best.state), start.architecture, source), data.labels)


def choose_recipe(job: TrainJob, architecture: Architecture, data: TrainingData) -> tuple[str, Recipe]:
    """The recipe's name, and the recipe with what the command line says otherwise.

    Raises:
        ExportError: there is none of that name; or it does not fit the network or the data.
    """
    name = job.recipe or default_recipe(
        architecture.name, architecture.size, digits=job.data == "digits", tuned=job.weights is not None
    )
    published = name in RECIPES
    name, recipe = find_recipe(name)
    changes: dict[str, Any] = {
        key: value for key in ("epochs", "batch", "rate", "activation") if (value := getattr(job, key)) is not None
    }
    if job.epochs is not None:
        changes["iterations"] = None
    if job.clip is not None:
        changes["clip"] = Clip.parse(job.clip)
    if data.digits and published and recipe.augmentation.mirror:
        log.info("%s: no image is mirrored, since a mirrored digit is none; a recipe of your own may say mirror", name)
        changes["augmentation"] = recipe.augmentation.model_copy(update={"mirror": False})
    recipe = recipe.model_copy(update=changes)
    require_fits(recipe.augmentation.crop, architecture.input)
    return name, recipe


def fit(start: Start, recipe: Recipe, data: TrainingData, job: TrainJob) -> BestEpoch:
    """Carries the recipe out; what is random comes from the job's seed.

    Raises:
        TrainingError: it diverged, or the run in the folder cannot go on.
    """
    steps = _steps_per_epoch(recipe, data.train)
    epochs = recipe.epochs or -(-(recipe.iterations or 1) // steps)
    log.info(
        "%d images to train on, %d to choose the epoch; %d epochs of %d steps",
        len(data.train),
        len(data.validation),
        epochs,
        steps,
    )
    facts: dict[str, JsonValue] = {"network": job.network, "data": data.name, "labels": list(data.labels)}
    facts |= {"split": data.split, "seed": job.seed}
    facts |= {"start": start.origin, "precision": job.precision, "devices": job.devices, "nodes": job.nodes}
    checkpoint = None if job.run is None else _prepare(job.run, recipe, facts, resume=job.resume)
    wanted = start.architecture.input
    learner = Learner(
        start.architecture,
        recipe,
        start.network,
        Pictures(data.train, wanted, recipe.augmentation.crop),
        Pictures(data.validation, wanted, Centre()),
        job.seed,
        0 if data.train.array(0) is not None else min(MOST_WORKERS, _usable_cores()),
    )
    best, interrupt = BestEpoch(job.run, start.architecture.activation), Interrupt()
    trainer = make_trainer(job, epochs, min(LOG_EVERY, steps), [best, Bar(), interrupt], checkpoint)
    if recipe.batch % trainer.world_size:
        raise ExportError(f"a batch of {recipe.batch} cannot be shared by {trainer.world_size} devices; see --batch")
    try:
        with interrupt.noticed():
            trainer.fit(learner, ckpt_path=checkpoint, weights_only=True)
    except TrainingError as error:
        raise TrainingError(f"{error}; {_way_out(job, best, trainer.global_step)}") from error
    except LabelledError as error:
        raise LabelledError(
            str(error).strip().rpartition("LabelledError: ")[2]
        ) from error  # a worker's, with its trace
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from error
    if not trainer.is_global_zero:
        raise SystemExit(0)  # one process publishes
    return best


def make_trainer(
    job: TrainJob, epochs: int, log_every: int, callbacks: Sequence[pl.Callback], checkpoint: Path | None
) -> pl.Trainer:
    """Lightning's trainer for a job."""
    loggers: list[Any] = []
    if job.run is not None:
        callbacks = [*callbacks, LastEpoch(job.run)]
        loggers = [continued_log(job.run, 0 if checkpoint is None else steps_done(checkpoint))]
        loggers.append(TensorBoardLogger(job.run, name="", version=""))
    try:
        return pl.Trainer(
            max_epochs=epochs,
            accelerator=job.device,
            devices=job.devices or ("auto" if job.device != "cpu" else 1),
            num_nodes=job.nodes,
            precision=job.precision,
            callbacks=list(callbacks),
            logger=loggers,
            log_every_n_steps=log_every,
            reload_dataloaders_every_n_epochs=1,  # the loader of an epoch knows which one it is
            enable_checkpointing=job.run is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except MisconfigurationException as error:
        raise ExportError(f"this machine cannot train so: {error}; see --device, --devices and --precision") from error


def _prepare(folder: Path, recipe: Recipe, facts: dict[str, JsonValue], *, resume: bool) -> Path | None:
    """As `prepare`, in the first of several processes; Lightning starts the others with the same command."""
    if is_first():
        return prepare(folder, recipe, facts, resume=resume)
    return folder / LAST if resume and (folder / LAST).exists() else None


def _steps_per_epoch(recipe: Recipe, train: Labelled) -> int:
    if len(train) < recipe.batch:
        raise ExportError(
            f"{train.name} has {len(train)} images to train on and a batch is {recipe.batch}; see --batch"
        )
    return len(train) // recipe.batch


def _way_out(job: TrainJob, best: BestEpoch, steps: int) -> str:
    """What a training leaves that diverged after so many steps."""
    lower = "take a lower --rate, or clip: --clip global:1.0"
    if job.run is None:
        return f"{lower}; with --run FOLDER the last good epoch is kept"
    if not best.state:
        return f"no epoch was finished before; {lower}"
    kept = f"the weights of the best epoch are in {job.run / BEST}"
    if steps_done(job.run / LAST) < steps:  # else it holds the very weights from which no step can be taken
        kept = f"the last good epoch is in {job.run / LAST}, {kept}"
    return f"{kept}; {lower}"


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hushed() -> AbstractContextManager[None]:
    """Keeps Lightning's advice from the user where it does not apply."""
    advice = (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*directory .* exists and is not empty.*",
    )
    return quiet(
        "lightning.pytorch",
        "lightning.fabric",
        warned=((".*LeafSpec.*", FutureWarning), *((message, Warning) for message in advice)),
    )
