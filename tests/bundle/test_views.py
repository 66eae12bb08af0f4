"""View plans against published counts, hand-computed rectangles, and what must hold for every image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.views import PLANS, Box, Size, View, ViewPlan, center, centre, shorter_side, ten_crop, ten_crop_square

CROP = Size(224, 224)
PHOTO = Size(500, 375)

sides = st.integers(1, 4000)
images = st.builds(Size, sides, sides)
protocols = st.sampled_from([(Size(224, 224), 256), (Size(299, 299), 342), (Size(32, 32), 36), (Size(32, 32), 32)])


def offsets(plan: ViewPlan) -> list[tuple[int, int]]:
    """Of the views that are not mirrored, in their order."""
    return [(view.box.left, view.box.top) for view in plan if not view.mirrored]


def test_ten_crop_takes_the_corners_of_the_whole_rectangle() -> None:
    plan = ten_crop(PHOTO, CROP, 256)
    assert {view.resized for view in plan} == {Size(341, 256)}
    assert offsets(plan) == [(0, 0), (117, 0), (0, 32), (117, 32), (58, 16)]


def test_ten_crop_square_takes_the_corners_of_the_central_square() -> None:
    plan = ten_crop_square(PHOTO, CROP, 256)
    assert {view.resized for view in plan} == {Size(341, 256)}
    assert offsets(plan) == [(42, 0), (74, 0), (42, 32), (74, 32), (58, 16)]


def test_a_portrait_swaps_the_axes() -> None:
    portrait = Size(375, 500)
    assert offsets(ten_crop(portrait, CROP, 256)) == [(0, 0), (32, 0), (0, 117), (32, 117), (16, 58)]
    assert offsets(ten_crop_square(portrait, CROP, 256)) == [(0, 42), (32, 42), (0, 74), (32, 74), (16, 58)]
    assert center(portrait, CROP, 256).views[0].resized == Size(256, 341)


@pytest.mark.parametrize(("name", "count"), [("center", 1), ("ten_crop", 10), ("ten_crop_square", 10)])
def test_plans_have_their_published_number_of_views(name: str, count: int) -> None:
    plan = PLANS[name](PHOTO, CROP, 256)
    assert plan.name == name
    assert len(plan) == len(list(plan)) == len(set(plan)) == count


def test_plans_are_listed_by_their_names() -> None:
    assert list(PLANS) == ["center", "ten_crop", "ten_crop_square"]


@given(side=sides, protocol=protocols)
def test_the_two_ten_crops_coincide_on_a_square_image(side: int, protocol: tuple[Size, int]) -> None:
    image = Size(side, side)
    assert ten_crop(image, *protocol).views == ten_crop_square(image, *protocol).views


@given(image=images, protocol=protocols)
def test_every_view_lies_inside_the_resized_image(image: Size, protocol: tuple[Size, int]) -> None:
    crop, resize = protocol
    for function in PLANS.values():
        for view in function(image, crop, resize):
            assert min(view.resized) == resize
            assert (view.box.width, view.box.height) == view.size == crop
            assert 0 <= view.box.left <= view.resized.width - crop.width
            assert 0 <= view.box.top <= view.resized.height - crop.height


@given(image=images, protocol=protocols)
def test_each_crop_comes_plain_and_then_mirrored(image: Size, protocol: tuple[Size, int]) -> None:
    for function in (ten_crop, ten_crop_square):
        views = function(image, *protocol).views
        assert [view.mirrored for view in views] == [False, True] * 5
        assert [view.box for view in views[::2]] == [view.box for view in views[1::2]]


@given(image=images, protocol=protocols)
def test_corners_lie_symmetrically_to_the_image_or_its_square(image: Size, protocol: tuple[Size, int]) -> None:
    """The margins left and right are equal, but for the half pixel that the centre of an odd one cannot have."""
    crop, resize = protocol
    for function in (ten_crop, ten_crop_square):
        plan = function(image, crop, resize)
        resized = plan.views[0].resized
        rights = {resized.width - crop.width - left for left, _ in offsets(plan)[:4]}
        lefts = {left for left, _ in offsets(plan)[:4]}
        assert max(abs(a - b) for a, b in zip(sorted(lefts), sorted(rights), strict=True)) <= 1
        assert len({left for left, _ in offsets(plan)}) <= 3


@pytest.mark.parametrize(
    ("image", "resize", "resized"),
    [
        (Size(500, 375), 256, Size(341, 256)),  # 341.33
        (Size(375, 500), 256, Size(256, 341)),
        (Size(640, 427), 256, Size(383, 256)),  # 383.70 is truncated
        (Size(100, 100), 256, Size(256, 256)),
        (Size(3, 2), 255, Size(382, 255)),  # 382.5 is truncated
        (Size(1, 20), 32, Size(32, 640)),
    ],
)
def test_the_longer_side_is_truncated(image: Size, resize: int, resized: Size) -> None:
    assert shorter_side(image, resize) == resized


@given(image=images, resize=st.integers(1, 640))
def test_resizing_rounds_as_torchvision_does(image: Size, resize: int) -> None:
    short, long = sorted(image)
    assert sorted(shorter_side(image, resize)) == sorted((resize, int(resize * long / short)))


@pytest.mark.parametrize(
    ("inside", "left"),
    [(224, 0), (225, 0), (226, 1), (227, 2), (228, 2), (229, 2), (231, 4), (341, 58), (342, 59), (343, 60)],
)
def test_half_a_pixel_of_margin_goes_to_the_even_offset(inside: int, left: int) -> None:
    """As torchvision's int(round(margin / 2)): 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, 3.5 -> 4, 58.5 -> 58, 59.5 -> 60."""
    assert centre(Box(0, 0, inside, 224), CROP).left == left
    assert centre(Box(0, 0, 224, inside), CROP).top == left


