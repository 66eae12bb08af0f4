"""The published plans against the numbers of their papers, and plans that a user writes, right and wrong."""

from pathlib import Path

import pytest

from bundle.errors import BundleError
from bundle.manifest import Input
from bundle.plan import Part
from bundle.plans import PUBLISHED, read_plan, read_plans
from bundle.views import Box, Size, View, ViewPlan
from published import TABLE

PHOTO, PORTRAIT, SQUARE = Size(500, 375), Size(375, 500), Size(400, 400)
IMAGENET = Input(height=224, width=224, channels=3, dynamic=True, resize=256)
INCEPTION = Input(height=299, width=299, channels=3, dynamic=True, resize=342)
CIFAR = Input(height=32, width=32, channels=3, dynamic=True, resize=32)

COUNTS = {
    "center": 1, "flips": 2, "shifts": 9, "five_crop": 5, "ten_crop": 10, "ten_crop_square": 10, "larger_center": 1,
    "googlenet_144": 4 * 3 * 6 * 2, "inception_144": 144, "inception_12": 6 * 2, "vgg_50": 5 * 5 * 2,
    "vgg_150": 3 * 25 * 2, "dense": 1, "dense_mirrored": 2, "dense_multiscale": 3 * 2, "dense_five_scale": 5 * 2,
    "multicrop_dense": 150 + 6,
}  # fmt: skip


def views(name: str, image: Size = PHOTO, wanted: Input = IMAGENET) -> ViewPlan:
    assert PUBLISHED[name].refusal(wanted) is None
    return PUBLISHED[name].views(image, wanted)


def offsets(seen: tuple[View, ...] | list[View]) -> list[tuple[int, int]]:
    """Of the views that are not mirrored, in their order."""
    return [(view.box.left, view.box.top) for view in seen if not view.mirrored]


# --- counts and costs


def test_every_plan_has_its_published_number_of_views() -> None:
    assert {name: len(plan) for name, plan in PUBLISHED.items()} == COUNTS


def test_plans_are_found_by_their_names_and_say_where_they_come_from() -> None:
    assert all(plan.name == name and plan.source.endswith(".") for name, plan in PUBLISHED.items())
    assert all(views(name, wanted=CIFAR if name == "shifts" else IMAGENET).name == name for name in PUBLISHED)


@pytest.mark.parametrize(
    ("name", "architecture", "gmacs"),
    [
        ("ten_crop", "alexnet_2012", 7.2),
        ("googlenet_144", "googlenet_2014", 228),
        ("googlenet_144", "googlenet", 216),
        ("googlenet_144", "bn_inception_slim", 279),
        ("googlenet_144", "bn_inception_caffe", 293),
        ("inception_144", "inception_v3", 823),
        ("ten_crop", "resnet50", 40.9),
        ("vgg_150", "vgg16", 2321),
    ],
)
def test_multi_crop_costs_what_is_published(name: str, architecture: str, gmacs: float) -> None:
    """To all digits that are printed."""
    cost = len(views(name, wanted=INCEPTION if architecture == "inception_v3" else IMAGENET)) * TABLE[architecture][2]
    assert abs(cost / 1e9 - gmacs) <= (0.5 if gmacs > 100 else 0.05)


# --- where the views of a 500 x 375 image lie


def test_five_crop_is_the_plain_half_of_ten_crop() -> None:
    assert offsets(views("ten_crop").views) == [(0, 0), (117, 0), (0, 32), (117, 32), (58, 16)]
    assert {view.resized for view in views("ten_crop")} == {Size(341, 256)}
    assert views("five_crop").views == views("ten_crop").views[::2]
    assert offsets(views("ten_crop", PORTRAIT).views) == [(0, 0), (32, 0), (0, 117), (32, 117), (16, 58)]


def test_ten_crop_square_takes_the_corners_of_the_central_square() -> None:
    assert offsets(views("ten_crop_square").views) == [(42, 0), (74, 0), (42, 32), (74, 32), (58, 16)]
    assert offsets(views("ten_crop_square", PORTRAIT).views) == [(0, 42), (32, 42), (0, 74), (32, 74), (16, 58)]
    # 343 x 256: the square starts at 43.5 -> 44, its centred crop at 44 + 16; that of the rectangle at 59.5 -> 60.
    assert offsets(views("ten_crop_square", Size(343, 256)).views) == [(44, 0), (76, 0), (44, 32), (76, 32), (60, 16)]


