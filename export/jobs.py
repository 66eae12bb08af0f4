"""What can be asked of export. The docstrings are the help of the command line."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg


class Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FreezeJob(Job):
    """Turns a checkpoint into a verified bundle."""

    network: CliPositionalArg[str]
    """lenet5, resnet18 ... resnet152, resnet50_v1 ..., or for CIFAR resnet20 ... resnet110"""
    weights: str
    """a .pth, .th, .pt or .safetensors file, or random:SEED"""
    repository: Path
    """the folder of all bundles"""
    labels: Path | None = None
    """a text file with one label a line; without it the labels are the indices"""
    name: str | None = None
    """of the model; the network's when left out"""
    version: int | None = Field(default=None, ge=1, lt=1_000_000_000)
    """of the model; the largest there plus one when left out"""


class TrainJob(Job):
    """Trains a network and freezes its best epoch."""

    network: CliPositionalArg[str]
    """lenet5"""
    data: Literal["digits"]
    """digits: scikit-learn's 1,797 handwritten digits"""
    repository: Path
    """the folder of all bundles"""
    name: str | None = None
    """of the model; the network's when left out"""
    version: int | None = Field(default=None, ge=1, lt=1_000_000_000)
    """of the model; the largest there plus one when left out"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """of the training; the split of the data has its own"""
