"""What can be asked of export. The docstrings are the help of the command line."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator
from pydantic_settings import CliImplicitFlag, CliPositionalArg, CliSubCommand

from bundle.aggregate import Average
from bundle.plans import PLAN_NAME
from bundle.preprocess import Interpolation

_TIME = re.compile(r"(0*[1-9]\d*(\.\d+)?|0*\.0*[1-9]\d*)(ms|s)", re.ASCII)


class Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FreezeJob(Job):
    """Turns a checkpoint into a verified bundle."""

    network: CliPositionalArg[str | None] = None
    """its name: lenet5, vgg16, resnet50 ...; the README lists them"""
    module: str | None = Field(default=None, pattern=r"^[^:]+:[^:]+$")
    """instead of NETWORK: package.module:callable, a function of yours that returns an nn.Module"""
    program: Path | None = None
    """instead of NETWORK: a .pt2 file that torch.export.save wrote"""
    weights: str | None = None
    """a .pth, .th, .pt or .safetensors file, or random:SEED; not needed where the module or program holds them"""
    repository: Path
    """the folder of all bundles"""
    labels: Path | None = None
    """a text file with one label a line; without it the labels are the indices"""
    name: str | None = None
    """of the model; the network's, callable's or file's when left out"""
    version: int | None = Field(default=None, ge=1, lt=1_000_000_000)
    """of the model; the largest there plus one when left out"""
    input: str | None = Field(default=None, pattern=r"^[13]x[1-9]\d{0,3}x[1-9]\d{0,3}$")
    """of a module or program: channels x height x width of one image, as 3x64x64"""
    dynamic: CliImplicitFlag[bool] = False
    """a module or program takes other heights and widths too"""
    resize: int | None = Field(default=None, ge=1, le=9999)
    """the shorter side of an image before the crop, in pixels"""
    crop: int | None = Field(default=None, ge=1, le=9999)
    """height and width of the crop, of networks that take any size"""
    interpolation: Interpolation | None = None
    """of the resize, with antialiasing"""
    channels: Literal["rgb", "bgr", "grey"] | None = None
    """the order in which the network takes them"""
    scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """the network sees (pixel * scale - mean) / std, of pixels from 0 to 255; 0.00392156862745098 is 1 / 255"""
    mean: tuple[FiniteFloat, ...] | None = None
    """one number, or one for each channel in the network's order: 0.5,0.5,0.5"""
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """likewise"""
    images: Path | None = None
    """a folder of your images, compared in addition to the samples"""

    @property
    def model(self) -> str:
        """The name of the model in the repository."""
        of_module = self.module and self.module.rpartition(":")[2]
        return self.name or self.network or of_module or (self.program.stem if self.program else "")

    @model_validator(mode="after")
    def _says_what_to_freeze(self) -> Self:
        sources = [self.network, self.module, self.program]
        if sum(source is not None for source in sources) != 1:
            raise ValueError("name one network: NETWORK, --module package.module:callable, or --program FILE")
        if self.network is not None and self.weights is None:
            raise ValueError(f"{self.network} needs --weights: a file, or random:SEED")
        if self.network is not None and (self.input is not None or self.dynamic):
            raise ValueError(f"{self.network} knows its input; --input and --dynamic are for --module and --program")
        if self.module is not None and self.input is None:
            raise ValueError("--module needs --input CxHxW, the shape of one image")
        if self.program is not None and self.weights is not None:
            raise ValueError("a program holds its weights; leave --weights out")
        return self


class BatchJob(Job):
    """Freezes every model of a list; what is up to date is skipped, what fails does not stop the rest."""

    file: CliPositionalArg[Path]
    """a TOML file: repository = "models", then a [[models]] table for each"""
    jobs: int = Field(default=1, ge=1, le=256)
    """worker processes; each holds one model at a time, and shares the cores with the others"""
    report: Path | None = None
    """the folder of report.json and report.html; LIST-report beside the list when left out"""


class ListJob(Job):
    """Shows the public weights, how accurate they are and whether they are in the cache."""

    cache: Path | None = None
    """the folder of downloaded files; the platform's for caches when left out"""


class FetchJob(Job):
    """Downloads public weights into the cache; what broke off goes on where it was."""

    names: CliPositionalArg[list[str]] = Field(min_length=1)
    """files, networks (the most accurate file of each), or all"""
    cache: Path | None = None
    """the folder of downloaded files; the platform's for caches when left out"""


class CheckJob(Job):
    """Compares the cached files with their sha256."""

    names: CliPositionalArg[list[str]] = ["all"]
    """files, networks, or all"""
    cache: Path | None = None
    """the folder of downloaded files; the platform's for caches when left out"""


class WeightsJob(Job):
    """Public weights: lists, fetches or checks them."""

    list: CliSubCommand[ListJob]
    fetch: CliSubCommand[FetchJob]
    check: CliSubCommand[CheckJob]


