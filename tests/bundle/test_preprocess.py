"""Decoding and rendering against Pillow's plain way, real files of every kind, and hostile ones."""

import io
import struct
import subprocess
import sys
import tracemalloc
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bundle.errors import BadImageError, ImageError, ImageFormatError
from bundle.manifest import Input
from bundle.plans import PUBLISHED
from bundle.preprocess import FORMATS, ImageLimits, Interpolation, Pixels, Scaled, decode, probe, render
from bundle.views import Box, Size, View
from samples import chunk, encode, photographs, png

# As bundle.preprocess sets it for a process; pytest puts its own "error" before that for each test.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

LIMITS = ImageLimits()
WHOLE = encode(photographs()[0].resize((96, 64)), "PNG")

# Rows of the array that is shown upright when the tag has this value (EXIF 2.32): the first row of the stored
# pixels is the visual top (1, 2), bottom (3, 4), left (5, 8) or right (6, 7) side.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


def array(image: Image.Image) -> npt.NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def oriented(orientation: int, kind: str = "PNG", size: tuple[int, int] = (48, 32)) -> bytes:
    """A photograph stored so that `orientation` makes it upright."""
    stored = STORED[orientation](np.asarray(photographs()[0].resize(size)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, int] = {"PNG": {}, "WEBP": {"lossless": 1}, "JPEG": {"quality": 95, "subsampling": 0}}[kind]
    return encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)


def failure(data: bytes, limits: ImageLimits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, 3, limits)
    assert not [word for word in ("0x", "BytesIO", "PIL", "zlib") if word in str(caught.value)]
    return caught.value


def code(data: bytes, limits: ImageLimits = LIMITS) -> str:
    error = failure(data, limits)
    return error.code if isinstance(error, BadImageError) else "format"


# --- rendering


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
    moves = [(down, across) for down in (-4, 0, 4) for across in (-4, 0, 4)]
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


# --- orientation


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_shows_the_upright_image(orientation: int, kind: str) -> None:
    data = oriented(orientation, kind)
    upright = array(photographs()[0].resize((48, 32)))
    shown = array(decode(data, 3, LIMITS))
    assert probe(data, LIMITS) == (48, 32)
    assert shown.shape == upright.shape
    if kind == "JPEG":  # lossy: turned the wrong way it would be off by 75
        assert np.abs(shown - upright).mean() < 4
    else:
        np.testing.assert_array_equal(shown, upright)


@pytest.mark.parametrize("orientation", [0, 9, 99, 65535])
def test_an_unknown_orientation_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photographs()[0].resize((48, 32)), "JPEG", exif=exif)
    assert decode(data, 3, LIMITS).size == probe(data, LIMITS) == (48, 32)


@pytest.mark.parametrize(
    "exif", [b"garbage", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08"]
)
def test_damaged_exif_does_not_cost_the_image(exif: bytes) -> None:
    data = encode(photographs()[0].resize((48, 32)), "JPEG", exif=exif)
    assert decode(data, 3, LIMITS).size == probe(data, LIMITS) == (48, 32)


@pytest.mark.parametrize("family", ["Landscape", "Portrait"])
def test_real_photographs_of_all_orientations_look_the_same(family: str, shared: Path) -> None:
    files = [(shared / "exif_orientation" / f"{family}_{orientation}.jpg").read_bytes() for orientation in range(9)]
    shown = [decode(data, 3, LIMITS) for data in files]
    assert [probe(data, LIMITS) for data in files] == [image.size for image in shown]
    assert len({image.size for image in shown}) == 1
    # The number of the orientation is painted into each picture; nothing else differs.
    small = np.stack([array(image.resize((48, 48))) for image in shown])
    assert np.abs(small - small[1]).mean(axis=(1, 2, 3)).max() < 6


# --- kinds of pixels


def test_16_bit_grey_keeps_its_upper_byte_exactly() -> None:
    every = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = decode(encode(Image.fromarray(every * 257), "PNG"), 1, LIMITS)
    np.testing.assert_array_equal(np.asarray(image), every)


def test_a_16_bit_grey_ramp_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256 * 256).astype(np.uint16).reshape(256, 256)
    for channels in (1, 3):
        levels = array(decode(encode(Image.fromarray(ramp), "PNG"), channels, LIMITS))
        assert abs(levels.mean() - 127) < 2
        assert (levels.min(), levels.max()) == (0, 255)


