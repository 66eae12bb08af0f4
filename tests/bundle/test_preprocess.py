"""Decoding: real files of every kind, and hostile ones."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bundle.errors import BadImageError, ImageError, ImageFormatError
from bundle.preprocess import FORMATS, ImageLimits, Pixels, decode, probe
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
