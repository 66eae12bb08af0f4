"""Drawing views against Pillow's plain way: resize the whole image, then cut, then mirror."""

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bundle.manifest import Input
from bundle.plans import PUBLISHED
from bundle.preprocess import Interpolation, Pixels
from bundle.render import Scaled, render
from bundle.views import Box, Size, View
from samples import photographs


def network(side: int, resize: int, interpolation: Interpolation = "bilinear") -> Input:
    return Input(height=side, width=side, channels=3, dynamic=True, resize=resize, interpolation=interpolation)


NETWORKS = [network(224, 256), network(299, 342), network(32, 36), network(32, 32)]
CASES = [
    (name, wanted)
    for wanted in NETWORKS
    for name, plan in PUBLISHED.items()
    if plan.refusal(wanted) is None and (wanted.width != 299 or len(plan) <= 12)
]
IDS = [f"{name}-{wanted.width}-{wanted.resize}" for name, wanted in CASES]


def planned(name: str, image: Image.Image, wanted: Input) -> list[View]:
    return list(PUBLISHED[name].views(Size(*image.size), wanted).distinct())


def drawn(scaled: Scaled, views: Sequence[View], channels: int = 3) -> list[Pixels]:
    """One by one in their order: those of a plan have several sizes."""
    rows = [np.full((1, view.size.height, view.size.width, channels), 77, np.uint8) for view in views]
    for view, row in zip(views, rows, strict=True):
        scaled.draw([view], row)
    return [row[0] for row in rows]


def drawn_plainly(
    image: Image.Image, views: Sequence[View], resample: Image.Resampling = Image.Resampling.BILINEAR
) -> list[Pixels]:
    """Resize the whole image, cut, resize the cut where it is a whole square, mirror."""
    wholes = {resized: image.resize(resized, resample) for resized in {view.resized for view in views}}
    rows = []
    for view in views:
        left, top, width, height = view.box
        cut = wholes[view.resized].crop((left, top, left + width, top + height))
        if cut.size != view.size:
            cut = cut.resize(view.size, resample)
        if view.mirrored:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        rows.append(np.asarray(cut).reshape(view.size.height, view.size.width, -1))
    return rows


def apart(found: Pixels, expected: Pixels) -> Pixels:
    """Of each value."""
    assert found.shape == expected.shape
    return np.asarray(np.maximum(found, expected) - np.minimum(found, expected))


def differences(image: Image.Image, name: str, wanted: Input) -> tuple[int, float]:
    """From the plain way: the largest of a value, in levels, and the part of values that differ."""
    views = planned(name, image, wanted)
    found = drawn(Scaled(image, views, "bilinear"), views, len(image.getbands()))
    each = [apart(row, plain) for row, plain in zip(found, drawn_plainly(image, views), strict=True)]
    differ = sum(int((difference > 0).sum()) for difference in each)
    return max(int(difference.max()) for difference in each), differ / sum(difference.size for difference in each)


@pytest.mark.parametrize(("name", "wanted"), CASES, ids=IDS)
def test_photographs_are_drawn_as_the_plain_way_draws_them(name: str, wanted: Input) -> None:
    china, flower = photographs()
    for image in (china, flower, china.convert("L")):
        level, part = differences(image, name, wanted)
        assert level <= 1
        assert part < 3e-3


@settings(max_examples=60)
@given(
    width=st.integers(5, 300),
    height=st.integers(5, 300),
    case=st.sampled_from([case for case in CASES if len(PUBLISHED[case[0]]) <= 50 and "dense" not in case[0]]),
    seed=st.integers(0, 2**32 - 1),
)
def test_noise_of_any_size_is_drawn_within_one_level(
    width: int, height: int, case: tuple[str, Input], seed: int
) -> None:
    longest = 4 * min(width, height)
    size = (min(width, longest), min(height, longest), 3)
    noise = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    level, part = differences(Image.fromarray(noise), *case)
    assert level <= 1
    assert part < 0.1


