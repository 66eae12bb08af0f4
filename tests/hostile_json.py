"""JSON bodies that nobody means well with."""

import base64
import json

from catalogue import RED, Answer, Case, One, Served

IMAGE = base64.b64encode(RED).decode()
INVALID = "400 json_invalid"
OTHER = "422 invalid_parameter"


def sent(body: bytes | str) -> One:
    def act(served: Served) -> Answer:
        content = body.encode() if isinstance(body, str) else body
        return served.classify(content, Content_Type="application/json")

    return act


def beside(value: str) -> One:
    """A good image, and something else."""
    return sent(f'{{"image": "{IMAGE}", "more": {value}}}')


GOOD = json.dumps({"image": IMAGE})

CASES = [
    *(Case(f"J01-{name}", beside(name), INVALID) for name in ("NaN", "Infinity", "-Infinity", "1e999")),
    Case("J02-lone-surrogate", beside(r'"\ud800"'), INVALID),
    Case("J02-lone-surrogate-as-base64", sent(r'{"image": "\udfff"}'), INVALID),
    Case("J03-depth-33", beside("[" * 32 + "]" * 32), OTHER, why="a document that says anything else is told so"),
    Case("J03-depth-250-000", sent("[" * 250_000 + "]" * 250_000), INVALID),
    Case("J03-depth-250-000-open", sent("[" * 250_000), INVALID),
    Case("J03-depth-250-000-of-objects", sent('{"a":' * 250_000 + "1" + "}" * 250_000), INVALID),
    Case("J04-5000-digits", beside("9" * 5000), INVALID),
    Case("J05-image-twice", sent(f'{{"image": "{IMAGE}", "image": "{IMAGE}"}}'), INVALID),
    Case("J05-twice-inside", beside('{"a": 1, "a": 1}'), INVALID),
    Case("J06-utf-16", sent(GOOD.encode("utf-16")), INVALID),
    Case("J06-utf-16-without-mark", sent(GOOD.encode("utf-16-le")), INVALID),
    Case("J06-byte-order-mark", sent(b"\xef\xbb\xbf" + GOOD.encode()), INVALID),
    Case("J06-bad-utf-8", sent(b'{"image": "\xff"}'), INVALID),
    Case("J06-overlong-utf-8", sent(b'{"image": "\xc0\xaf"}'), INVALID),
    Case("J07-trailing-text", sent(GOOD + " x"), INVALID),
    Case("J07-trailing-document", sent(GOOD + GOOD), INVALID),
    Case("J07-trailing-nul", sent(GOOD + "\0"), INVALID),
    Case("J07-nothing", sent(""), INVALID),
    Case("J08-5-mb-in-a-wrong-field", sent(json.dumps({"picture": "x" * 5_000_000})), OTHER),
    Case("J08-5-mb-of-a-name", sent(json.dumps({"x" * 5_000_000: IMAGE})), OTHER),
    Case("J08-5-mb-that-are-no-base64", sent(json.dumps({"image": "%" * 5_000_000})), OTHER),
    *(Case(f"J09-{text}", sent(text), OTHER) for text in ("[]", "null", "7", '"text"', "true", "{}")),
    Case("J09-images-that-are-none", sent('{"images": {"0": "QQ=="}}'), OTHER),
    Case("J09-image-that-is-none", sent('{"image": null}'), OTHER),
    Case("J09-no-images", sent('{"images": []}'), OTHER),
]
