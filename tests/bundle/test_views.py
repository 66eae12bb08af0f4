"""The geometry that plans are made of against rectangles worked out by hand, and views that are computed once."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.views import (
    Box,
    Size,
    View,
    ViewPlan,
    center_view,
    centre,
    corners,
    corners_and_centre,
    grid,
    shifts,
    shorter_side,
    squares,
)

CROP = Size(224, 224)
WHOLE = Box(0, 0, 341, 256)  # of a 500 x 375 image

sides = st.integers(1, 4000)
images = st.builds(Size, sides, sides)


def offsets(boxes: list[Box]) -> list[tuple[int, int]]:
    return [(box.left, box.top) for box in boxes]


# --- sizes


@pytest.mark.parametrize(
    ("image", "resize", "resized"),
    [
        (Size(500, 375), 256, Size(341, 256)),  # 341.33
        (Size(375, 500), 256, Size(256, 341)),
        (Size(640, 427), 256, Size(383, 256)),  # 383.70 is truncated
        (Size(100, 100), 256, Size(256, 256)),
        (Size(3, 2), 255, Size(382, 255)),  # 382.5 is truncated
        (Size(1, 20), 32, Size(32, 640)),
        (Size(1, 1), 224, Size(224, 224)),
        (Size(4000, 1), 32, Size(128_000, 32)),
    ],
)
def test_the_longer_side_is_truncated(image: Size, resize: int, resized: Size) -> None:
    assert shorter_side(image, resize) == resized


@given(image=images, resize=st.integers(1, 640))
def test_resizing_rounds_as_torchvision_does(image: Size, resize: int) -> None:
    short, long = sorted(image)
    assert sorted(shorter_side(image, resize)) == sorted((resize, int(resize * long / short)))


# --- boxes


@pytest.mark.parametrize(
    ("inside", "left"),
    [(224, 0), (225, 0), (226, 1), (227, 2), (228, 2), (229, 2), (231, 4), (341, 58), (342, 59), (343, 60)],
)
def test_half_a_pixel_of_margin_goes_to_the_even_offset(inside: int, left: int) -> None:
    """As torchvision's int(round(margin / 2)): 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, 3.5 -> 4, 58.5 -> 58, 59.5 -> 60."""
    assert centre(Box(0, 0, inside, 224), CROP).left == left
    assert centre(Box(0, 0, 224, inside), CROP).top == left
    assert centre(Box(7, 0, inside, 224), CROP).left == 7 + left


def test_the_corners_come_row_by_row_and_then_the_centre() -> None:
    assert offsets(corners(WHOLE, CROP)) == [(0, 0), (117, 0), (0, 32), (117, 32)]
    assert offsets(corners_and_centre(WHOLE, CROP)) == [(0, 0), (117, 0), (0, 32), (117, 32), (58, 16)]
    assert {box[2:] for box in corners_and_centre(WHOLE, CROP)} == {CROP}


def test_boxes_start_where_their_area_does() -> None:
    """The central square of 341 x 256 begins at 42."""
    area = Box(42, 0, 256, 256)
    assert offsets(corners_and_centre(area, CROP)) == [(42, 0), (74, 0), (42, 32), (74, 32), (58, 16)]
    assert offsets(grid(area, CROP, 3)) == [(42 + x, y) for y in (0, 16, 32) for x in (0, 16, 32)]
    assert offsets(shifts(area, CROP, 28)) == [
        (58, 16), (58, -12), (30, 16), (86, 16), (58, 44), (30, -12), (86, -12), (30, 44), (86, 44)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "xs", "ys"),
    [
        (Size(341, 256), (0, 29, 58, 88, 117), (0, 8, 16, 24, 32)),
        (Size(512, 384), (0, 72, 144, 216, 288), (0, 40, 80, 120, 160)),
        (Size(682, 512), (0, 114, 229, 344, 458), (0, 72, 144, 216, 288)),
    ],
)
def test_a_grid_of_five_by_five_of_500x375(size: Size, xs: tuple[int, ...], ys: tuple[int, ...]) -> None:
    assert offsets(grid(Box(0, 0, *size), CROP, 5)) == [(x, y) for y in ys for x in xs]


@pytest.mark.parametrize(
    ("resized", "starts"),
    [
        (Size(341, 256), (0, 42, 85)),  # 42.5 to the even 42
        (Size(343, 256), (0, 44, 87)),  # 43.5 to the even 44
        (Size(384, 288), (0, 48, 96)),
        (Size(426, 320), (0, 53, 106)),
        (Size(469, 352), (0, 58, 117)),
        (Size(456, 342), (0, 57, 114)),
        (Size(569, 427), (0, 71, 142)),
        (Size(626, 470), (0, 78, 156)),
        (Size(257, 256), (0, 0, 1)),
        (Size(256, 256), (0, 0, 0)),
    ],
)
def test_three_squares_lie_along_the_longer_side(resized: Size, starts: tuple[int, ...]) -> None:
    side = min(resized)
    assert squares(resized) == [Box(start, 0, side, side) for start in starts]
    assert squares(Size(resized.height, resized.width)) == [Box(0, start, side, side) for start in starts]


@given(width=st.integers(1, 600), height=st.integers(1, 600), across=st.integers(0, 900), down=st.integers(0, 900),
       count=st.integers(2, 16))  # fmt: skip