def test_an_odd_central_square_is_rounded_before_its_crop() -> None:
    # 343 x 256: the square starts at 43.5 -> 44, its centred crop at 44 + 16; the crop of the rectangle at 59.5 -> 60.
    assert offsets(ten_crop_square(Size(343, 256), CROP, 256)) == [(44, 0), (76, 0), (44, 32), (76, 32), (60, 16)]


def test_an_image_smaller_than_the_crop_is_enlarged_first() -> None:
    view = center(Size(20, 30), CROP, 256).views[0]
    assert view == View(Size(256, 384), Box(16, 80, 224, 224), CROP)


def test_a_crop_as_large_as_the_resize_has_no_margin() -> None:
    assert len(ten_crop(Size(8, 8), Size(32, 32), 32).distinct()) == 2
    assert set(offsets(ten_crop(Size(8, 8), Size(32, 32), 32))) == {(0, 0)}


@given(
    image=images,
    protocol=protocols,
    name=st.sampled_from(sorted(PLANS)),
    seed=st.integers(0, 2**32 - 1),
    repeats=st.integers(1, 3),
)
def test_distinct_keeps_the_weight_and_the_average(
    image: Size, protocol: tuple[Size, int], name: str, seed: int, repeats: int
) -> None:
    plan = PLANS[name](image, *protocol)
    plan = ViewPlan(name, plan.views * repeats)
    distinct = plan.distinct()

    look = {(view.box, view.mirrored) for view in plan}
    scores = dict(zip(sorted(look), np.random.default_rng(seed).normal(size=len(look)), strict=True))

    def mean(of: ViewPlan) -> float:
        return float(np.average([scores[view.box, view.mirrored] for view in of], weights=[view.weight for view in of]))

    assert len(distinct) == len(look)
    assert sum(view.weight for view in distinct) == len(plan)
    assert mean(distinct) == pytest.approx(mean(plan), abs=1e-12)
    assert distinct.distinct() == distinct
