"""Pixels to rows: resize, cut, mirror. All geometry is done here, on uint8.

The truth is "resize the whole image with Pillow's antialiased filter, then crop". Of bilinear, only the pixels that the
views show are computed, which differs from it by at most one level (tests/bundle/test_render.py); a JPEG that is much
larger than its views is decoded smaller first (`bundle.preprocess.Opened`).
"""

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from PIL import Image

from bundle.manifest import Input
from bundle.preprocess import Corners, Interpolation, Opened, Pixels
from bundle.views import Box, Size, View

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Scaled:
    """An image at the scales of some views: each is resized once, whatever the number of views that are cut of it.

    It holds no more than that, so that the decoded image, megabytes of it, is free again.

    Args:
        image: upright, mode RGB or L.
        views: all that will be drawn.
        interpolation: of the resize.
        corners: of the picture in the image (`Decoded.corners`); all of it when None.
    """

    def __init__(
        self,
        image: Image.Image,
        views: Iterable[View],
        interpolation: Interpolation,
        corners: Corners | None = None,
    ) -> None:
        picture = corners or (0, 0, image.width, image.height)
        self._resample = _FILTERS[interpolation]
        self._regions: dict[tuple[Size, bool], tuple[Box, Pixels]] = {}
        self._squares: dict[tuple[Size, Box, Size], Pixels] = {}
        boxes: dict[Size, list[Box]] = {}
        mirrored = set()
        for view in views:
            boxes.setdefault(view.resized, []).append(view.box)
            if view.mirrored:
                mirrored.add(view.resized)
        for resized, cut in boxes.items():
            # A cut of bicubic moves a few values by two levels.
            window = _columns(resized, cut) if interpolation == "bilinear" else Box(0, 0, *resized)
            region = _pixels(_resize_window(image, picture, resized, window, self._resample))
            self._regions[resized, False] = window, region
            if resized in mirrored:  # once for all views: a copy of one is 80 times as fast as its mirror image
                flipped = window._replace(left=resized.width - window.left - window.width)
                self._regions[resized, True] = flipped, np.ascontiguousarray(region[:, ::-1])

    @classmethod
    def of(cls, image: Opened, views: Iterable[View], wanted: Input) -> Self:
        """An encoded image at the scales of some views, decoded no larger than they need.

        Raises:
            BadImageError: it is damaged.
        """
        views = tuple(views)
        largest = Size(max(view.resized.width for view in views), max(view.resized.height for view in views))
        decoded = image.decode(wanted.channels, largest)
        return cls(decoded.image, views, wanted.interpolation, decoded.corners)

    def draw(self, views: Iterable[View], rows: Pixels) -> None:
        """Draws each view into its row; what lies outside the image is black.

        Args:
            views: as many as there are rows, of one output size, among those of the constructor.
            rows: uint8 [views, height, width, channels], written in place.
        """
        for row, view in zip(rows, views, strict=True):
            if view.box[2:] == view.size:
                row[:] = self._cut(view.resized, view.box, mirrored=view.mirrored)
            else:
                square = self._square(view)
                row[:] = square[:, ::-1] if view.mirrored else square

    def _cut(self, resized: Size, box: Box, *, mirrored: bool) -> Pixels:
        window, region = self._regions[resized, mirrored]
        left = resized.width - box.left - box.width if mirrored else box.left
        return cut(region, Box(left - window.left, box.top - window.top, box.width, box.height))

    def _square(self, view: View) -> Pixels:
        """What the view shows, not mirrored; kept, as its mirror image comes next."""
        key = view.resized, view.box, view.size
        if key not in self._squares:
            part = self._cut(view.resized, view.box, mirrored=False)
            image = Image.fromarray(part if part.shape[2] > 1 else part[..., 0])
            self._squares[key] = _pixels(image.resize(view.size, self._resample))
        return self._squares[key]


def render(image: Image.Image, views: Sequence[View], rows: Pixels, interpolation: Interpolation = "bilinear") -> None:
    """Draws each view of an image into its row, see `Scaled`."""
    Scaled(image, views, interpolation).draw(views, rows)


def _columns(resized: Size, boxes: Sequence[Box]) -> Box:
    """What holds all boxes: of a wide image the columns that they need, of any other the whole.

    Pillow keeps a cut in float32, which moves a few values by one level. Cut along both sides it would be two levels
    for some, and Pillow 13 chooses the order of its passes by the height that is left.
    """
    if resized.width <= resized.height:
        return Box(0, 0, *resized)
    left = max(min(box.left for box in boxes), 0)
    right = min(max(box.left + box.width for box in boxes), resized.width)
    return Box(left, 0, right - left, resized.height)


def _pixels(image: Image.Image) -> Pixels:
    """[height, width, channels]"""
    return np.asarray(image).reshape(image.height, image.width, -1)


def cut(pixels: Pixels, box: Box) -> Pixels:
    """A box of [height, width, channels]; black beyond the border."""
    right, bottom = box.left + box.width, box.top + box.height
    inside = pixels[max(box.top, 0) : bottom, max(box.left, 0) : right]
    if inside.shape[:2] == (box.height, box.width):
        return inside
    height, width = pixels.shape[:2]
    down, across = (max(-box.top, 0), max(bottom - height, 0)), (max(-box.left, 0), max(right - width, 0))
    return np.pad(inside, (down, across, (0, 0)))


def _resize_window(
    image: Image.Image, picture: Corners, resized: Size, window: Box, resample: Image.Resampling
) -> Image.Image:
    """What `image.crop(picture).resize(resized).crop(window)` shows, computed for the window alone."""
    left, top, right, bottom = picture
    x, y = (right - left) / resized.width, (bottom - top) / resized.height
    source = (
        left + window.left * x,
        top + window.top * y,
        min(left + (window.left + window.width) * x, right),
        min(top + (window.top + window.height) * y, bottom),
    )
    return image.resize((window.width, window.height), resample, box=source)
