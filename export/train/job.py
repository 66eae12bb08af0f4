"""What can be asked of a training. The docstrings are the help of the command line."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliImplicitFlag, CliPositionalArg

from export.jobs import Job

_CLIP = re.compile(r"(value|norm|global):(0*[1-9]\d*(\.\d+)?|0*\.0*[1-9]\d*)", re.ASCII)


class CurvesJob(Job):
    """Draws how trainings went, as one HTML page, and prints their best epochs."""

    runs: CliPositionalArg[list[Path]] = Field(min_length=1)
    """folders that were given to train --run, finished or not"""
    page: Path
    """the HTML file to write; it holds everything that it shows"""
    error: float | None = Field(default=None, gt=0, lt=100)
    """in percent: how many steps until the validation error is at most this"""


class TrainJob(Job):
    """Trains a network by a recipe and freezes its best epoch."""

    network: CliPositionalArg[str]
    """its name: lenet5, resnet20, resnet50 ...; the README lists them"""
    data: str
    """digits (scikit-learn's), or a folder with a folder of images for each class, a CSV file, MNIST's or CIFAR-10's
    files"""
    repository: Path
    """the folder of all bundles"""
    recipe: str | None = None
    """a name, or a TOML file of your own; docs/train.md lists them; the network's own when left out"""
    weights: str | None = None
    """a checkpoint to begin with; its head is replaced where the classes are others"""
    part: str | None = None
    """START:STOP of the images in their order that may be used"""
    validation: str | None = None
    """what chooses the epoch: START:STOP of the images, or the path of others; a tenth of them when left out"""
    labels: Path | None = None
    """a text file with one label a line; the names of the folders, or the data's own, when left out"""
    epochs: int | None = Field(default=None, ge=1, le=1_000_000)
    """instead of the recipe's"""
    batch: int | None = Field(default=None, ge=1, le=1_000_000)
    """images a step, over all devices, instead of the recipe's"""
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """the highest learning rate, instead of the recipe's"""
    clip: str | None = None
    """of the gradient: value:0.5 (each element), norm:1.0 (each variable's norm) or global:2.0 (that of all)"""
    activation: Literal["relu", "tanh", "sigmoid"] | None = None
    """in place of the network's own"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """of the training; the split of the data has its own"""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto takes a GPU where there is one"""
    devices: int | None = Field(default=None, ge=1, le=1024)
    """how many of them; all GPUs, or one CPU process, when left out"""
    nodes: int = Field(default=1, ge=1, le=1024)
    """machines, each started with the same command and the environment of Lightning's cluster"""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """of the arithmetic; mixed keeps the weights in float32"""
    run: Path | None = None
    """a folder for checkpoints, the log (metrics.csv, TensorBoard's) and the recipe; nothing is kept when left out"""
    resume: CliImplicitFlag[bool] = False
    """goes on with the run in that folder after its last whole epoch"""
    name: str | None = None
    """of the model; the network's when left out"""
    version: int | None = Field(default=None, ge=1, lt=1_000_000_000)
    """of the model; the largest there plus one when left out"""

    @property
    def model(self) -> str:
        """The name of the model in the repository."""
        return self.name or self.network

    @field_validator("clip")
    @classmethod
    def _is_a_clipping(cls, text: str | None) -> str | None:
        if text is not None and not _CLIP.fullmatch(text):
            raise ValueError(f"{text!r:.40} is no clipping; write value:0.5, norm:1.0 or global:2.0")
        return text

    @model_validator(mode="after")
    def _has_a_run_to_resume(self) -> Self:
        if self.resume and self.run is None:
            raise ValueError("--resume needs --run FOLDER, the folder of the run that goes on")
        return self
