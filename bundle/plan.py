"""A view plan as data, and the one function that turns it into the views of an image.

A plan is a list of parts, a part is a product: scales x squares x crops x mirror. `bundle.plans` has the published
ones.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from bundle.aggregate import Average
from bundle.manifest import Facts, Input
from bundle.views import (
    Box,
    Size,
    View,
    ViewPlan,
    centre,
    corners,
    corners_and_centre,
    grid,
    shifts,
    shorter_side,
    squares,
)

Pixels = Annotated[int, Field(ge=1, le=4096)]
MAX_GRID = 16

Crops = Literal["centre", "corners", "corners_and_centre", "shifts", "dense"] | Annotated[int, Field(ge=2, le=MAX_GRID)]
"""Where views are cut; a number n is a regular grid of n x n, "dense" is the whole image uncut."""

_CROPS = {"centre": 1, "corners": 4, "corners_and_centre": 5, "shifts": 9, "dense": 1}

SMALL = 64
"""The largest input that `shifts` without a distance is for: networks trained on shifted small images."""

WEIGHTS_SUM = 1e-6
"""How far from 1 the sum of a plan's, or an ensemble's, weights may be."""

MAX_VIEWS = 2048


class Part(Facts):
    """Views of one kind: for each scale, for each square, each crop, plain and then mirrored."""

    scales: tuple[Pixels, ...] | None = Field(default=None, min_length=1)
    """Shorter sides of the resized image, in pixels; the network's own when left out."""
    squares: Literal[0, 1, 3] = 0
    """Crops are taken of the whole image (0), of its central square (1), or of three squares along its longer side."""
    crops: Crops = "centre"
    whole: bool = False
    """Each square itself, scaled to the input, is a view too."""
    mirror: bool = False
    """Each view is followed by its mirror image."""
    size: Pixels | None = None
    """Width and height of the views; the network's own when left out."""
    distance: Pixels | None = None
    """Of `shifts`, in pixels; an eighth of the input when left out."""
    weight: float | None = Field(default=None, ge=1e-6, le=1e6)
    """Of the part as a whole, relative to the other parts; its number of views when left out."""

    @field_validator("crops", mode="before")
    @classmethod
    def _are_known(cls, crops: object) -> object:
        """What pydantic says of a union names one of its sides."""
        match crops:
            case str() if crops in _CROPS:
                return crops
            case int() if 2 <= crops <= MAX_GRID:  # noqa: PLR2004 1 is "centre"
                return crops
        raise ValueError(f"{crops!r:.40} is none of {', '.join(_CROPS)}, nor a number from 2 to {MAX_GRID} for a grid")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.whole and not self.squares:
            raise ValueError("whole adds the squares themselves; say how many with squares = 1 or 3")
        if self.crops == "dense" and (self.squares or self.size):
            raise ValueError("dense views are the whole image; leave squares and size out")
        if self.distance and self.crops != "shifts":
            raise ValueError('distance is that of crops = "shifts"')
        return self

    def __len__(self) -> int:
        crops = self.crops if isinstance(self.crops, str) else None
        each = (_CROPS[crops] if crops else int(self.crops) ** 2) + self.whole
        return len(self.scales or (0,)) * max(self.squares, 1) * each * (1 + self.mirror)