@pytest.mark.parametrize(
    ("pixel", "mode", "expected"),
    [
        ((255, 0, 0, 0), "RGBA", (255, 255, 255)),
        ((255, 0, 0, 128), "RGBA", (255, 127, 127)),
        ((255, 0, 0, 255), "RGBA", (255, 0, 0)),
        ((0, 0), "LA", (255, 255, 255)),
        ((0, 128), "LA", (127, 127, 127)),
        (200, "L", (200, 200, 200)),
        (1, "1", (255, 255, 255)),
        (0, "1", (0, 0, 0)),
    ],
)
def test_pixels_become_rgb_and_transparency_becomes_white(
    pixel: int | tuple[int, ...], mode: str, expected: tuple[int, int, int]
) -> None:
    image = decode(encode(Image.new(mode, (4, 4), pixel), "PNG"), 3, LIMITS)
    assert image.mode == "RGB"
    np.testing.assert_allclose(array(image)[0, 0], expected, atol=1)


@pytest.mark.parametrize("transparency", [0, bytes([0, 255]), bytes([0])])
def test_a_transparent_palette_colour_becomes_white(transparency: int | bytes) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 1)
    shown = decode(encode(image, "PNG", transparency=transparency), 3, LIMITS)
    assert shown.getpixel((0, 0)) == (0, 0, 255)
    assert shown.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "clear"), [("L", 7), ("RGB", (7, 8, 9))])
def test_one_transparent_colour_of_a_png_becomes_white(mode: str, clear: int | tuple[int, ...]) -> None:
    data = encode(Image.new(mode, (4, 4), clear), "PNG", transparency=clear)
    assert decode(data, 3, LIMITS).getpixel((0, 0)) == (255, 255, 255)
    assert decode(data, 1, LIMITS).getpixel((0, 0)) == 255


@pytest.mark.parametrize(
    ("ink", "expected"),
    [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk_is_converted_to_rgb(ink: tuple[int, ...], expected: tuple[int, ...]) -> None:
    image = decode(encode(Image.new("CMYK", (16, 16), ink), "JPEG"), 3, LIMITS)
    np.testing.assert_allclose(array(image)[8, 8], expected, atol=2)


@pytest.mark.parametrize("kind", FORMATS)
def test_grey_networks_get_one_channel(kind: str) -> None:
    image = decode(encode(photographs()[0].resize((40, 30)), kind), 1, LIMITS)
    assert (image.mode, image.size) == ("L", (40, 30))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    data = encode(red, kind, save_all=True, append_images=[blue, blue], duration=10)
    np.testing.assert_allclose(array(decode(data, 3, LIMITS))[8, 8], (255, 0, 0), atol=3)


def test_bytes_after_the_image_are_ignored() -> None:
    assert decode(WHOLE + b"PK\x03\x04 <html>", 3, LIMITS).size == (96, 64)


# --- refusals


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "JPEG2000", "EPS"])
def test_other_image_formats_are_refused(kind: str) -> None:
    assert isinstance(failure(encode(photographs()[0].resize((32, 32)), kind)), ImageFormatError)


@pytest.mark.parametrize("data", [b"a", b"hello, world", b"<html></html>", b"\0" * 1000, b"%PDF-1.7", b"II*\0PNG"])
def test_what_is_no_image_is_refused_as_a_format(data: bytes) -> None:
    assert str(failure(data)) == "the bytes are not a JPEG, PNG or WebP image; convert it to one of these"
    with pytest.raises(ImageFormatError):
        probe(data, LIMITS)


