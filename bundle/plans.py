"""The plans there are: the published protocols, and those that lie in NAME/plans/ beside a model's versions.

What the papers leave open is decided here and said in the plan's `source`.
"""

import re
from pathlib import Path
from typing import Self

from pydantic import Field, JsonValue, model_validator

from bundle.aggregate import Average
from bundle.beside import read_toml
from bundle.errors import BundleError
from bundle.manifest import Facts
from bundle.plan import Part, Plan

FOLDER = "plans"
PLAN_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")

_TEN = Part(crops="corners_and_centre", mirror=True)
_GOOGLENET = Part(scales=(256, 288, 320, 352), squares=3, crops="corners_and_centre", whole=True, mirror=True)
_VGG = Part(scales=(256, 384, 512), crops=5, mirror=True)
_VGG_DENSE = Part(scales=(256, 384, 512), crops="dense", mirror=True)
_RESNET_DENSE = Part(scales=(224, 256, 384, 480, 640), crops="dense", mirror=True)


def _plan(name: str, source: str, *parts: Part, native: int | None = None, only_native: bool = False) -> Plan:
    return Plan(name=name, source=source, parts=parts, native=native, only_native=only_native)


_ALL = (
    _plan("center", "The central crop, the single-crop protocol of all the papers.", Part()),
    _plan("flips", "The central crop and its mirror image.", Part(mirror=True)),
    _plan(
        "shifts",
        "The central crop moved by an eighth of the input in all eight directions, black beyond the border: 4 pixels"
        " of 32, as networks for CIFAR are trained (He et al., 2015, section 4.2).",
        Part(crops="shifts"),
    ),
    _plan("five_crop", "Four corners and the centre of the whole resized image.", Part(crops="corners_and_centre")),
    _plan(
        "ten_crop",
        "Four corners and the centre of the whole resized image, each with its mirror image (He et al., 2015).",
        _TEN,
    ),
    _plan(
        "ten_crop_square",
        "The ten views of the central square of the resized image (Krizhevsky et al., 2012, section 4.1).",
        _TEN.model_copy(update={"squares": 1}),
    ),
    _plan(
        "larger_center",
        "One larger central view: shorter side and crop of 288 for networks of 224 (Touvron et al., 2019: test larger"
        " than you train; 288 is ours).",
        Part(scales=(288,), size=288),
        native=224,
    ),
    _plan(
        "googlenet_144",
        "Four scales, three squares, four corners, centre and the square itself, mirrored (Szegedy et al., 2014,"
        " section 7). Offsets of centred crops are rounded half to even.",
        _GOOGLENET,
        native=224,
        only_native=True,
    ),
    _plan(
        "inception_144",
        "The views of googlenet_144 in proportion to the input: scales of 342, 384, 427 and 470 for 299 (our reading;"
        " Szegedy et al., 2015, give the count alone).",
        _GOOGLENET,
        native=224,
    ),
    _plan(
        "inception_12",
        "The first scale and the central square of inception_144 (our reading; the paper gives the count alone).",
        _GOOGLENET.model_copy(update={"scales": (256,), "squares": 1}),
        native=224,
    ),
    _plan(
        "vgg_50",
        "A regular grid of 5 x 5 crops from edge to edge at the network's own scale, mirrored (Simonyan and Zisserman,"
        " 2014, section 3.2; the extent of the grid is our reading).",
        Part(crops=5, mirror=True),
    ),
    _plan("vgg_150", "The views of vgg_50 at three scales: 256, 384 and 512 for networks of 224.", _VGG, native=224),
    _plan(
        "dense",
        "The whole image at the network's own scale, uncut, in one pass: class scores averaged over all places"
        " (Simonyan and Zisserman, 2014, section 3.2).",
        Part(crops="dense"),
    ),
    _plan(
        "dense_mirrored", "The dense pass over the image and over its mirror image.", Part(crops="dense", mirror=True)
    ),
    _plan(
        "dense_multiscale",
        "Dense passes at three scales, mirrored: 256, 384 and 512 for networks of 224 (Simonyan and Zisserman, 2014,"
        " section 4.2).",
        _VGG_DENSE,
        native=224,
    ),
    _plan(
        "dense_five_scale",
        "Dense passes at five scales, mirrored: 224, 256, 384, 480 and 640 for networks of 224 (He et al., 2015,"
        " section 3.4; mirror images, global pooling and the mean of probabilities are our reading).",
        _RESNET_DENSE,
        native=224,
    ),
    _plan(
        "multicrop_dense",
        "The mean of vgg_150 and dense_multiscale, half each (Simonyan and Zisserman, 2014, section 4.3).",
        _VGG.model_copy(update={"weight": 1.0}),
        _VGG_DENSE.model_copy(update={"weight": 1.0}),
        native=224,
    ),
)

PUBLISHED: dict[str, Plan] = {plan.name: plan for plan in _ALL}
"""Every plan that needs no file, by its name."""


class CustomPlan(Facts):
    """A file NAME/plans/PLAN.toml."""

    source: str = "A plan of this model's own."
    base: str | None = None
    """A published plan whose views it takes; or write `parts`."""
    parts: tuple[Part, ...] | None = Field(default=None, min_length=1)
    weights: tuple[float, ...] | None = None
    average: Average | None = None
    learned: dict[str, JsonValue] | None = None
    """Where learned weights come from: the bundle's digest, the data, the errors before and after."""

    @model_validator(mode="after")
    def _has_views(self) -> Self:
        if (self.base is None) == (self.parts is None):
            raise ValueError('name the views: base = "ten_crop", or [[parts]] tables')
        if self.base is not None and self.base not in PUBLISHED:
            raise ValueError(f"base {self.base!r:.80} is no published plan; choose one of {', '.join(PUBLISHED)}")
        return self

    def plan(self, name: str) -> Plan:
        base = PUBLISHED[self.base] if self.base else Plan(name=name, source="", parts=self.parts or ())
        changes = {"name": name, "source": self.source, "weights": self.weights, "average": self.average}
        parts = base.parts
        if self.base and self.weights:  # they stand for the weights of the base's parts
            parts = tuple(part.model_copy(update={"weight": None}) for part in parts)
        return Plan.model_validate({**dict(base), **changes, "parts": parts})


def read_plans(folder: Path) -> tuple[dict[str, Plan], dict[str, str]]:
    """The custom plans of a model.

    Args:
        folder: NAME in the repository.

    Returns:
        The plans by their names, and for each file that is none the reason by the name that it would have had.
    """
    plans, refused = {}, {}
    for path in sorted((folder / FOLDER).glob("*.toml")):
        try:
            plans[path.stem] = read_plan(path)
        except BundleError as error:
            refused[path.stem] = str(error)
    return plans, refused


def read_plan(path: Path) -> Plan:
    """The plan of one file.

    Raises:
        BundleError: naming the file, the place in it and the way out.
    """
    if not PLAN_NAME.fullmatch(path.stem):
        raise BundleError(f"{path.name}: name the plan with small letters, digits and '_', at most 64")
    if path.stem in PUBLISHED:
        raise BundleError(f"{path.name}: {path.stem} is a published plan; give the file another name")
    return read_toml(path, CustomPlan, lambda custom: custom.plan(path.stem))
