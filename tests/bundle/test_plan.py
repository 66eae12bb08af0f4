"""What must hold for every plan, image and network, and which networks cannot run which plan."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from bundle.manifest import Input
from bundle.plan import Crops, Part, Plan
from bundle.plans import PUBLISHED
from bundle.render import render
from bundle.views import Box, Size, View, ViewPlan


def network(width: int, resize: int, height: int | None = None, *, dynamic: bool = True) -> Input:
    return Input(height=height or width, width=width, channels=3, dynamic=dynamic, resize=resize)


SQUARE = [network(224, 256), network(299, 342), network(227, 256), network(32, 32), network(32, 36)]
NETWORKS = [*SQUARE, network(224, 256, height=160), network(48, 64, height=64)]

sides = st.integers(1, 4000)
images = st.builds(Size, sides, sides)
published = st.sampled_from(list(PUBLISHED.values()))


def is_dense(plan: Plan) -> bool:
    return any(part.crops == "dense" for part in plan.parts)


# --- every published plan, every image


@given(image=images, plan=published, wanted=st.sampled_from(NETWORKS))
def test_every_view_lies_inside_the_resized_image(image: Size, plan: Plan, wanted: Input) -> None:
    assume(plan.refusal(wanted) is None)
    margin = max(wanted.size) // 8 if plan.name == "shifts" else 0
    for view in plan.views(image, wanted):
        assert min(view.resized) >= max(wanted.size)
        assert -margin <= view.box.left <= view.resized.width - view.box.width + margin
        assert -margin <= view.box.top <= view.resized.height - view.box.height + margin
        if view.box[2:] != view.size:  # a square, made smaller
            assert view.box.width == view.box.height == min(view.resized) > view.size.width


@given(image=images, plan=published, wanted=st.sampled_from(NETWORKS))
def test_a_plan_has_as_many_views_as_it_says_and_distinct_ones_weigh_as_much(
    image: Size, plan: Plan, wanted: Input
) -> None:
    assume(plan.refusal(wanted) is None)
    views = plan.views(image, wanted)
    distinct, near = views.distinct(), views.distinct(near=True)
    assert len(plan) == len(views) == len(list(views)) >= len(distinct) >= len(near) >= 1
    total = sum(view.weight for view in views)
    assert total == pytest.approx(2 if plan.name == "multicrop_dense" else len(plan), rel=1e-12)
    assert sum(view.weight for view in distinct) == pytest.approx(total, rel=1e-12)
    assert sum(view.weight for view in near) == pytest.approx(total, rel=1e-12)
    assert views == plan.views(image, wanted)


MIRRORED = [name for name, plan in PUBLISHED.items() if plan.parts[0].mirror]


def test_these_plans_show_mirror_images() -> None:
    assert MIRRORED == ["flips", "ten_crop", "ten_crop_square", "googlenet_144", "inception_144", "inception_12",
                        "vgg_50", "vgg_150", "dense_mirrored", "dense_multiscale", "dense_five_scale",
                        "multicrop_dense"]  # fmt: skip


@given(image=images, plan=published, wanted=st.sampled_from(NETWORKS))
def test_each_view_is_followed_by_its_mirror_image_or_none_is_mirrored(image: Size, plan: Plan, wanted: Input) -> None:
    assume(plan.refusal(wanted) is None)
    views = plan.views(image, wanted).views
    if plan.name not in MIRRORED:
        assert not any(view.mirrored for view in views)
        return
    for view, mirror in zip(views[::2], views[1::2], strict=True):
        assert mirror == View(view.resized, view.box, view.size, mirrored=True, weight=view.weight)
        assert not view.mirrored


@given(image=images, plan=published, wanted=st.sampled_from(NETWORKS))
def test_the_places_are_as_far_from_the_left_and_top_as_from_the_right_and_bottom(
    image: Size, plan: Plan, wanted: Input
) -> None:
    """But for the half pixel of an odd margin, and twice that for the centre of a central square."""
    assume(plan.refusal(wanted) is None)
    most = 2 if plan.parts[0].squares else 1
    groups: dict[tuple[Size, Size, int], list[Box]] = defaultdict(list)
    for view in plan.views(image, wanted):
        groups[view.resized, view.size, view.box.width].append(view.box)
    for (resized, _, _), boxes in groups.items():
        for axis in (0, 1):
            before = sorted(box[axis] for box in boxes)
            after = sorted(resized[axis] - box[axis + 2] - box[axis] for box in boxes)
            assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= most


@given(image=images, plan=published, wanted=st.sampled_from(SQUARE))
def test_a_portrait_is_the_landscape_lying_on_its_side(image: Size, plan: Plan, wanted: Input) -> None:
    assume(plan.refusal(wanted) is None)

    def turned(view: View) -> View:
        (left, top, width, height), resized, size = view.box, view.resized, view.size
        box = Box(top, left, height, width)
        return View(Size(*resized[::-1]), box, Size(*size[::-1]), view.mirrored, view.weight)

    portrait = plan.views(Size(image.height, image.width), wanted)
    assert Counter(portrait) == Counter(map(turned, plan.views(image, wanted)))


@given(side=sides, wanted=st.sampled_from(SQUARE))
def test_a_square_image_has_one_square(side: int, wanted: Input) -> None:
    """48 of the 144 are distinct, each three times; the two ten crops coincide."""
    image = Size(side, side)
    distinct = PUBLISHED["inception_144"].views(image, wanted).distinct()
    assert [view.weight for view in distinct] == [3.0] * 48
    assert PUBLISHED["ten_crop"].views(image, wanted).views == PUBLISHED["ten_crop_square"].views(image, wanted).views


# --- which network runs which plan

CROPS = ["center", "flips", "five_crop", "ten_crop"]
SQUARES = ["ten_crop_square", "inception_144", "inception_12"]
GRIDS = ["vgg_50", "vgg_150"]
DENSE = ["dense", "dense_mirrored", "dense_multiscale", "dense_five_scale", "multicrop_dense"]


@pytest.mark.parametrize(
    ("wanted", "valid"),
    [
        (network(224, 256), [*CROPS, *SQUARES, *GRIDS, *DENSE, "larger_center", "googlenet_144"]),
        (network(224, 256, dynamic=False), [*CROPS, *SQUARES, *GRIDS, "googlenet_144"]),
        (network(299, 342), [*CROPS, *SQUARES, *GRIDS, *DENSE, "larger_center"]),
        (network(227, 256, dynamic=False), [*CROPS, *SQUARES, *GRIDS]),
        (network(32, 32), [*CROPS, *SQUARES, *GRIDS, *DENSE, "larger_center", "shifts"]),
        (network(28, 28, dynamic=False), [*CROPS, *SQUARES, *GRIDS, "shifts"]),
        (network(64, 64, dynamic=False), [*CROPS, *SQUARES, *GRIDS, "shifts"]),
        (network(65, 65, dynamic=False), [*CROPS, *SQUARES, *GRIDS]),
        (network(224, 256, height=160), [*CROPS, *GRIDS, *DENSE, "larger_center"]),
    ],
)
def test_a_network_runs_the_plans_that_suit_it(wanted: Input, valid: list[str]) -> None:
    assert {name for name, plan in PUBLISHED.items() if plan.refusal(wanted) is None} == set(valid)


FIXED = network(224, 256, dynamic=False)
SMALL = network(32, 32)


@pytest.mark.parametrize(
    ("plan", "wanted", "reason"),
    [
        (PUBLISHED["dense"], FIXED, "it needs a network that takes any size; this one takes 224 x 224 alone"),
        (PUBLISHED["larger_center"], FIXED, "it needs a network that takes any size; this one takes 224 x 224 alone"),
        (
            PUBLISHED["googlenet_144"],
            network(299, 342),
            "it is published for inputs of 224 x 224; the network's is 299 x 299",
        ),
        (PUBLISHED["ten_crop_square"], network(64, 64, height=48), "it cuts squares; the network's input is 64 x 48"),
        (
            PUBLISHED["shifts"],
            FIXED,
            "it is for networks of at most 64 pixels; ten_crop moves the view of larger ones",
        ),
        (Part(scales=(256, 200)), FIXED, "a shorter side of 200 is smaller than the views of 224 pixels"),
        (Part(size=288), network(224, 256), "a shorter side of 256 is smaller than the views of 288 pixels"),
        (
            Part(scales=(200,), crops="dense"),
            network(224, 256),
            "a shorter side of 200 is smaller than the input of 224 pixels",
        ),
        (
            Part(crops="shifts", distance=32),
            SMALL,
            "a shift of 32 pixels moves the view off an image of 32",
        ),
        (Part(crops="shifts", distance=31), SMALL, None),
        (Part(crops="shifts", distance=28), FIXED, None),
        (Part(scales=(224,)), FIXED, None),
        (Part(scales=(20,), crops="shifts"), SMALL, None),  # black around
    ],
)
def test_a_refusal_says_why(plan: Plan | Part, wanted: Input, reason: str | None) -> None:
    plan = plan if isinstance(plan, Plan) else Plan(name="mine", source="", parts=(plan,))
    assert plan.refusal(wanted) == reason


scales = st.none() | st.lists(st.integers(8, 60), min_size=1, max_size=2).map(tuple)
crops: st.SearchStrategy[Crops] = st.sampled_from(["centre", "corners", "corners_and_centre", "shifts", "dense", 2, 3])


@st.composite
def parts(draw: st.DrawFn) -> Part:
    cut: Crops = draw(crops)
    square = 0 if cut == "dense" else draw(st.sampled_from([0, 1, 3]))
    return Part(
        scales=draw(scales),
        crops=cut,
        squares=square,
        whole=bool(square) and draw(st.booleans()),
        mirror=draw(st.booleans()),
        size=None if cut == "dense" else draw(st.sampled_from([None, 16, 40])),
        distance=draw(st.none() | st.integers(1, 60)) if cut == "shifts" else None,
    )


@settings(max_examples=150)
@given(
    part=parts(),
    wanted=st.sampled_from([network(32, 32), network(32, 40, dynamic=False), network(24, 32, height=32)]),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    only=st.integers(0, 99),
)
def test_what_is_not_refused_can_be_drawn(part: Part, wanted: Input, width: int, height: int, only: int) -> None:
    """All of its views, and one alone, as early exit and learned weights draw it."""
    plan = Plan(name="mine", source="", parts=(part,))
    assume(plan.refusal(wanted) is None)
    image = Image.new("RGB", (min(width, 8 * height), min(height, 8 * width)), "white")
    views = plan.views(Size(*image.size), wanted).views
    assert len(views) == len(plan)
    for chosen in (views, [views[only % len(views)]]):
        for size in {view.size for view in chosen}:
            alike = [view for view in chosen if view.size == size]
            rows = np.zeros((len(alike), size.height, size.width, 3), np.uint8)
            render(image, alike, rows, wanted.interpolation)
            assert (rows.max(axis=(1, 2, 3)) == 255).all()  # something of the white image is in each


def test_a_view_that_a_shift_moved_off_the_image_is_refused() -> None:
    """It was drawn as "height and width must be > 0", on wide images alone."""
    part = Part(crops="shifts", distance=40)
    weights = (1.0, 0, 0, 0, 0, 0, 0, 0, 0)
    plan = Plan(name="mine", source="", parts=(part,), weights=weights)
    assert plan.refusal(SMALL) == "a shift of 40 pixels moves the view off an image of 32"


# --- the data


@pytest.mark.parametrize(
    ("part", "count"),
    [
        (Part(), 1),
        (Part(mirror=True), 2),
        (Part(crops="corners"), 4),
        (Part(crops="corners_and_centre", mirror=True), 10),
        (Part(crops="shifts"), 9),
        (Part(crops=5, mirror=True), 50),
        (Part(crops=16), 256),
        (Part(scales=(256, 288), crops="dense", mirror=True), 4),
        (Part(scales=(256, 288, 320, 352), squares=3, crops="corners_and_centre", whole=True, mirror=True), 144),
        (Part(squares=1, whole=True), 2),
    ],
)
def test_a_part_is_a_product(part: Part, count: int) -> None:
    plan = Plan(name="mine", source="", parts=(part, Part()))
    assert len(part) == count
    assert len(plan) == count + 1 == len(plan.views(Size(640, 480), network(224, 256)))


def test_a_network_s_own_scale_is_meant_where_none_is_given() -> None:
    views = Plan(name="mine", source="", parts=(Part(),)).views(Size(500, 375), network(224, 300))
    assert views.views == (View(Size(400, 300), Box(88, 38, 224, 224), Size(224, 224)),)


def test_scales_and_sizes_of_a_plan_without_native_are_pixels() -> None:
    plan = Plan(name="mine", source="", parts=(Part(scales=(300,), size=288),))
    assert plan.views(Size(500, 375), network(299, 342)).views == (
        View(Size(400, 300), Box(56, 6, 288, 288), Size(288, 288)),
    )


def test_scales_and_sizes_of_a_plan_with_native_are_in_proportion() -> None:
    plan = Plan(name="mine", source="", parts=(Part(scales=(288,), size=256),), native=224)
    view = plan.views(Size(64, 64), network(32, 32)).views[0]
    assert (view.resized, view.size) == (Size(41, 41), Size(37, 37))  # 41.14 and 36.57


def test_a_part_s_weight_is_shared_by_its_views() -> None:
    plan = Plan(name="mine", source="", parts=(Part(crops="corners", weight=3), Part(mirror=True)))
    assert [view.weight for view in plan.views(Size(64, 64), SMALL)] == [0.75] * 4 + [1.0] * 2


@pytest.mark.parametrize("weight", [5e-324, 1e-7, 1e7, 1e308])
def test_weights_of_parts_whose_mean_would_be_no_number_are_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        Part(crops="corners", weight=weight)


def test_views_that_weigh_nothing_are_left_out() -> None:
    plan = Plan(name="mine", source="", parts=(Part(crops="corners"),), weights=(0.25, 0, 0.75, 0))
    views = plan.views(Size(64, 48), SMALL)
    assert [(view.box.left, view.box.top, view.weight) for view in views] == [(0, 0, 0.25), (0, 0, 0.75)]
    assert [view.weight for view in views.distinct()] == [1.0]
    assert len(plan) == 4


def test_a_view_plan_is_a_sequence_of_its_views() -> None:
    view = View(Size(32, 32), Box(0, 0, 32, 32), Size(32, 32))
    assert list(ViewPlan("one", (view, view))) == [view, view]


def test_weights_are_given_once_and_sum_to_one() -> None:
    def plan(*weights: float, part: Part | None = None) -> Plan:
        return Plan(name="mine", source="", parts=(part or Part(mirror=True),), weights=weights)

    assert plan(0.5, 0.5 + 9e-7).weights
    for weights, said in [
        ((0.5, 0.4), r"the weights sum to 0\.9; divide each by that"),
        ((0.5, 0.5 + 2e-6), r"the weights sum to 1\.000002; divide"),
        ((1.0,), "1 weights for 2 views; give one for each"),
        ((), "0 weights for 2 views; give one for each"),
        ((1.5, -0.5), "greater than or equal to 0"),
    ]:
        with pytest.raises(ValidationError, match=said):
            plan(*weights)
    with pytest.raises(ValidationError, match="weights stand for each view, or a weight for each part"):
        plan(0.5, 0.5, part=Part(mirror=True, weight=1))