GOOGLENET = [(Size(341, 256), (0, 42, 85), 16), (Size(384, 288), (0, 48, 96), 32), (Size(426, 320), (0, 53, 106), 48),
             (Size(469, 352), (0, 58, 117), 64)]  # fmt: skip
INCEPTION_3 = [(Size(456, 342), (0, 57, 114), 22), (Size(512, 384), (0, 64, 128), 42),
               (Size(569, 427), (0, 71, 142), 64), (Size(626, 470), (0, 78, 156), 86)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wanted", "scales"),
    [
        ("googlenet_144", IMAGENET, GOOGLENET),
        ("inception_144", IMAGENET, GOOGLENET),
        ("inception_144", INCEPTION, INCEPTION_3),
    ],
)
@pytest.mark.parametrize("image", [PHOTO, PORTRAIT])
def test_the_144_are_four_scales_three_squares_six_places_and_a_mirror(
    name: str, wanted: Input, scales: list[tuple[Size, tuple[int, ...], int]], image: Size
) -> None:
    """21.5 and 85.5 go up to the even 22 and 86, 42.5 down to 42."""
    landscape, n = image is PHOTO, wanted.width
    expected = []
    for resized, starts, middle in scales:
        side, end = resized.height, resized.height - n
        for start in starts:
            left, top = (start, 0) if landscape else (0, start)
            places = [(0, 0), (end, 0), (0, end), (end, end), (middle, middle)]
            boxes = [*(Box(left + x, top + y, n, n) for x, y in places), Box(left, top, side, side)]
            size = resized if landscape else Size(*resized[::-1])
            expected += [View(size, box, wanted.size, mirrored) for box in boxes for mirrored in (False, True)]
    assert list(views(name, image, wanted)) == expected


def test_a_square_image_has_48_of_the_144_each_three_times() -> None:
    distinct = views("googlenet_144", SQUARE).distinct()
    assert [view.weight for view in distinct] == [3.0] * 48
    assert {view.resized for view in distinct} == {Size(s, s) for s in (256, 288, 320, 352)}


def test_of_the_24_whole_squares_near_ones_leave_six_and_two_of_a_square_image() -> None:
    """They show the same part of the image at four scales; no other two of the 144 do.

    The central squares begin at 61.58, 62.5, 62.21 and 61.83 pixels of the image; a pixel of the view is 1.67 of them.
    """
    assert len(views("googlenet_144").distinct()) == 144
    near = views("googlenet_144").distinct(near=True)
    whole = [view for view in near if view.box.width == view.resized.height]
    assert [(view.box.left, view.box.width, view.weight) for view in whole if not view.mirrored] == [
        (0, 256, 4.0),
        (42, 256, 4.0),
        (85, 256, 4.0),
    ]
    assert len(near) == 144 - 24 + 6
    near = views("googlenet_144", SQUARE).distinct(near=True)
    assert [view.weight for view in near if view.box.width == view.resized.width] == [12.0] * 2
    assert len(near) == 48 - 8 + 2


def test_inception_12_is_the_central_square_of_the_first_scale() -> None:
    """The second square of the 144."""
    assert views("inception_12", wanted=INCEPTION).views == views("inception_144", wanted=INCEPTION).views[12:24]


GRIDS = [(Size(341, 256), (0, 29, 58, 88, 117), (0, 8, 16, 24, 32)),
         (Size(512, 384), (0, 72, 144, 216, 288), (0, 40, 80, 120, 160)),
         (Size(682, 512), (0, 114, 229, 344, 458), (0, 72, 144, 216, 288))]  # fmt: skip


def test_the_150_are_three_grids_of_five_by_five() -> None:
    expected = [
        View(resized, Box(x, y, 224, 224), Size(224, 224), mirrored)
        for resized, xs, ys in GRIDS
        for y in ys
        for x in xs
        for mirrored in (False, True)
    ]
    assert list(views("vgg_150")) == expected
    assert list(views("vgg_50")) == expected[:50]


