"""Image files that nobody means well with. What is accepted is answered with the class that its pixels have."""

import functools
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from catalogue import RED, Act, Answer, Case, One, Served
from hostile_form import part, sent
from live import encode
from odd_files import (
    PNG,
    RED_IMAGE,
    animated,
    bomb,
    chunk,
    entries,
    exif,
    flip,
    good,
    half,
    junk,
    many_exif,
    mpo,
    orientation,
    png,
    png_header,
    profiles,
    saved,
    scans,
    sized,
    sof,
    webp_canvas,
    ycck,
)

UNSUPPORTED, FAILED = "415 image_format_unsupported", "422 image_decode_failed"
DAMAGED = f"422 image_truncated | {FAILED}"
THIRD = 1 / 3
Make = Callable[[], bytes]


def image(content: bytes | Make, label: str | None = None, query: str = "", model: str = "colours") -> One:
    """When it is accepted, its class is as said."""

    def act(served: Served) -> Answer:
        data = content if isinstance(content, bytes) else content()
        answer = served.classify(data, query, f"/v1/models/{model}:classify")
        if answer.status == 200 and label:
            assert answer.json["predictions"][0]["label"] == label, answer.json
        return answer

    return act


def called_png(content: bytes) -> One:
    return lambda served: served.classify(content, Content_Type="image/png")


def white(content: bytes) -> One:
    """All classes are alike."""

    def act(served: Served) -> Answer:
        answer = served.classify(content)
        scores = [each["probability"] for each in answer.json["predictions"]]
        assert np.allclose(scores, THIRD, atol=0.01), scores
        return answer

    return act


def ramp16(served: Served) -> Answer:
    """A 16-bit red from 0 to 65535: of the mean 127 or 128 of 255, where clipping would make it 254."""
    rows = b"".join(b"\0" + b"".join(struct.pack(">HHH", 257 * x, 0, 0) for x in range(256)) for _ in range(256))
    pixels = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    answer = served.classify(png_header(256, 256, depth=16) + pixels)
    probability = next(each["probability"] for each in answer.json["predictions"] if each["label"] == "red")
    mean = 25.5 * np.log(2 * probability / (1 - probability))  # back through softmax and 10 / 255
    assert abs(mean - 127.5) < 2, mean
    return answer


def grey16(served: Served) -> Answer:
    """A ramp is grey, not white; that its mean is the half, the tests of decoding show: no class here is grey."""
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (256, 1))
    return white(encode(Image.fromarray(ramp)))(served)


