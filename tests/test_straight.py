"""The straight lines of tests/straight.py against numbers worked out by hand, for a photograph of 500 x 375."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import straight
from straight import PROTOCOLS, Seen

Place = tuple[int, int, bool]
"""Left, top, mirrored."""


def numbered(width: int, height: int) -> Image.Image:
    """Every pixel tells its place."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 256, y % 256, x // 256 * 16 + y // 256], axis=2).astype(np.uint8))


def place(view: Seen) -> Place:
    """Where a view of a `numbered` image that was not resized lies."""

    def of(pixel: npt.NDArray[np.uint8]) -> tuple[int, int]:
        low_x, low_y, high = map(int, pixel)
        return low_x + high // 16 * 256, low_y + high % 16 * 256

    (first, top), (last, _) = of(view[0][0, 0]), of(view[0][0, -1])
    assert abs(last - first) == view[0].shape[1] - 1
    return min(first, last), top, last < first


def both(places: Iterable[tuple[int, int]]) -> list[Place]:
    return [(left, top, mirrored) for left, top in places for mirrored in (False, True)]


@pytest.mark.parametrize(
    ("shorter", "resized"),
    [(256, (341, 256)), (384, (512, 384)), (512, (682, 512)), (342, (456, 342)), (427, (569, 427)), (470, (626, 470))],
)
def test_the_longer_side_is_truncated_as_in_torchvision(shorter: int, resized: tuple[int, int]) -> None:
    assert straight.whole(Image.new("RGB", (500, 375)), shorter).size == resized
    assert straight.whole(Image.new("RGB", (375, 500)), shorter).size == resized[::-1]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("ten_crop_square", [(42, 0), (74, 0), (42, 32), (74, 32), (58, 16)]),
        ("ten_crop", [(0, 0), (117, 0), (0, 32), (117, 32), (58, 16)]),
        ("vgg_50", [(x, y) for y in (0, 8, 16, 24, 32) for x in (0, 29, 58, 88, 117)]),
    ],
)
def test_crops_of_500x375_stand_where_they_were_worked_out(name: str, places: list[tuple[int, int]]) -> None:
    """At 341 x 256."""
    assert [place(view) for view in PROTOCOLS[name](numbered(341, 256), 224, 256)] == both(places)


@pytest.mark.parametrize(
    ("n", "number", "resized", "squares", "middle"),
    [
        (224, 0, (341, 256), (0, 42, 85), 16),
        (224, 1, (384, 288), (0, 48, 96), 32),
        (224, 2, (426, 320), (0, 53, 106), 48),
        (224, 3, (469, 352), (0, 58, 117), 64),
        (299, 0, (456, 342), (0, 57, 114), 22),
        (299, 1, (512, 384), (0, 64, 128), 42),
        (299, 2, (569, 427), (0, 71, 142), 64),
        (299, 3, (626, 470), (0, 78, 156), 86),
    ],
)
@pytest.mark.parametrize("portrait", [False, True])
def test_the_144_of_500x375_stand_where_they_were_worked_out(
    n: int, number: int, resized: tuple[int, int], squares: tuple[int, ...], middle: int, portrait: bool
) -> None:
    """The scale at which the numbered image stays as it is: its 3 squares x 6 x 2."""
    image = numbered(*resized[::-1] if portrait else resized)
    edge = resized[1] - n
    inner = [(0, 0), (edge, 0), (0, edge), (edge, edge), (middle, middle)]
    corners = [(0, start) if portrait else (start, 0) for start in squares]
    views = list(straight.googlenet_144(image, n, 0))
    assert len(views) == 144
    for square, (left, top) in enumerate(corners):
        start = 36 * number + 12 * square
        found = [place(view) for view in views[start : start + 10]]
        assert found == both((left + x, top + y) for x, y in inner)
        plain, mirrored = views[start + 10][0], views[start + 11][0]
        assert plain.shape == (n, n, 3)
        assert (plain == mirrored[:, ::-1]).all()


@pytest.mark.parametrize(
    ("number", "resized", "across", "down"),
    [
        (0, (341, 256), (0, 29, 58, 88, 117), (0, 8, 16, 24, 32)),
        (1, (512, 384), (0, 72, 144, 216, 288), (0, 40, 80, 120, 160)),
        (2, (682, 512), (0, 114, 229, 344, 458), (0, 72, 144, 216, 288)),
    ],
)
def test_the_150_of_500x375_stand_where_they_were_worked_out(
    number: int, resized: tuple[int, int], across: tuple[int, ...], down: tuple[int, ...]
) -> None:
    views = list(straight.vgg_150(numbered(*resized), 224, 0))
    assert len(views) == 150
    found = [place(view) for view in views[50 * number : 50 * number + 50]]
    assert found == both((x, y) for y in down for x in across)


def test_shifts_reach_beyond_the_border_into_black() -> None:
    views = [pixels for pixels, _ in straight.shifts(Image.new("RGB", (32, 32), "white"), 32, 32)]
    black = [[rows.size == 0 or rows.max() == 0 for rows in (v[:4], v[28:], v[:, :4], v[:, 28:])] for v in views]
    moves = [(0, 0), (-4, 0), (0, -4), (0, 4), (4, 0), (-4, -4), (-4, 4), (4, -4), (4, 4)]
    assert black == [[down < 0, down > 0, across < 0, across > 0] for down, across in moves]
    assert [int((v[..., 0] == 255).sum()) for v in views] == [(32 - abs(y)) * (32 - abs(x)) for y, x in moves]