class Plan(Facts):
    """How the views of an image are found; `views` draws them for one size of image and one network."""

    name: str
    source: str
    """What it is and who published it."""
    parts: tuple[Part, ...] = Field(min_length=1)
    native: Pixels | None = None
    """The input size that scales and sizes are meant for; those of another network are in proportion."""
    only_native: bool = False
    """Whether it is published for networks of that size alone."""
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """One for each view in plan order; they sum to 1."""
    average: Average | None = None
    """What its weights were learned for: how its views are averaged unless a request says otherwise."""

    @model_validator(mode="after")
    def _weighs_its_views(self) -> Self:
        if len(self) > MAX_VIEWS:
            raise ValueError(f"{len(self)} views are more than {MAX_VIEWS}; leave some out")
        if self.weights is None:
            return self
        if any(part.weight for part in self.parts):
            raise ValueError("weights stand for each view, or a weight for each part; give one of them")
        if len(self.weights) != len(self):
            raise ValueError(f"{len(self.weights)} weights for {len(self)} views; give one for each")
        if abs(sum(self.weights) - 1) > WEIGHTS_SUM:
            raise ValueError(f"the weights sum to {sum(self.weights):.8g}; divide each by that, so that they sum to 1")
        return self

    def __len__(self) -> int:
        """The number of views, the same for every image."""
        return sum(map(len, self.parts))

    def views(self, image: Size, wanted: Input) -> ViewPlan:
        """The views of an upright image of that size, in order; call `refusal` first.

        Views that learned weights leave out (0) are not among them.
        """
        drawn = [view for part in self.parts for view in _views(part, self._sizes(part, wanted), image, wanted)]
        if self.weights is not None:
            weighed = zip(drawn, self.weights, strict=True)
            drawn = [View(v.resized, v.box, v.size, v.mirrored, weight) for v, weight in weighed if weight]
        return ViewPlan(self.name, tuple(drawn))

    def refusal(self, wanted: Input) -> str | None:
        """Why a network with this input cannot run it; None when it can."""
        if self.only_native and wanted.size != (self.native, self.native):
            return f"it is published for inputs of {self.native} x {self.native}; the network's is {_text(wanted.size)}"
        for part in self.parts:
            scales, size = self._sizes(part, wanted)
            if not wanted.dynamic and (part.crops == "dense" or size != wanted.size):
                return f"it needs a network that takes any size; this one takes {_text(wanted.size)} alone"
            if part.squares and size.width != size.height:
                return f"it cuts squares; the network's input is {_text(wanted.size)}"
            if part.crops == "shifts" and part.distance is None and max(wanted.size) > SMALL:
                return f"it is for networks of at most {SMALL} pixels; ten_crop moves the view of larger ones"
            if misfit := _misfit(part, min(scales), size, wanted):
                return misfit
        return None

    def _sizes(self, part: Part, wanted: Input) -> tuple[Sequence[int], Size]:
        """The shorter sides and the size of the views of a part, for a network."""
        ratio = max(wanted.size) / self.native if self.native else 1
        scales = [round(scale * ratio) for scale in part.scales or ()] or [wanted.resize]
        size = wanted.size if part.size is None else Size(round(part.size * ratio), round(part.size * ratio))
        return scales, size


def _misfit(part: Part, shorter: int, size: Size, wanted: Input) -> str | None:
    """Why the views do not fit an image of that shorter side; None when they do."""
    if part.crops == "shifts":
        off = _distance(part, wanted) >= (shorter + min(size)) // 2
        return f"a shift of {_distance(part, wanted)} pixels moves the view off an image of {shorter}" if off else None
    least, what = (max(wanted.size), "the input") if part.crops == "dense" else (max(size), "the views")
    return f"a shorter side of {shorter} is smaller than {what} of {least} pixels" if shorter < least else None


def _distance(part: Part, wanted: Input) -> int:
    return part.distance or max(wanted.size) // 8


def _views(part: Part, sizes: tuple[Sequence[int], Size], image: Size, wanted: Input) -> list[View]:
    scales, size = sizes
    weight = 1.0 if part.weight is None else part.weight / len(part)
    found = []
    for scale in scales:
        resized = shorter_side(image, scale)
        output = resized if part.crops == "dense" else size
        areas = {0: [Box(0, 0, *resized)], 1: squares(resized)[1:2], 3: squares(resized)}[part.squares]
        for area in areas:
            boxes = _boxes(part.crops, area, output, _distance(part, wanted)) + [area] * part.whole
            for box in boxes:
                found += [View(resized, box, output, mirrored, weight) for mirrored in (False, True)[: 1 + part.mirror]]
    return found


def _boxes(crops: Crops, area: Box, size: Size, distance: int) -> list[Box]:
    match crops:
        case "centre" | "dense":
            return [centre(area, size)]
        case "corners":
            return corners(area, size)
        case "corners_and_centre":
            return corners_and_centre(area, size)
        case "shifts":
            return shifts(area, size, distance)
        case count:
            return grid(area, size, count)


def _text(size: Size) -> str:
    return f"{size.width} x {size.height}"
