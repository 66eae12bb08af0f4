"""View plans: which parts of the resized image a network looks at, as data.

A plan is a pure function of the upright image's size, the network's input size and the resize of its shorter side.
Rounding is torchvision's: the long side is truncated, the offset of a centred crop is rounded half to even.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Box(NamedTuple):
    """A rectangle of pixels; left and top count from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class View:
    """One look at an image: resize to `resized`, cut `box` there, scale it to `size`, then mirror it or not."""

    resized: Size
    box: Box
    size: Size
    mirrored: bool = False
    weight: float = 1.0
    """Relative to the other views of its plan; averages divide by the sum."""


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The views of one image in the order in which they are computed."""

    name: str
    views: tuple[View, ...]

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[View]:
        return iter(self.views)

    def distinct(self) -> "ViewPlan":
        """The same average with each view computed once: the weights of identical views are added up."""
        weights: dict[View, float] = {}
        for view in self.views:
            key = replace(view, weight=1.0)
            weights[key] = weights.get(key, 0.0) + view.weight
        return ViewPlan(self.name, tuple(replace(view, weight=weight) for view, weight in weights.items()))


def shorter_side(image: Size, length: int) -> Size:
    """The size of `image` scaled so that its shorter side is `length`; the longer side is truncated."""
    if image.width <= image.height:
        return Size(length, length * image.height // image.width)
    return Size(length * image.width // image.height, length)


def centre(inside: Box, size: Size) -> Box:
    """The box of `size` in the middle of `inside`; half pixels go to the even offset."""
    left = inside.left + round((inside.width - size.width) / 2)
    top = inside.top + round((inside.height - size.height) / 2)
    return Box(left, top, *size)


def corners_and_centre(inside: Box, size: Size) -> list[Box]:
    """Upper left, upper right, lower left, lower right, centre."""
    right = inside.left + inside.width - size.width
    bottom = inside.top + inside.height - size.height
    corners = [Box(left, top, *size) for top in (inside.top, bottom) for left in (inside.left, right)]
    return [*corners, centre(inside, size)]


def center(image: Size, crop: Size, resize: int) -> ViewPlan:
    """The centre crop, the single-crop protocol of all the papers."""
    resized = shorter_side(image, resize)
    return ViewPlan("center", (View(resized, centre(Box(0, 0, *resized), crop), crop),))


def ten_crop(image: Size, crop: Size, resize: int) -> ViewPlan:
    """Four corners and the centre of the whole resized image, each with its mirror image (He et al., 2015)."""
    resized = shorter_side(image, resize)
    return _ten("ten_crop", resized, Box(0, 0, *resized), crop)


def ten_crop_square(image: Size, crop: Size, resize: int) -> ViewPlan:
    """The same ten views of the central square of the resized image (Krizhevsky et al., 2012, section 4.1)."""
    resized = shorter_side(image, resize)
    square = centre(Box(0, 0, *resized), Size(resize, resize))
    return _ten("ten_crop_square", resized, square, crop)


def _ten(name: str, resized: Size, inside: Box, crop: Size) -> ViewPlan:
    boxes = corners_and_centre(inside, crop)
    return ViewPlan(name, tuple(View(resized, box, crop, mirrored) for box in boxes for mirrored in (False, True)))


PLANS: dict[str, Callable[[Size, Size, int], ViewPlan]] = {
    function.__name__: function for function in (center, ten_crop, ten_crop_square)
}
"""Every plan by its name: (upright image size, input size, resize of the shorter side) -> views."""