def test_a_grid_reaches_from_edge_to_edge_in_even_steps(
    width: int, height: int, across: int, down: int, count: int
) -> None:
    boxes = grid(Box(5, 9, width + across, height + down), Size(width, height), count)
    lefts = [box.left - 5 for box in boxes[:count]]
    tops = [box.top - 9 for box in boxes[::count]]
    assert offsets(boxes) == [(5 + left, 9 + top) for top in tops for left in lefts]
    for places, margin in ((lefts, across), (tops, down)):
        assert (places[0], places[-1]) == (0, margin)
        assert all(abs(place - Fraction(i * margin, count - 1)) <= Fraction(1, 2) for i, place in enumerate(places))


def test_an_image_smaller_than_the_crop_is_enlarged_first() -> None:
    assert center_view(Size(20, 30), CROP, 256) == View(Size(256, 384), Box(16, 80, 224, 224), CROP)


# --- views that are computed once

looks = st.builds(
    View,
    resized=st.sampled_from([Size(40, 30), Size(80, 60), Size(41, 30)]),
    box=st.sampled_from([Box(0, 0, 20, 20), Box(0, 0, 40, 40), Box(1, 0, 20, 20), Box(1, 1, 40, 40)]),
    size=st.sampled_from([Size(20, 20), Size(10, 10)]),
    mirrored=st.booleans(),
    weight=st.sampled_from([1.0, 0.5, 3.0]),  # sums of these are exact
)
plans = st.builds(ViewPlan, st.just("any"), st.lists(looks, min_size=1, max_size=30).map(tuple))


def look(view: View) -> tuple[Size, Box, Size, bool]:
    return view.resized, view.box, view.size, view.mirrored


def shown(view: View) -> list[Fraction]:
    """Left, top, right, bottom in parts of the image."""
    box, (width, height) = view.box, view.resized
    return [
        Fraction(box.left, width),
        Fraction(box.top, height),
        Fraction(box.left + box.width, width),
        Fraction(box.top + box.height, height),
    ]


def apart(first: View, second: View) -> Fraction:
    """The largest distance of the same edge, in pixels of the first view."""
    left, top, right, bottom = shown(first)
    pixels = [(right - left) / first.size.width, (bottom - top) / first.size.height] * 2
    return max(abs(a - b) / pixel for a, b, pixel in zip(shown(first), shown(second), pixels, strict=True))


@given(plan=plans, seed=st.integers(0, 2**32 - 1))
def test_distinct_keeps_the_weight_and_the_average(plan: ViewPlan, seed: int) -> None:
    distinct = plan.distinct()
    scores = dict(zip(sorted({look(view) for view in plan}), np.random.default_rng(seed).normal(size=99), strict=False))

    def mean(of: ViewPlan) -> float:
        return float(np.average([scores[look(view)] for view in of], weights=[view.weight for view in of]))

    assert [look(view) for view in distinct] == list(dict.fromkeys(look(view) for view in plan))
    assert sum(view.weight for view in distinct) == sum(view.weight for view in plan)
    assert mean(distinct) == pytest.approx(mean(plan), abs=1e-12)
    assert distinct.distinct() == distinct
    assert distinct.name == plan.name


@given(plan=plans)
def test_near_views_keep_their_size_their_side_and_nearly_their_place(plan: ViewPlan) -> None:
    near = plan.distinct(near=True)
    expected: dict[tuple[Size, Box, Size, bool], float] = {}
    computed: list[View] = []
    for view in plan:
        alike = (v for v in computed if (v.size, v.mirrored) == (view.size, view.mirrored))
        first = next((v for v in alike if apart(v, view) < 1), view)
        if first is view:
            computed.append(view)
        expected[look(first)] = expected.get(look(first), 0) + view.weight
    assert {look(view): view.weight for view in near} == expected
    assert near.distinct(near=True) == near
    assert len(near) <= len(plan.distinct())


def test_near_is_less_than_a_pixel_of_the_view_on_every_edge() -> None:
    """Boxes of 200 shown in 100 pixels: one pixel of the resized image is half of one of the view."""
    first = View(Size(400, 400), Box(10, 10, 200, 200), Size(100, 100))

    def merged(*box: int, resized: int = 400, size: int = 100, mirrored: bool = False) -> bool:
        other = View(Size(resized, resized), Box(*box), Size(size, size), mirrored)
        return len(ViewPlan("", (first, other)).distinct(near=True)) == 1

    assert merged(11, 10, 200, 200)
    assert merged(11, 9, 200, 200)
    assert merged(10, 10, 201, 199)
    assert merged(20, 20, 400, 400, resized=800)  # the same at twice the scale
    assert not merged(12, 10, 200, 200)
    assert not merged(10, 8, 200, 200)
    assert not merged(10, 10, 202, 200)
    assert not merged(10, 10, 200, 198)
    assert not merged(10, 10, 200, 200, size=50)
    assert not merged(10, 10, 200, 200, mirrored=True)
    assert not merged(10, 10, 200, 200, resized=800)


def test_of_near_views_the_first_is_computed_and_only_when_asked() -> None:
    first, second = View(Size(256, 256), Box(0, 0, 256, 256), CROP), View(Size(288, 288), Box(0, 0, 288, 288), CROP)
    plan = ViewPlan("", (first, second, first))
    assert Counter({view.resized: view.weight for view in plan.distinct()}) == {first.resized: 2, second.resized: 1}
    assert [(view.resized, view.weight) for view in plan.distinct(near=True)] == [(first.resized, 3)]