DENSE = {
    "dense": [(341, 256)],
    "dense_mirrored": [(341, 256)],
    "dense_multiscale": [(341, 256), (512, 384), (682, 512)],
    "dense_five_scale": [(298, 224), (341, 256), (512, 384), (640, 480), (853, 640)],
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_views_are_the_whole_resized_image(name: str) -> None:
    seen = views(name)
    assert [view.resized for view in seen if not view.mirrored] == DENSE[name]
    assert all(view.box == Box(0, 0, *view.resized) and view.size == view.resized for view in seen)


@pytest.mark.parametrize(("resized", "places"), [((341, 256), (2, 4)), ((512, 384), (6, 10)), ((682, 512), (10, 15))])
def test_the_dense_scales_of_vgg_have_its_score_maps(resized: tuple[int, int], places: tuple[int, int]) -> None:
    """Five floor-pools, then windows of 7 x 7."""
    assert resized in DENSE["dense_multiscale"]
    assert (resized[1] // 32 - 6, resized[0] // 32 - 6) == places


def test_multicrop_dense_weighs_both_halves_the_same() -> None:
    """The mean of two posteriors, each of them a mean."""
    seen = views("multicrop_dense").views
    crops, dense = seen[:150], seen[150:]
    assert [(view.box, view.mirrored) for view in crops] == [(view.box, view.mirrored) for view in views("vgg_150")]
    assert [(view.size, view.mirrored) for view in dense] == [
        (view.size, view.mirrored) for view in views("dense_multiscale")
    ]
    assert {view.weight for view in crops} == {1 / 150}
    assert {view.weight for view in dense} == {1 / 6}


def test_larger_center_is_one_view_of_the_whole_shorter_side() -> None:
    assert list(views("larger_center")) == [View(Size(384, 288), Box(48, 0, 288, 288), Size(288, 288))]
    (view,) = views("larger_center", wanted=INCEPTION)
    assert view.size == (384, 384)  # 288 * 299 / 224 is 384.4


def test_shifts_of_32_are_by_four_pixels() -> None:
    seen = views("shifts", Size(32, 32), CIFAR).views
    assert offsets(list(seen)) == [(0, 0), (0, -4), (-4, 0), (4, 0), (0, 4), (-4, -4), (4, -4), (-4, 4), (4, 4)]
    assert {view.box[2:] for view in seen} == {(32, 32)}


def test_flips_are_the_central_crop_and_its_mirror_image() -> None:
    plain, mirror = views("flips")
    assert [plain] == list(views("center")) == [View(Size(341, 256), Box(58, 16, 224, 224), Size(224, 224))]
    assert mirror == View(plain.resized, plain.box, plain.size, mirrored=True)


# --- plans of a user's own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plans").mkdir()
    return tmp_path


def written(folder: Path, content: str | bytes, name: str = "mine.toml") -> Path:
    path = folder / "plans" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


EVERY_KEY = """
source = "Two scales and a closer look."
average = "logits"
[[parts]]
scales = [256, 288]
squares = 3
crops = "corners"
whole = true
mirror = true
weight = 2
[[parts]]
crops = 3
size = 224
[[parts]]
scales = [224]
crops = "shifts"
distance = 16
weight = 0.5
[[parts]]
crops = "dense"
"""


def test_a_plan_in_toml_has_every_key(folder: Path) -> None:
    plan = read_plan(written(folder, EVERY_KEY))
    assert (plan.name, plan.source, plan.average) == ("mine", "Two scales and a closer look.", "logits")
    assert plan.parts == (
        Part(scales=(256, 288), squares=3, crops="corners", whole=True, mirror=True, weight=2),
        Part(crops=3, size=224),
        Part(scales=(224,), crops="shifts", distance=16, weight=0.5),
        Part(crops="dense"),
    )
    seen = plan.views(PHOTO, IMAGENET).views
    assert len(plan) == len(seen) == 2 * 3 * 5 * 2 + 9 + 9 + 1
    assert sum(view.weight for view in seen) == pytest.approx(2 + 9 + 0.5 + 1)


def test_a_base_gives_its_views_and_the_file_its_weights(folder: Path) -> None:
    content = 'base = "five_crop"\nweights = [0.1, 0.2, 0.3, 0.4, 0]\n[learned]\ndata = "digits"\nerrors = [8.1, 7.9]\n'
    plan = read_plan(written(folder, content))
    assert [view.weight for view in plan.views(PHOTO, IMAGENET)] == [0.1, 0.2, 0.3, 0.4]
    assert offsets(plan.views(PHOTO, IMAGENET).views) == offsets(views("five_crop").views)[:4]
    assert plan.source == "A plan of this model's own."


def test_a_base_keeps_its_proportions_and_what_it_is_for(folder: Path) -> None:
    plan = read_plan(written(folder, 'base = "googlenet_144"'))
    assert plan.views(PHOTO, IMAGENET).views == views("googlenet_144").views
    assert plan.refusal(INCEPTION) == PUBLISHED["googlenet_144"].refusal(INCEPTION)


def test_learned_weights_replace_those_of_the_base_s_parts(folder: Path) -> None:
    """The parts of multicrop_dense have a weight, and a file that gave one for each view was refused."""
    weights = [2 / 3 / 150] * 150 + [1 / 3 / 6] * 6
    plan = read_plan(written(folder, f'base = "multicrop_dense"\nweights = {weights}'))
    assert [view.weight for view in plan.views(PHOTO, IMAGENET)] == pytest.approx(weights)


def test_a_mark_before_the_text_is_no_part_of_it(folder: Path) -> None:
    """As editors of Windows write it."""
    assert len(read_plan(written(folder, b'\xef\xbb\xbfbase = "flips"\r\n'))) == 2


PART = "[[parts]]\n"
CUTS = "is none of centre, corners, corners_and_centre, shifts, dense, nor a number from 2 to 16 for a grid"
LIST = "write a list: [...], or tables whose name stands in double brackets, [[...]]"

WRONG = [
    ("", 'name the views: base = "ten_crop", or [[parts]] tables'),
    ('base = "flips"\n[[parts]]', 'name the views: base = "ten_crop", or [[parts]] tables'),
    ('base = "eleven_crop"', f"base 'eleven_crop' is no published plan; choose one of {', '.join(PUBLISHED)}"),
    ("base = 10", "base: Input should be a valid string, not 10"),
    ('base = "flips"\nscale = 1', "scale: there is no such key"),
    ('base = "flips"\nsource = 1', "source: Input should be a valid string, not 1"),
    ('base = "flips"\naverage = "max"', "average: Input should be 'probabilities' or 'logits', not 'max'"),
    ('base = "flips"\nlearned = "yes"', "learned: Input should be a valid dictionary, not 'yes'"),
    ('base = "flips"\nweights = [0.5, 0.4]', "the weights sum to 0.9; divide each by that, so that they sum to 1"),
    ('base = "flips"\nweights = [1]', "1 weights for 2 views; give one for each"),
    ('base = "flips"\nweights = []', "0 weights for 2 views; give one for each"),
    ('base = "flips"\nweights = [1.5, -0.5]', "weights.1: Input should be greater than or equal to 0, not -0.5"),
    ('base = "flips"\nweights = [nan, 1]', "weights.0: Input should be a finite number, not nan"),
    ('base = "flips"\nweights = 1', f"weights: {LIST}"),
    (
        "weights = [1]\n[[parts]]\nweight = 1",
        "weights stand for each view, or a weight for each part; give one of them",
    ),
    ("parts = []", "parts: give one at least"),
    ("[parts]", f"parts: {LIST}"),
    (PART + "mirrored = true", "parts.0.mirrored: there is no such key"),
    (
        '[[parts]]\n[[parts]]\nmirror = "left"',
        "parts.1.mirror: Input should be a valid boolean, unable to interpret input, not 'left'",
    ),
    (PART + 'crops = "middle"', f"parts.0.crops: 'middle' {CUTS}"),
    (PART + "crops = 1", f"parts.0.crops: 1 {CUTS}"),
    (PART + "crops = 17", f"parts.0.crops: 17 {CUTS}"),
    (PART + "crops = 2.5", f"parts.0.crops: 2.5 {CUTS}"),
    (PART + "crops = [3]", f"parts.0.crops: [3] {CUTS}"),
    (PART + "squares = 2", "parts.0.squares: Input should be 0, 1 or 3, not 2"),
    (PART + "whole = true", "parts.0: whole adds the squares themselves; say how many with squares = 1 or 3"),
    (PART + 'crops = "dense"\nsquares = 1', "parts.0: dense views are the whole image; leave squares and size out"),
    (PART + 'crops = "dense"\nsize = 224', "parts.0: dense views are the whole image; leave squares and size out"),
    (PART + "distance = 4", 'parts.0: distance is that of crops = "shifts"'),
    (PART + 'crops = "shifts"\ndistance = 0', "parts.0.distance: Input should be greater than or equal to 1, not 0"),
    (PART + "scales = 256", f"parts.0.scales: {LIST}"),
    (PART + "scales = []", "parts.0.scales: give one at least"),
    (PART + "scales = [256, 0]", "parts.0.scales.1: Input should be greater than or equal to 1, not 0"),
    (PART + "scales = [5000]", "parts.0.scales.0: Input should be less than or equal to 4096, not 5000"),
    (PART + "size = 0", "parts.0.size: Input should be greater than or equal to 1, not 0"),
    (PART + "weight = 0", "parts.0.weight: Input should be greater than or equal to 0.000001, not 0"),
    (PART + "weight = inf", "parts.0.weight: Input should be a finite number, not inf"),
    (
        PART + "crops = 16\nscales = [256, 288, 320, 352]\nmirror = true\n" + PART,
        "2049 views are more than 2048; leave some out",
    ),
]


@pytest.mark.parametrize(("content", "said"), WRONG)
def test_a_wrong_value_is_refused_by_its_place(folder: Path, content: str, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        read_plan(written(folder, content))
    assert str(caught.value) == f"mine.toml: {said}"


@pytest.mark.parametrize(
    "content",
    [b"base = ", b'base = "fl\xefps"', b'base = "flips"\nbase = "flips"', b"\xff\xfeb\0", b"{}", b"a = " + b"[" * 5000],
)
def test_what_is_no_toml_is_refused(folder: Path, content: bytes) -> None:
    """Five thousand brackets were a RecursionError."""
    with pytest.raises(BundleError, match=r"^mine\.toml is no TOML file in UTF-8: "):
        read_plan(written(folder, content))


@pytest.mark.parametrize("stem", ["Mine", "my-plan", "my plan", "_mine", "a.b", "m" * 65, "größer", ".mine"])
def test_a_name_that_no_request_can_ask_for_is_refused(folder: Path, stem: str) -> None:
    with pytest.raises(BundleError, match="name the plan with small letters, digits and '_', at most 64"):
        read_plan(written(folder, 'base = "flips"', f"{stem}.toml"))


def test_a_published_name_is_not_given_away(folder: Path) -> None:
    with pytest.raises(
        BundleError, match=r"^ten_crop\.toml: ten_crop is a published plan; give the file another name$"
    ):
        read_plan(written(folder, 'base = "flips"', "ten_crop.toml"))


def test_one_wrong_file_does_not_cost_the_others(folder: Path) -> None:
    written(folder, 'base = "flips"', "both.toml")
    written(folder, "[[parts]]", "a_1.toml")
    written(folder, "base = 1", "wrong.toml")
    written(folder, 'base = "flips"', "dense.toml")
    written(folder, 'base = "flips"', "notes.txt")
    (folder / "plans" / "folder.toml").mkdir()
    plans, refused = read_plans(folder)
    assert {name: plan.name for name, plan in plans.items()} == {"a_1": "a_1", "both": "both"}
    assert refused == {
        "dense": "dense.toml: dense is a published plan; give the file another name",
        "folder": "folder.toml is no file; write a plain one",
        "wrong": "wrong.toml: base: Input should be a valid string, not 1",
    }


def test_a_model_without_a_folder_of_plans_has_none(tmp_path: Path) -> None:
    assert read_plans(tmp_path) == ({}, {})
