"""What can be asked of `restore`. The docstrings are the help of the command line."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg, CliSubCommand

from export.jobs import Job

Net = Literal["skip", "skip128", "hourglass", "small", "encoder-decoder", "resnet", "unet"]


class RestorationJob(Job):
    """What all three have in common."""

    image: CliPositionalArg[Path]
    """a JPEG, PNG or WebP file"""
    out: Path
    """the PNG file to write"""
    net: Net = "skip"
    """the generator"""
    truth: Path | None = None
    """the picture as it should become: shows the PSNR, and changes nothing else"""
    depth: int | None = Field(default=None, ge=1, le=6)
    """of encoder-decoder: how often the grid is halved; 6 when left out"""
    iterations: int | None = Field(default=None, ge=1, le=1_000_000)
    """steps of the fit; the net's published number when left out"""
    average: float = Field(default=0.99, ge=0, lt=1)
    """how much of the mean of earlier outputs each step keeps; 0 takes the last output alone"""
    runs: int = Field(default=1, ge=1, le=100)
    """fits with seeds SEED, SEED + 1 ... whose pictures are averaged"""
    seed: int = Field(default=0, ge=0, lt=2**62)
    """of the weights and of all noise"""
    frames: Path | None = None
    """a folder for intermediate pictures"""
    every: int = Field(default=100, ge=1)
    """steps between two of them"""
    freeze: Path | None = None
    """the ONNX file to write the fitted generator to"""

    @field_validator("out")
    @classmethod
    def _is_a_png(cls, out: Path) -> Path:
        return _with_suffix(out, ".png")

    @field_validator("freeze")
    @classmethod
    def _is_onnx(cls, freeze: Path | None) -> Path | None:
        return None if freeze is None else _with_suffix(freeze, ".onnx")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.freeze is not None and self.runs > 1:
            raise ValueError("--freeze writes one generator; leave --runs out")
        if self.depth is not None and self.net != "encoder-decoder":
            raise ValueError(f"{self.net} has one depth; leave --depth out, or take --net encoder-decoder")
        return self


class InpaintJob(RestorationJob):
    """Fills in the missing pixels of an image."""

    mask: Path | None = None
    """a grey image of the same size: white where the image is known, black where it is missing"""
    missing: float | None = Field(default=None, gt=0, lt=1)
    """instead of --mask, to try things out: the share of pixels that are left out at random; the image is the truth"""

    @model_validator(mode="after")
    def _knows_what_is_missing(self) -> Self:
        if (self.mask is None) == (self.missing is None):
            raise ValueError("say what is missing: --mask FILE, or --missing 0.5 to try it out")
        return self


class DenoiseJob(RestorationJob):
    """Takes the noise, or a JPEG's traces, out of an image."""

    add_noise: float | None = Field(default=None, gt=0, le=255)
    """to try things out: the standard deviation, in levels of 255, of noise put on the image; the image is the truth"""


class SuperresolveJob(RestorationJob):
    """Makes an image 4 or 8 times as high and as wide."""

    factor: int = 4
    """4 or 8"""

    @field_validator("factor")
    @classmethod
    def _is_published(cls, factor: int) -> int:
        if factor not in (4, 8):
            raise ValueError(f"{factor} is no factor; take 4 or 8")
        return factor


class RestoreJob(Job):
    """Restores one image by fitting a generator to it, without any training: inpaint, denoise or superresolve."""

    inpaint: CliSubCommand[InpaintJob]
    denoise: CliSubCommand[DenoiseJob]
    superresolve: CliSubCommand[SuperresolveJob]


def _with_suffix(path: Path, suffix: str) -> Path:
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path.name} does not end in {suffix}, which is what is written")
    return path
