"""How each generator is fitted for each use, as the paper's public notebooks do it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from export.models import deep_image_prior as models
from export.models.deep_image_prior import Generator
from export.restore.job import InpaintJob, Net, RestorationJob, SuperresolveJob

Z_SCALE = 0.1
"""z is uniform from 0 to it."""


@dataclass(frozen=True)
class Recipe:
    build: Callable[[], Generator]
    channels: int
    """of z"""
    rate: float
    """Adam's"""
    iterations: int
    noise: float
    """standard deviation of what is added to z anew at each step, so that the fit is no exact one"""
    z: Literal["noise", "meshgrid"] = "noise"

    def draw(self, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        """z, [1, channels, height, width]: noise, or each pixel's own coordinates from 0 to 1 (across, then down)."""
        if self.z == "noise":
            return torch.rand(1, self.channels, height, width, generator=generator) * Z_SCALE
        down, across = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
        return torch.stack([across, down])[None]


NETS: dict[Net, Recipe] = {
    "skip": Recipe(models.skip, 32, 0.01, 3000, 1 / 30),
    "skip128": Recipe(lambda: models.skip(128), 32, 0.01, 6001, 0.03),
    "hourglass": Recipe(models.hourglass, 2, 0.01, 5001, 0.03, "meshgrid"),
    "small": Recipe(models.small, 3, 0.01, 2400, 1 / 30),
    "encoder-decoder": Recipe(models.encoder_decoder, 1, 0.01, 3001, 0),
    "resnet": Recipe(lambda: models.ResNet(1), 1, 0.001, 3001, 0),
    "unet": Recipe(lambda: models.UNet(1), 1, 0.001, 3001, 0),
}
"""Of the use that the notebooks have each net for; `skip` has other uses too."""

SUPERRESOLVE: dict[int, dict[str, Any]] = {
    4: {"iterations": 2000, "noise": 0.03},
    8: {"iterations": 4000, "noise": 0.05},
}
"""By factor."""

INPAINT: dict[str, Any] = {"rate": 0.001, "iterations": 11000, "noise": 0.03}
"""Of the picture with half of its pixels missing."""


def recipe(job: RestorationJob) -> Recipe:
    """What the job asks for."""
    found = NETS[job.net]
    if job.net == "skip" and isinstance(job, SuperresolveJob):
        found = replace(found, **SUPERRESOLVE[job.factor])
    if job.net == "skip" and isinstance(job, InpaintJob):
        found = replace(found, **INPAINT)
    if job.depth is not None:
        found = replace(found, build=partial(models.encoder_decoder, job.depth))
    return found if job.iterations is None else replace(found, iterations=job.iterations)