def test_no_bytes_are_refused() -> None:
    assert code(b"") == "image_empty"


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"])
def test_a_signature_alone_is_a_damaged_image(data: bytes) -> None:
    assert code(data) == "image_decode_failed"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_jpeg_that_is_cut_short_is_refused(percent: int, progressive: bool) -> None:
    data = encode(photographs()[0], "JPEG", progressive=progressive)
    assert code(data[: len(data) * percent // 100]) == "image_truncated"
    assert code(data[:-2]) == "image_truncated"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_is_a_designed_error_or_the_whole_image(kind: str) -> None:
    small = photographs()[0].resize((24, 16))
    data = encode(small, kind)
    upright = array(decode(data, 3, LIMITS))
    for length in range(1, len(data)):
        try:
            np.testing.assert_array_equal(array(decode(data[:length], 3, LIMITS)), upright)
        except ImageFormatError:
            assert length < 12  # shorter than the signature
        except BadImageError as error:
            assert error.code in {"image_truncated", "image_decode_failed"}  # noqa: PT017 either is right


@pytest.mark.parametrize("kind", FORMATS)
def test_a_flipped_bit_is_a_designed_error_or_an_image(kind: str) -> None:
    data = encode(photographs()[0].resize((24, 16)), kind)
    rng = np.random.default_rng(0)
    for _ in range(300):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            decode(bytes(flipped), 3, LIMITS)
        except ImageError as error:
            assert "0x" not in str(error)  # noqa: PT017 most flips are images


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_a_png_chunk_with_another_crc_is_refused(kind: bytes) -> None:
    """Pillow reads the pixels without their CRC."""
    start = WHOLE.index(kind)
    length = int.from_bytes(WHOLE[start - 4 : start])
    damaged = bytearray(WHOLE)
    damaged[start + 4 + length] ^= 1
    assert code(bytes(damaged)) == "image_decode_failed"


def test_a_changed_pixel_of_a_png_is_noticed_everywhere() -> None:
    """The last bytes were another image: the decompressor had all pixels before it met its own checksum."""
    start = WHOLE.index(b"IDAT") + 4
    end = WHOLE.index(b"IEND") - 8
    for at in [*range(start, end, 97), *range(end - 8, end)]:
        damaged = bytearray(WHOLE)
        damaged[at] ^= 16
        assert code(bytes(damaged)) == "image_decode_failed"


def test_a_png_of_many_pixel_chunks_is_read() -> None:
    pixels = zlib.compress(bytes(5 * 4))  # four rows of one filter byte and four grey pixels
    whole = png(4, 4)
    empty = chunk(b"IDAT", zlib.compress(b""))
    split = b"".join(chunk(b"IDAT", pixels[i : i + 3]) for i in range(0, len(pixels), 3))
    assert decode(whole.replace(empty, split), 3, LIMITS).getpixel((3, 3)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (2**31 - 1, 2**31 - 1, "image_too_large"),
        (20_000, 20_000, "image_too_large"),
        (10_000, 10_000, "image_too_large"),  # Pillow only warns
        (5001, 5000, "image_too_large"),
        (1, 2000, "image_aspect_ratio"),
        (16384, 1, "image_aspect_ratio"),
        (201, 10, "image_aspect_ratio"),
        (0, 0, "image_decode_failed"),
        (0, 1, "image_decode_failed"),
    ],
)
def test_a_header_over_the_limits_is_refused_before_the_pixels(width: int, height: int, expected: str) -> None:
    data = png(width, height)
    tracemalloc.start()
    try:
        with pytest.raises(BadImageError) as caught:
            probe(data, LIMITS)
        assert code(data) == caught.value.code == expected
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_limits_are_inclusive() -> None:
    limits = ImageLimits(max_pixels=200, max_aspect_ratio=2)
    assert probe(encode(Image.new("L", (20, 10)), "PNG"), limits) == (20, 10)
    assert code(encode(Image.new("L", (20, 11)), "PNG"), limits) == "image_too_large"
    assert code(encode(Image.new("L", (19, 9)), "PNG"), limits) == "image_aspect_ratio"


def test_a_huge_webp_canvas_is_refused() -> None:
    frame = encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    side = (16383).to_bytes(3, "little")
    animation = b"\0" * 6 + (7).to_bytes(3, "little") * 2 + b"\0" * 4 + frame
    parts = [(b"VP8X", b"\2\0\0\0" + side * 2), (b"ANIM", b"\0" * 6), (b"ANMF", animation)]
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(content)) + content for kind, content in parts)
    assert code(b"RIFF" + struct.pack("<I", len(body)) + body) == "image_too_large"