class DescribeJob(Job):
    """Prints the layers of a network: output size, parameters, multiply-adds."""

    network: CliPositionalArg[str | None] = None
    """the network's name"""
    at: str | None = Field(default=None, pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")
    """height and width of the input, as 224x224; the network's own when left out"""
    all: CliImplicitFlag[bool] = False
    """one line for every network instead"""
    as_json: CliImplicitFlag[bool] = Field(default=False, alias="json")
    """as JSON"""


class FiltersJob(Job):
    """Draws the kernels of the first layer."""

    source: CliPositionalArg[str]
    """a network's name, or a bundle as REPOSITORY/NAME/VERSION; the newest of REPOSITORY/NAME"""
    weights: str | None = None
    """of a network: a .pth, .th, .pt or .safetensors file, or random:SEED"""
    out: Path
    """the PNG file to write"""


class LabelledJob(Job):
    """What is asked of a bundle with the help of labelled images."""

    bundle: CliPositionalArg[Path]
    """REPOSITORY/NAME/VERSION, or REPOSITORY/NAME for the newest version"""
    data: Path
    """a folder with a folder of images for each class, a CSV file of file and label, or MNIST's or CIFAR-10's files"""
    part: str | None = None
    """START:STOP of the images in their order: 50000:, or --part=-10000: for the last ones"""


class EvaluateJob(LabelledJob):
    """Measures how often a bundle is right on labelled images, and keeps the figures beside it."""

    views: tuple[str, ...] = Field(min_length=1)
    """view plans, published or of the model's own: center,flips,ten_crop"""
    average: Average | None = None
    """of the views: probabilities or logits; the plan's own, or probabilities, when left out"""
    stop: str = "never"
    """never, exact, confident or confident:P"""


class CalibrateJob(LabelledJob):
    """Chooses when stop=confident is sure enough, on one half of labelled images; the other half says what it costs."""

    views: str
    """a view plan, published or of the model's own"""
    average: Average | None = None
    """of the views: probabilities or logits; the plan's own, or probabilities, when left out"""
    loss: float = Field(default=0.1, ge=0, le=100)
    """of the first half: percent of its images that are right with all views and may become wrong"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """of the halves"""


class LearnWeightsJob(LabelledJob):
    """Learns a weight for each view, and writes them as a view plan of the model's own if they are an improvement."""

    views: str
    """a published view plan"""
    name: str | None = None
    """of the new plan; VIEWS_learned when left out"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """of the halves, and of the learning"""

    @field_validator("name")
    @classmethod
    def _is_the_name_of_a_plan(cls, name: str | None) -> str | None:
        if name is not None and not PLAN_NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} is no plan's name; take small letters, digits and '_', at most 64")
        return name


class QuantizeJob(Job):
    """Publishes the next version of a model in int8, for CPUs, or fp16, for GPUs, if it is as right as it has to be."""

    bundle: CliPositionalArg[Path]
    """REPOSITORY/NAME/VERSION, or REPOSITORY/NAME for the newest version; one in fp32"""
    to: Literal["int8", "fp16"]
    """int8, which the CPU runs, or fp16, which GPUs run"""
    calibration: Path | None = None
    """of int8: a folder of images like those that will be asked about, or labelled data; without it half of --data"""
    data: Path | None = None
    """labelled images: a folder with a folder for each class, a CSV file, or MNIST's or CIFAR-10's files"""
    part: str | None = None
    """START:STOP of the labelled images in their order: 50000:, or --part=-10000: for the last ones"""
    budget: float | None = Field(default=None, ge=0, le=100)
    """percentage points of top-1 accuracy that may be lost on half of --data; 1 when left out"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """of the halves"""

    @model_validator(mode="after")
    def _has_the_images_that_it_needs(self) -> Self:
        if self.to == "int8" and self.calibration is None and self.data is None:
            raise ValueError("int8 needs images to calibrate on: --calibration DIR, or --data with labelled ones")
        if self.to == "fp16" and self.calibration is not None:
            raise ValueError("fp16 needs no calibration; leave --calibration out")
        if self.data is None and (self.budget is not None or self.part is not None):
            option = "budget" if self.budget is not None else "part"
            raise ValueError(f"--{option} is of labelled images; give them with --data, or leave --{option} out")
        return self


class FrontierJob(Job):
    """Measures versions and view plans on labelled images, draws error against cost, and says what to deploy."""

    bundles: CliPositionalArg[list[Path]] = Field(min_length=1)
    """REPOSITORY/NAME for all its versions, or REPOSITORY/NAME/VERSION"""
    data: Path
    """a folder with a folder of images for each class, a CSV file of file and label, or MNIST's or CIFAR-10's files"""
    part: str | None = None
    """START:STOP of the images in their order: 50000:, or --part=-10000: for the last ones"""
    views: tuple[str, ...] | None = Field(default=None, min_length=1)
    """view plans, published or of the model's own; all that the network can run when left out"""
    average: Average | None = None
    """of the views: probabilities or logits; the plan's own, or probabilities, when left out"""
    stop: tuple[str, ...] = Field(default=("never",), min_length=1)
    """never, exact, confident or confident:P, or several of them"""
    out: Path
    """the folder of frontier.html, .png, .svg, .json and serving.toml"""
    error: float | None = Field(default=None, gt=0, lt=100)
    """a goal: top-1 error in percent, at most"""
    gmacs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """a goal: 10^9 multiply-adds for an image, at most"""
    latency: str | None = None
    """a goal: of one image alone, at most, as 50ms or 0.05s"""
    throughput: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """a goal: images per second, at least"""

    @field_validator("latency")
    @classmethod
    def _is_a_time(cls, text: str | None) -> str | None:
        if text is not None and not _TIME.fullmatch(text):
            raise ValueError(f"{text!r:.40} is no time above 0; write 50ms or 0.05s")
        return text

    @property
    def latency_ms(self) -> float | None:
        if self.latency is None:
            return None
        return float(self.latency.rstrip("ms")) * (1 if self.latency.endswith("ms") else 1000)
