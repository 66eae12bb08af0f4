"""The folder of a run: its recipe, its log, its last and its best epoch; a run is continued only as it began."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import JsonValue

from export.errors import TrainingError
from export.train.log import RUN, flat
from export.train.recipe import Recipe
from export.train.recipe_file import to_toml
from export.train.watch import LAST

RECIPE = "recipe.toml"


def prepare(folder: Path, recipe: Recipe, facts: Mapping[str, JsonValue], *, resume: bool) -> Path | None:
    """Makes the folder of a new run, or finds the checkpoint of the one that is there.

    Args:
        folder: of the run.
        recipe: what is trained by.
        facts: what else must be the same for a run to go on: network, data, labels, seed.
        resume: whether a run that is there goes on.

    Returns:
        The checkpoint to go on from; None: the training begins.

    Raises:
        TrainingError: there is a run and it is not to go on, or it is another one.
    """
    said = {**facts, "recipe": recipe.model_dump(mode="json")}
    written = folder / RUN
    if written.exists():
        if not resume:
            raise TrainingError(f"{folder} holds a run; add --resume to go on with it, or name another folder")
        _require_same(folder, json.loads(written.read_text()), said)
        return folder / LAST if (folder / LAST).exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE).write_text(to_toml(recipe))
    written.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")
    return None


def steps_done(checkpoint: Path) -> int:
    """The steps that a checkpoint has behind it.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        step: int = torch.load(checkpoint, weights_only=True, map_location="cpu")["global_step"]
    except Exception as error:
        raise TrainingError(f"{checkpoint} cannot be read; delete it to begin anew") from error
    return step


def _require_same(folder: Path, before: Mapping[str, JsonValue], now: Mapping[str, JsonValue]) -> None:
    was, wanted = flat(before), flat(now)
    if others := [key for key in wanted | was if was.get(key) != wanted.get(key)]:
        changes = ", ".join(f"{key} was {was.get(key)!s:.60}, is {wanted.get(key)!s:.60}" for key in others)
        raise TrainingError(f"the run in {folder} is another one: {changes}; repeat its command with --resume")