def test_a_text_bomb_is_refused() -> None:
    bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(20_000_000)))
    assert code(png(4, 4, bomb, pixels=bytes(20))) == "image_decode_failed"


def test_one_pixel_is_an_image() -> None:
    assert decode(encode(Image.new("RGB", (1, 1), "red"), "PNG"), 3, LIMITS).getpixel((0, 0)) == (255, 0, 0)


# --- real files

REFUSED = {
    "animated.gif": "format",
    "deflate.tif": "format",
    "hopper.avif": "format",
    "hopper.bmp": "format",
    "iss634.gif": "format",
    "rotated.avif": "format",
    "broken_data_stream.png": "image_decode_failed",
    "corrupt_header.jpg": "image_truncated",
    "decompression_bomb.gif": "format",
    "pixel_flood_64250x64250.jpg": "image_too_large",
    "png_65536x65536.png": "image_too_large",
    "png_text_chunk_dos.png": "image_decode_failed",
    "truncated.png": "image_truncated",
    "truncated_6mp.jpg": "image_truncated",
    "truncated_small.jpg": "image_truncated",
    "zero_width.gif": "format",
}


@pytest.mark.parametrize("folder", ["formats", "hostile_small"])
def test_real_files_are_images_or_designed_errors(folder: str, shared: Path) -> None:
    answers = {}
    for path in sorted((shared / folder).iterdir()):
        data = path.read_bytes()
        try:
            image = decode(data, 3, LIMITS)
        except ImageError:
            answers[path.name] = code(data)
        else:
            assert image.mode == "RGB"
            assert image.size == probe(data, LIMITS) == decode(data, 1, LIMITS).size
    present = {path.name for path in (shared / folder).iterdir()}
    assert answers == {name: expected for name, expected in REFUSED.items() if name in present}


def test_a_rotated_webp_is_turned(shared: Path) -> None:
    data = (shared / "formats" / "orientation_6.webp").read_bytes()
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(array(decode(data, 3, LIMITS)), np.rot90(array(stored), -1))


# --- warnings


def malformed_mpo() -> bytes:
    """A JPEG that says it is the first of several pictures, and is not: edited photographs of some cameras."""
    data = encode(photographs()[0].resize((48, 32)), "JPEG")
    segment = b"MPF\0II*\0\x08\0\0\0\0\0\0\0\0\0"
    return data[:2] + b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def cut_exif() -> bytes:
    """EXIF that promises two entries and ends within the second; the first says "turn"."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    return encode(photographs()[0].resize((48, 32)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\2\0" + entry + b"\1\1")


@pytest.mark.parametrize("make", [malformed_mpo, cut_exif])
@pytest.mark.parametrize("action", ["error", "always"])
def test_remarks_of_pillow_neither_cost_the_image_nor_fill_the_log(make: Callable[[], bytes], action: str) -> None:
    program = (
        "import sys; from bundle.preprocess import ImageLimits, decode, probe;"
        "data = sys.stdin.buffer.read();"
        "print(*probe(data, ImageLimits()), *decode(data, 3, ImageLimits()).size)"
    )
    command = [sys.executable, "-W", action, "-c", program]
    run = subprocess.run(command, input=make(), capture_output=True, check=False, cwd=Path(__file__).parents[2])
    assert run.stderr == b""
    assert run.stdout.split() in ([b"48", b"32"] * 2, [b"32", b"48"] * 2)