QUARTERS = Image.new("RGB", (32, 16))
for place, colour in enumerate(("red", "#0f0", "blue", "red")):
    QUARTERS.paste(colour, (16 * (place % 2), 8 * (place // 2), 16 * (place % 2) + 16, 8 * (place // 2) + 8))
TURNED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""How the camera held the picture, where the tag says how it is to be turned back."""


def oriented(value: int) -> One:
    """Each corner of the upright picture has its colour."""

    def act(served: Served) -> Answer:
        turn = TURNED[value]
        exif = Image.Exif()
        exif[0x0112] = value
        held = QUARTERS if turn is None else QUARTERS.transpose(turn)
        data = saved(held, "PNG", exif=exif)
        answer = served.classify(data, "?views=ten_crop&detail=views", "/v1/models/corners:classify")
        best = [view["top1"] for view in answer.json["views"]["details"] if not view["mirrored"]]
        assert [each["label"] for each in best[:4]] == ["red", "green", "blue", "red"], best
        return answer

    return act


def black(served: Served) -> Answer:
    """A file of 10 KB that would be 81 million pixels: nothing of it is unpacked."""
    data = encode(Image.new("1", (9000, 9000)))
    assert len(data) < 12_000
    before = served.memory()
    answer = served.classify(data)
    assert served.memory() - before < 5 << 20
    return answer


def flipped(kind: str) -> Act:
    """A hundred files, each with one other bit."""

    def act(served: Served) -> list[Answer]:
        chosen = random.Random(kind)
        return [served.classify(flip(good(kind), chosen.randrange(8 * len(good(kind))))) for _ in range(100)]

    return act


def crc(served: Served) -> Answer:
    data = good("PNG")
    place = data.index(b"IDAT")
    end = place + 4 + struct.unpack(">I", data[place - 4 : place])[0]
    return served.classify(data[:end] + bytes(4) + data[end + 4 :])


def one_of_64(served: Served) -> Answer:
    """The bad one costs its own answer only."""
    answer = sent(*[part()] * 13, part(b"no image"), *[part()] * 50)(served)
    codes = [result.get("code") for result in answer.json["results"]]
    assert codes == [None] * 13 + ["image_format_unsupported"] + [None] * 50
    return answer


OTHERS: dict[str, bytes] = {
    "gif": encode(RED_IMAGE, "GIF"), "bmp": encode(RED_IMAGE, "BMP"), "tiff": encode(RED_IMAGE, "TIFF"),
    "ico": encode(RED_IMAGE, "ICO"), "psd": b"8BPS\0\1" + bytes(60),
    "fits": b"SIMPLE  =                    T" + bytes(99),
    "j2k": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60), "avif": b"\0\0\0\x1cftypavif" + bytes(60),
    "heic": b"\0\0\0\x1cftypheic" + bytes(60), "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7\n1 0 obj\n", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "ppm": encode(RED_IMAGE, "PPM"), "riff": b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
}  # fmt: skip
ZIP = b"PK\3\4" + bytes(26) + b"PK\5\6" + bytes(18)
GIF = b"GIF89a\x08\0\x08\0\x80\0\0\xff\0\0\0\0\0" + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0" * 100_000 + b";"
PALETTE = Image.new("P", (8, 8), 1)
PALETTE.putpalette([0, 0, 255, 255, 0, 0])

CASES = [
    Case("I01-nothing", image(b""), "422 image_empty"),
    *(
        Case(f"I02-{name}", image(data), UNSUPPORTED)
        for name, data in {
            "one-byte": b"x",
            "text": b"red\n" * 99,
            "html": b"<!doctype html><p>",
            "nul": bytes(999),
        }.items()
    ),
    *(
        Case(f"I03-magic-of-{name}", image(data), FAILED)
        for name, data in {"jpeg": b"\xff\xd8\xff", "png": PNG, "webp": b"RIFF\x24\0\0\0WEBP"}.items()
    ),
    *(Case(f"I04-{name}", image(data), UNSUPPORTED) for name, data in OTHERS.items()),
    *(
        Case(
            f"I05-{name}-called-png",
            called_png(OTHERS[name]),
            UNSUPPORTED,
        )
        for name in ("eps", "tiff")
    ),
    Case("I06-jpeg-and-zip", image(lambda: good("JPEG") + ZIP, "red"), "200"),
    Case("I06-png-and-html", image(RED + b"<script>alert(1)</script>", "red"), "200"),
    Case("I06-gif-and-script", image(b"GIF89a/*" + bytes(40) + b"*/=1;alert(1)"), UNSUPPORTED),
    *(
        Case(
            f"I07-{kind.lower()}-cut-at-{share}",
            image(functools.partial(half, kind, share / 100)),
            DAMAGED,
        )
        for kind in ("JPEG", "PNG", "WEBP")
        for share in (10, 50, 90)
    ),
    Case("I07-jpeg-without-its-end", image(lambda: good("JPEG")[:-2]), DAMAGED),
    Case(
        "I07-png-without-its-end",
        image(lambda: good("PNG")[:-12], "red"),
        f"200 | {DAMAGED}",
        why="all pixels are there",
    ),
    Case("I07-webp-without-its-end", image(lambda: good("WEBP")[:-2]), DAMAGED),
    Case("I08-png-with-another-crc", crc, DAMAGED),
    *(
        Case(f"I09-png-of-{width}-x-{height}", image(functools.partial(sized, RED, width, height)), FAILED)
        for width, height in ((0, 0), (0, 1), (1, 0))
    ),
    Case("I10-png-of-4-exapixels", image(lambda: sized(RED, 2**31 - 1, 2**31 - 1)), "422 image_too_large"),
    Case("I11-png-of-20000-x-20000", image(png_header(20_000, 20_000)), f"422 image_too_large | {DAMAGED}"),
    Case("I11-jpeg-of-20000-x-20000", image(lambda: sized(good("JPEG"), 20_000, 20_000)), "422 image_too_large"),
    Case("I12-81-million-pixels-in-10-kb", black, "422 image_too_large", repeated=True),
    Case("I13-just-under-25-million", image(lambda: encode(Image.new("1", (5000, 5000)))), "200"),
    Case("I13-just-over-25-million", image(lambda: encode(Image.new("1", (5001, 5000)))), "422 image_too_large"),
    Case("I14-1-x-1", image(png(1, 1), "red"), "200"),
    *(
        Case(f"I15-{width}-x-{height}", image(functools.partial(png, width, height)), "422 image_aspect_ratio")
        for width, height in ((1, 2000), (1, 16_384))
    ),
    Case(
        "I16-65500-x-1", image(lambda: encode(Image.new("RGB", (65_500, 1), "red"), "JPEG")), "422 image_aspect_ratio"
    ),
    Case("I17-jpeg-of-64-scans", image(lambda: scans(64), "red"), "200"),
    Case("I17-jpeg-of-65-scans", image(lambda: scans(65)), "422 image_too_complex", repeated=True),
    Case("I17-jpeg-of-10-000-scans", image(lambda: scans(10_000)), "422 image_too_complex"),
    Case("I17-jpeg-of-16-mb-of-junk", image(lambda: junk(b"\1")), "422 image_too_complex"),
    Case("I17-jpeg-of-16-mb-of-escapes", image(lambda: junk(b"\xff\0")), "422 image_too_complex"),
    Case("I18-jpeg-of-12-bits", image(lambda: sof(0xC0, 12)), f"200 | {DAMAGED}"),
    Case("I18-jpeg-extended-of-12-bits", image(lambda: sof(0xC1, 12)), f"200 | {DAMAGED}"),
    Case("I18-jpeg-arithmetic", image(lambda: sof(0xC9)), f"200 | {DAMAGED}"),
    Case("I18-jpeg-lossless", image(lambda: sof(0xC3)), f"200 | {DAMAGED}"),
    Case("I19-cmyk", image(lambda: encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), "red"), "200"),
    Case("I19-ycck", image(ycck, "red"), "200"),
    Case("I20-16-bit-red", ramp16, "200"),
    Case("I20-16-bit-grey", grey16, "200"),
    Case("I21-1-bit", white(encode(Image.new("1", (8, 8), 1))), "200"),
    Case("I21-grey", white(encode(Image.new("L", (8, 8), 99))), "200"),
    Case("I21-grey-transparent", white(encode(Image.new("LA", (8, 8), (0, 0)))), "200"),
    Case("I21-palette", image(encode(PALETTE), "red"), "200"),
    Case("I21-palette-transparent", white(saved(PALETTE, "PNG", transparency=1)), "200"),
    Case("I21-red-transparent", white(encode(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))), "200"),
    Case("I21-red-opaque", image(encode(Image.new("RGBA", (8, 8), (255, 0, 0, 255))), "red"), "200"),
    *(Case(f"I22-orientation-{value}", oriented(value), "200") for value in TURNED),
    *(
        Case(f"I23-{name}", image(functools.partial(exif, content), "red"), "200")
        for name, content in {
            "orientation-0": entries(orientation(0)),
            "orientation-99": entries(orientation(99)),
            "orientation-text": entries(struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0")),
            "orientation-far-away": entries(struct.pack("<HHII", 0x0112, 3, 2**31, 2**31)),
            "garbage": b"\xfe" * 500,
            "directory-that-follows-itself": entries(orientation(1), next_=8),
            "sub-directory-in-itself": entries(struct.pack("<HHII", 0x8769, 4, 1, 8)),
            "64-kb": entries(orientation(1)) + bytes(65_000),
            "nothing": b"",
        }.items()
    ),
    Case("I23-65-000-times-exif", image(lambda: many_exif(65_000)), "422 image_too_complex"),
    Case("I24-profile-that-is-none", image(lambda: saved(RED_IMAGE, "JPEG", icc_profile=b"x" * 999), "red"), "200"),
    Case("I24-profile-of-4-mb", image(lambda: saved(RED_IMAGE, "JPEG", icc_profile=bytes(4 << 20)), "red"), "200"),
    Case("I24-profile-in-png", image(png(8, 8, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(9)))), "red"), "200"),
    Case("I24-profile-of-50-mb-in-png", image(lambda: png(8, 8, bomb(b"iCCP", b"x\0\0"))), f"200 | {DAMAGED}"),
    Case("I24-500-profiles-in-png", image(lambda: profiles(500)), "422 image_too_complex"),
    Case("I25-text-of-50-mb", image(lambda: png(8, 8, bomb(b"zTXt", b"x\0\0"))), DAMAGED),
    Case("I25-international-text-of-50-mb", image(lambda: png(8, 8, bomb(b"iTXt", b"x\0\1\0\0\0"))), DAMAGED),
    Case("I26-100-000-texts", image(lambda: png(8, 8, *[chunk(b"tEXt", b"a\0b")] * 100_000)), "422 image_too_complex"),
    Case("I26-60-000-texts", image(lambda: png(8, 8, *[chunk(b"tEXt", b"a\0b")] * 60_000), "red"), "200 | " + DAMAGED),
    Case("I27-apng-of-300-frames", image(lambda: animated("PNG"), "red"), "200"),
    Case("I27-webp-of-300-frames", image(lambda: animated("WEBP"), "red"), "200"),
    Case("I27-gif-of-100-000-frames", image(GIF), UNSUPPORTED),
    Case("I28-mpo", image(mpo, "red"), "200"),
    Case("I28-mpo-of-300", image(lambda: animated("MPO"), "red"), "200"),
    Case("I28-jpeg-with-a-film-behind", image(lambda: good("JPEG") + b"\xff\xda" * 1000, "red"), "200"),
    Case("I29-webp-canvas-too-large", image(lambda: webp_canvas(16_000, 16_000)), "422 image_too_large"),
    Case("I29-webp-canvas-larger", image(lambda: webp_canvas(640, 480)), FAILED),
    Case("I29-webp-canvas-smaller", image(lambda: webp_canvas(6, 4)), FAILED),
    *(
        Case(
            f"I30-100-bits-of-{kind.lower()}",
            flipped(kind),
            f"200 | {UNSUPPORTED} | {DAMAGED} | 422 image_too_large | 422 image_aspect_ratio | 422 image_too_complex",
        )
        for kind in ("JPEG", "PNG", "WEBP")
    ),
    Case("I34-one-of-64", one_of_64, "200", why="each of several images has its own answer or problem"),
]
