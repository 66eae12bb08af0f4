"""Where the labels of points stand in a picture, so that they do not collide. Geometry in pixels, y upwards."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

RINGS = (10, 17, 26, 38, 54, 74, 98)
"""Distances between a point and its label that are tried."""
ANGLES = 16

_LABEL, _OUTSIDE, _FAR = 20.0, 50.0, 3.0
"""What a pixel of another label, a pixel outside, and a pixel of distance weigh against a pixel of anything else."""


class Rectangle(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)

    def overlap(self, other: "Rectangle") -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)


Point = tuple[float, float]


def place(
    points: Sequence[Point], sizes: Sequence[Point], avoid: Sequence[Rectangle], frame: Rectangle
) -> list[Rectangle]:
    """A place for the label of each point: near it, inside the frame, off the other labels and what else is drawn.

    Args:
        points: in the order in which they are served.
        sizes: width and height of their labels.
        avoid: whatever a label hides; the larger the part that it hides, the worse.
        frame: of the picture.
    """
    placed: list[Rectangle] = []
    for point, size in zip(points, sizes, strict=True):
        best = min(_candidates(point, size), key=lambda candidate: _cost(candidate, point, placed, avoid, frame))
        placed.append(best)
    return placed


def _candidates(point: Point, size: Point) -> Iterator[Rectangle]:
    """Labels around the point; each stays as far from it as the ring, across or up and down."""
    (x, y), (width, height) = point, size
    for ring in RINGS:
        for turn in range(ANGLES):
            angle = 2 * math.pi * turn / ANGLES
            across, up = (max(-1.0, min(math.sqrt(2) * part, 1.0)) for part in (math.cos(angle), math.sin(angle)))
            left = x + across * (ring + width / 2) - width / 2
            bottom = y + up * (ring + height / 2) - height / 2
            yield Rectangle(left, bottom, left + width, bottom + height)


def _cost(
    label: Rectangle, point: Point, placed: Sequence[Rectangle], avoid: Sequence[Rectangle], frame: Rectangle
) -> float:
    across = max(label.left - point[0], point[0] - label.right, 0)
    up = max(label.bottom - point[1], point[1] - label.top, 0)
    hidden = sum(label.overlap(other) for other in avoid)
    covered = sum(label.overlap(other) for other in placed)
    outside = label.area - label.overlap(frame)
    return hidden + _LABEL * covered + _OUTSIDE * outside + _FAR * math.hypot(across, up)