@pytest.mark.parametrize("size", [(288, 192), (155, 237), (162, 108), (320, 204)])
def test_an_enlarged_image_is_never_two_levels_off(size: tuple[int, int]) -> None:
    """Cut along both sides these were: a float32 box moved exact ties in both passes."""
    for photo in photographs():
        for name in ("center", "ten_crop_square", "inception_12"):
            image = photo.crop((100, 50, 100 + size[0], 50 + size[1]))
            assert differences(image, name, network(299, 342))[0] <= 1


def test_a_square_that_is_resized_twice_is_within_one_level_of_resizing_twice() -> None:
    """The plain way is resize, cut, resize. One resize of that part of the photograph would be another view."""
    china = photographs()[0]
    views = [view for view in planned("googlenet_144", china, NETWORKS[0]) if view.box.width > 224]
    assert len(views) == 24
    rows = [drawn(Scaled(china, [view], "bilinear"), [view])[0] for view in views]  # each from a cut for itself
    twice = [apart(row, plain) for row, plain in zip(rows, drawn_plainly(china, views), strict=True)]
    once = []
    for row, view in zip(rows, views, strict=True):
        across, down = china.width / view.resized.width, china.height / view.resized.height
        left, top, width, height = view.box
        source = (left * across, top * down, (left + width) * across, (top + height) * down)
        plain = np.asarray(china.resize(view.size, Image.Resampling.BILINEAR, box=source))
        once.append(apart(row, plain[:, ::-1] if view.mirrored else plain))
    print(f"resized twice: {np.max(twice)} level, {np.mean(np.array(twice) > 0):.1e} of the values; "
          f"resized once: {np.max(once)} levels, {np.mean(once):.1f} on average")  # fmt: skip
    assert np.max(twice) <= 1
    assert np.max(once) > 20


@pytest.mark.parametrize(("name", "wanted"), CASES, ids=IDS)
def test_squares_and_portraits_are_drawn_exactly(name: str, wanted: Input) -> None:
    for box in ((0, 0, 300, 300), (10, 10, 18, 18), (50, 0, 110, 200)):
        assert differences(photographs()[0].crop(box), name, wanted)[0] == 0


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("dense")])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (33, 29), (500, 100)])
def test_dense_views_are_the_resized_image(name: str, size: tuple[int, int]) -> None:
    """Uncut, so that there is nothing to differ in."""
    image = photographs()[0].resize(size)
    assert differences(image, name, NETWORKS[0]) == (0, 0)


@pytest.mark.parametrize("name", ["ten_crop", "shifts", "inception_144", "vgg_50", "dense_mirrored", "larger_center"])
@settings(max_examples=15)
@given(width=st.integers(5, 300), height=st.integers(5, 300), seed=st.integers(0, 2**32 - 1))
def test_bicubic_is_drawn_exactly_as_the_plain_way_draws_it(name: str, width: int, height: int, seed: int) -> None:
    """Cut first, a few values of it would be off by two levels."""
    size = (min(width, 4 * height), min(height, 4 * width), 3)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))
    views = planned(name, image, network(32, 36, "bicubic"))
    found = drawn(Scaled(image, views, "bicubic"), views)
    for row, plain in zip(found, drawn_plainly(image, views, Image.Resampling.BICUBIC), strict=True):
        np.testing.assert_array_equal(row, plain)


def test_mirroring_comes_after_the_crop() -> None:
    views = planned("ten_crop", photographs()[0], NETWORKS[0])
    rows = np.empty((10, 224, 224, 3), np.uint8)
    render(photographs()[0], views, rows)
    np.testing.assert_array_equal(rows[1::2], rows[::2, :, ::-1])
    assert not np.array_equal(rows[0], rows[2])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (32, 50), (34, 32), (48, 32), (200, 33)])
