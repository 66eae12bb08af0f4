"""Views: which parts of the resized image a network looks at, as data, and the geometry that they are made of.

Rounding is torchvision's: the long side is truncated, the offset of a centred crop is rounded half to even.
`bundle.plans` combines these into the published protocols.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Box(NamedTuple):
    """A rectangle of pixels; left and top count from the upper left corner.

    Of a view, what lies outside the image is black.
    """

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

    def distinct(self, *, near: bool = False) -> "ViewPlan":
        """The same average with each view computed once: the weights of identical views are added up.

        Args:
            near: also merge views of one size that show the same part of the image at another scale, to less than a
                pixel of the view: an approximation. The first of them is computed.
        """
        weights: dict[View, float] = {}
        for view in self.views:
            key = replace(view, weight=1.0)
            if near:
                key = next((other for other in weights if _shows_the_same(other, view)), key)
            weights[key] = weights.get(key, 0.0) + view.weight
        return ViewPlan(self.name, tuple(replace(view, weight=weight) for view, weight in weights.items()))


def _shows_the_same(first: View, second: View) -> bool:
    """Whether every edge differs by less than a pixel of the first view; in whole numbers, which are exact."""
    if (first.size, first.mirrored) != (second.size, second.mirrored):
        return False
    for axis in (0, 1):
        whole, other_whole = first.resized[axis], second.resized[axis]
        start, other_start = first.box[axis], second.box[axis]
        length, other_length = first.box[axis + 2], second.box[axis + 2]
        for edge, other in ((start, other_start), (start + length, other_start + other_length)):
            if first.size[axis] * abs(edge * other_whole - other * whole) >= length * other_whole:
                return False
    return True


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


def corners(inside: Box, size: Size) -> list[Box]:
    """Upper left, upper right, lower left, lower right."""
    right = inside.left + inside.width - size.width
    bottom = inside.top + inside.height - size.height
    return [Box(left, top, *size) for top in (inside.top, bottom) for left in (inside.left, right)]


def corners_and_centre(inside: Box, size: Size) -> list[Box]:
    """The corners, then the centre."""
    return [*corners(inside, size), centre(inside, size)]


def grid(inside: Box, size: Size, count: int) -> list[Box]:
    """`count` x `count` boxes at even distances from edge to edge, row by row (our reading of VGG's regular grid)."""
    across, down = inside.width - size.width, inside.height - size.height
    return [
        Box(inside.left + round(column * across / (count - 1)), inside.top + round(row * down / (count - 1)), *size)
        for row in range(count)
        for column in range(count)
    ]


def shifts(inside: Box, size: Size, distance: int) -> list[Box]:
    """The central box, then moved by `distance` pixels up, left, right and down, then to the four corners.

    The centre comes first, since it says most: early exit looks after the first view.
    """
    middle, steps = centre(inside, size), (-distance, 0, distance)
    moves = sorted(product(steps, steps), key=lambda move: abs(move[0]) + abs(move[1]))
    return [Box(middle.left + across, middle.top + down, *size) for down, across in moves]


def squares(resized: Size) -> list[Box]:
    """The squares at both ends and in the middle of the longer side: left, centre, right, or top, centre, bottom."""
    side, whole = min(resized), Box(0, 0, *resized)
    first = Box(0, 0, side, side)
    last = Box(resized.width - side, resized.height - side, side, side)
    return [first, centre(whole, Size(side, side)), last]


def center_view(image: Size, crop: Size, resize: int) -> View:
    """The centre crop, the single-crop protocol of all the papers."""
    resized = shorter_side(image, resize)
    return View(resized, centre(Box(0, 0, *resized), crop), crop)
