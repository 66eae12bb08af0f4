"""Multipart bodies that nobody means well with."""

import base64

from PIL import Image

from catalogue import MAX_IMAGE_BYTES, PATH, RED, Answer, Case, One, Served
from live import encode

BOUNDARY = "boundary-7"
DISPOSITION = 'Content-Disposition: form-data; name="images"; filename="a.png"'
INVALID = "400 multipart_invalid"
END = f"--{BOUNDARY}--\r\n".encode()


def part(content: bytes = RED, *lines: str) -> bytes:
    header = "\r\n".join(lines or (DISPOSITION,))
    return f"--{BOUNDARY}\r\n{header}\r\n\r\n".encode("utf-8", "surrogateescape") + content + b"\r\n"


def named(name: str) -> str:
    return f'Content-Disposition: form-data; name="images"; filename="{name}"'


def sent(*parts: bytes, boundary: str = f"; boundary={BOUNDARY}", end: bytes = END) -> One:
    def act(served: Served) -> Answer:
        return served.classify(b"".join(parts) + end, Content_Type=f"multipart/form-data{boundary}")

    return act


def answered(*parts: bytes, end: bytes = END) -> One:
    """All images get an answer of their own."""

    def act(served: Served) -> Answer:
        answer = sent(*parts, end=end)(served)
        assert answer.status != 200 or all(each["predictions"][0]["label"] == "red" for each in answer.json["results"])
        return answer

    return act


def each(*parts: bytes, codes: list[str | None]) -> One:
    """Every image has its own answer or problem."""

    def act(served: Served) -> Answer:
        answer = sent(*parts)(served)
        assert [result.get("code") for result in answer.json["results"]] == codes
        return answer

    return act


def file_over_the_cap(served: Served) -> Answer:
    return sent(part(bytes(MAX_IMAGE_BYTES + 1)))(served)


def breaks_before(served: Served) -> Answer:
    return sent(b"\r\n" * (10 << 20), part())(served)


def breaks_behind(served: Served) -> Answer:
    return sent(part(), end=END + b"\r\n" * (10 << 20))(served)


def in_base64(served: Served) -> Answer:
    lines = (DISPOSITION, "Content-Transfer-Encoding: base64")
    return each(part(base64.b64encode(RED), *lines), codes=["image_format_unsupported"])(served)


def urlencoded(content: bytes) -> One:
    def act(served: Served) -> Answer:
        return served.classify(content, path=PATH, Content_Type="application/x-www-form-urlencoded")

    return act


JPEG = encode(Image.new("RGB", (8, 8), "red"), "JPEG")
ODD_NAMES = {
    "path": "../../x", "break": "a\\r\\nX-Evil: 1", "ansi": "\x1b[2J", "emoji": "\U0001f600", "64-kb": "x" * 65536,
}  # fmt: skip

CASES = [
    Case("F01-no-boundary", sent(part(), boundary=""), INVALID),
    Case("F01-empty-boundary", sent(part(), boundary="; boundary="), INVALID),
    Case("F01-boundary-of-300-bytes", sent(part(), boundary="; boundary=" + "x" * 300), INVALID),
    Case("F01-boundary-of-20-kb", sent(part(), boundary="; boundary=" + "x" * 20_000), INVALID),
    Case("F02-part-without-name", sent(part(RED, 'Content-Disposition: form-data; filename="a"')), INVALID),
    Case("F02-part-without-disposition", sent(part(RED, "Content-Type: image/png")), INVALID),
    Case("F03-no-last-boundary", sent(part(), end=b""), INVALID),
    Case("F03-ends-in-a-file", sent(part()[:-20], end=b""), INVALID),
    Case("F03-ends-in-the-last-boundary", sent(part(), end=END[:-4]), INVALID),
    Case("F04-empty-file", each(part(b""), codes=["image_empty"]), "200", why="of several images each has its own"),
    Case("F05-text-field", sent(part(b"text", 'Content-Disposition: form-data; name="images"')), INVALID),
    Case("F05-no-files", sent(), INVALID),
    Case("F06-65-files", sent(*[part()] * 65), "413 too_many_images"),
    Case("F06-2000-files", sent(*[part()] * 2000), INVALID),
    Case("F06-2000-fields", sent(*[part(b"x", 'Content-Disposition: form-data; name="x"')] * 2000), INVALID),
    Case("F07-file-over-the-cap", file_over_the_cap, "413 body_too_large"),
    Case("F08-20-mb-of-breaks-before", breaks_before, INVALID, repeated=True),
    Case("F08-20-mb-of-breaks-behind", breaks_behind, INVALID, repeated=True),
    Case("F09-part-header-of-1-mb", sent(part(RED, DISPOSITION, "X: " + "y" * (1 << 20))), INVALID),
    Case("F09-part-header-name-of-1-mb", sent(part(RED, DISPOSITION, "X" * (1 << 20) + ": y")), INVALID),
    Case("F09-10-000-part-headers", sent(part(RED, DISPOSITION, *["X: y"] * 10_000)), INVALID),
    *(
        Case(f"F10-file-name-{name}", answered(part(RED, named(text))), f"200 | {INVALID}")
        for name, text in ODD_NAMES.items()
    ),
    Case("F10-file-name-nul", answered(part(RED, named("a\0b"))), f"200 | {INVALID}"),
    Case("F10-file-name-no-utf-8", answered(part(RED, named("\udcff"))), f"200 | {INVALID}"),
    Case("F11-transfer-encoding-base64", in_base64, "200", why="RFC 7578 has none: the bytes decide"),
    Case("F11-transfer-encoding-binary", answered(part(RED, DISPOSITION, "Content-Transfer-Encoding: binary")), "200"),
    Case("F12-type-of-another-format", answered(part(JPEG, DISPOSITION, "Content-Type: image/png")), "200"),
    Case("F13-form-of-1-000-000-fields", urlencoded(b"a=b&" * 1_000_000), "415 image_format_unsupported"),
    Case("F14-url", sent(part(b"http://127.0.0.1/", 'Content-Disposition: form-data; name="url"')), INVALID),
]