def test_beyond_the_border_is_black(size: tuple[int, int], mode: str) -> None:
    """Left, top, right and bottom, pixel by pixel: cut of the resized image with a black frame of four pixels."""
    image = photographs()[1].resize(size).convert(mode)
    views = planned("shifts", image, network(32, 32))
    found = drawn(Scaled(image, views, "bilinear"), views, len(mode))
    whole = image.resize(views[0].resized, Image.Resampling.BILINEAR)
    shown = np.asarray(whole).reshape(*whole.size[::-1], -1)
    framed, inside = (np.pad(pixels, ((4, 4), (4, 4), (0, 0))) for pixels in (shown, np.ones_like(shown)))
    left, top = round((whole.width - 32) / 2), round((whole.height - 32) / 2)
    moves = [(0, 0), (-4, 0), (0, -4), (0, 4), (4, 0), (-4, -4), (-4, 4), (4, -4), (4, 4)]
    for row, (down, across) in zip(found, moves, strict=True):
        cut = np.s_[4 + top + down : 36 + top + down, 4 + left + across : 36 + left + across]
        assert (row[inside[cut] == 0] == 0).all()
        assert apart(row, framed[cut]).max() <= (size[0] > size[1])


@pytest.mark.parametrize("name", ["ten_crop", "googlenet_144", "vgg_50"])
def test_views_are_drawn_in_any_order_and_number(name: str) -> None:
    """As early exit draws them, wave after wave."""
    china = photographs()[0]
    views = planned(name, china, NETWORKS[0])
    scaled, chosen = Scaled(china, views, "bilinear"), np.random.default_rng(0).permutation(len(views))[:7]
    together = np.empty((len(views), 224, 224, 3), np.uint8)
    scaled.draw(views, together)
    some = np.empty((7, 224, 224, 3), np.uint8)
    scaled.draw([views[number] for number in chosen], some)
    np.testing.assert_array_equal(some, together[chosen])
    for number in chosen:  # cut for itself alone, from another window
        alone = np.empty((1, 224, 224, 3), np.uint8)
        render(china, [views[number]], alone)
        assert apart(alone[0], together[number]).max() <= 1


def test_the_decoded_image_is_let_go() -> None:
    """Twelve megapixels of it are 36 MB, for as long as a request waits."""
    image = photographs()[0].copy()
    known = weakref.ref(image)
    scaled = Scaled(image, planned("googlenet_144", image, NETWORKS[0]), "bilinear")
    del image
    assert known() is None
    assert scaled is not None


def test_a_plan_of_several_sizes_is_drawn_size_by_size() -> None:
    china = photographs()[0]
    views = planned("multicrop_dense", china, NETWORKS[3])
    assert {view.size for view in views} == {(32, 32), (55, 37), (82, 55), (109, 73)}
    assert differences(china, "multicrop_dense", NETWORKS[3])[0] <= 1
    # A dense view of a scale widens the cut of its crops to the whole image: nothing is left to differ in.
    assert differences(china, "multicrop_dense", NETWORKS[3]) == (0, 0)


def test_a_box_of_another_size_is_scaled_to_the_input() -> None:
    view = View(Size(383, 256), Box(63, 0, 256, 256), Size(224, 224), mirrored=True)
    plain = photographs()[0].resize((383, 256), Image.Resampling.BILINEAR).crop((63, 0, 319, 256))
    expected = np.asarray(plain.resize((224, 224), Image.Resampling.BILINEAR))[:, ::-1]
    assert apart(drawn(Scaled(photographs()[0], [view], "bilinear"), [view])[0], expected).max() <= 1


def test_views_of_several_scales_land_in_their_rows() -> None:
    size = Size(32, 32)
    views = (
        View(Size(60, 40), Box(0, 0, 32, 32), size),
        View(Size(90, 60), Box(50, 20, 32, 32), size),
        View(Size(60, 40), Box(28, 8, 32, 32), size, mirrored=True),
    )
    rows = np.full((3, 32, 32, 3), 77, np.uint8)
    render(photographs()[1], views, rows)
    for row, plain in zip(rows, drawn_plainly(photographs()[1], views), strict=True):
        assert apart(row, plain).max() <= 1
