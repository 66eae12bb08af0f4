"""POST :classify over real sockets: answers against numbers worked out here, and every bad input."""

import io
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from live import encode

CLASSIFY = "/v1/models/colours:classify"
Plain = Callable[..., bytes]


def halves(left: str, right: str, width: int = 16) -> bytes:
    image = Image.new("RGB", (width, 8), left)
    image.paste(right, (width // 2, 0, width, 8))
    return encode(image)


def probabilities(answer: httpx.Response) -> dict[str, float]:
    assert answer.status_code == 200, answer.text
    return {score["label"]: score["probability"] for score in answer.json()["predictions"]}


def softmax(*logits: float) -> list[float]:
    exponentials = np.exp(logits)
    return list(exponentials / exponentials.sum())


def test_the_answer_has_what_others_build_on(client: httpx.Client, plain: Plain) -> None:
    answer = client.post(CLASSIFY, content=plain("green"), params={"top_k": 2}, headers={"X-Request-Id": "mine-1"})
    body = answer.json()
    assert body.keys() == {
        "model", "version", "digest", "views", "predictions", "timings_ms", "request_id"
    }  # fmt: skip
    assert (body["model"], body["version"], body["request_id"]) == ("colours", 1, "mine-1")
    assert answer.headers["X-Request-Id"] == "mine-1"
    assert body["digest"] == client.get("/v1/models").json()[0]["versions"][0]["digest"]
    assert body["views"] == {
        "plan": "center", "planned": 1, "computed": 1, "gmacs": 1e-9,
        "average": "probabilities", "stop": "never", "stopped": False
    }  # fmt: skip
    assert [(score["index"], score["label"]) for score in body["predictions"]] == [(1, "green"), (0, "red")]
    assert body["timings_ms"].keys() == {"decode", "queue", "compute", "merge", "total"}
    parts = sum(value for stage, value in body["timings_ms"].items() if stage != "total")
    assert 0 < parts <= body["timings_ms"]["total"] + 0.01


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_formats(client: httpx.Client, plain: Plain, kind: str) -> None:
    best, *_ = client.post(CLASSIFY, content=plain("blue", (32, 20), kind)).json()["predictions"]
    assert (best["label"], best["probability"] > 0.99) == ("blue", True)


def test_center_sees_the_middle(client: httpx.Client) -> None:
    """16 x 8 with crop 8: columns 4 to 12, half red, half blue."""
    assert probabilities(client.post(CLASSIFY, content=halves("red", "blue"))) == pytest.approx(
        dict(zip(("red", "green", "blue"), softmax(5, 0, 5), strict=True))
    )


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_ten_crop_is_the_mean_over_its_views(client: httpx.Client, average: str) -> None:
    """Left crops see red, right crops blue, the centre both: weights 4, 4 and 2 of 10, top and bottom coincide."""
    answer = client.post(CLASSIFY, content=halves("red", "blue"), params={"views": "ten_crop", "average": average})
    seen = [(10, 0, 0)] * 4 + [(0, 0, 10)] * 4 + [(5, 0, 5)] * 2
    if average == "probabilities":
        expected = np.mean([softmax(*logits) for logits in seen], axis=0)
    else:
        expected = np.array(softmax(*np.mean(seen, axis=0)))
    found = probabilities(answer)
    assert [found[label] for label in ("red", "green", "blue")] == pytest.approx(list(expected), rel=1e-5)
    views = answer.json()["views"]
    assert (views["plan"], views["planned"], views["computed"], views["average"]) == ("ten_crop", 10, 6, average)


def test_ten_crop_square_stays_in_the_central_square(client: httpx.Client) -> None:
    answer = client.post(CLASSIFY, content=halves("red", "blue"), params={"views": "ten_crop_square"})
    assert probabilities(answer)["red"] == pytest.approx(softmax(5, 0, 5)[0])
    views = answer.json()["views"]
    assert (views["plan"], views["planned"], views["computed"]) == ("ten_crop_square", 10, 2)


def test_exif_orientation_is_applied_before_the_crop(client: httpx.Client) -> None:
    """Stored lying down with the red end left; upright it is tall, and red is at the top."""
    image = Image.open(io.BytesIO(halves("red", "blue", 32)))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    upright = encode(image.transpose(Image.Transpose.ROTATE_270))
    turned, expected = (client.post(CLASSIFY, content=data) for data in (buffer.getvalue(), upright))
    assert turned.json()["predictions"] == expected.json()["predictions"]


def test_the_bytes_decide_whatever_the_content_type_says(client: httpx.Client, plain: Plain) -> None:
    kinds = ("image/jpeg", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded", "nonsense")
    for kind in kinds:
        assert client.post(CLASSIFY, content=plain(), headers={"Content-Type": kind}).status_code == 200


def test_multipart_answers_each_file_in_order(client: httpx.Client, plain: Plain) -> None:
    files = [
        ("images", ("a.png", plain("green"))),
        ("images", ("b.txt", b"no image")),
        ("images", ("c.png", plain("blue")[:40])),
        ("images", ("d.png", plain("red"))),
    ]
    answer = client.post(CLASSIFY, files=files)
    assert answer.status_code == 200
    first, second, third, fourth = answer.json()["results"]
    assert (first["predictions"][0]["label"], fourth["predictions"][0]["label"]) == ("green", "red")
    assert (second["status"], second["code"]) == (415, "image_format_unsupported")
    assert (third["status"], third["code"]) == (422, "image_decode_failed")
    assert {result["request_id"] for result in (first, second)} == {answer.headers["X-Request-Id"]}


def png(size: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    return encode(Image.fromarray(noise))


RED = encode(Image.new("RGB", (8, 8), "red"))
JPEG = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
SMALL = encode(Image.new("RGB", (8, 8), "red"), "JPEG")
CASES: dict[str, tuple[int, str, dict[str, object]]] = {
    "empty body": (422, "image_empty", {"content": b""}),
    "text file": (415, "image_format_unsupported", {"content": b"hello, this is text"}),
    "html": (415, "image_format_unsupported", {"content": b"<html></html>"}),
    "gif": (415, "image_format_unsupported", {"content": encode(Image.new("RGB", (8, 8)), "GIF")}),
    "tiff": (415, "image_format_unsupported", {"content": encode(Image.new("RGB", (8, 8)), "TIFF")}),
    "jpeg of nothing": (422, "image_decode_failed", {"content": b"\xff\xd8\xff\xe0"}),
    "truncated jpeg": (422, "image_truncated", {"content": JPEG[: len(JPEG) // 2]}),
    "elongated": (422, "image_aspect_ratio", {"content": encode(Image.new("L", (1, 2000)))}),
    "body over the limit": (413, "body_too_large", {"content": png(200)}),
    "chunked body over the limit": (413, "body_too_large", {"content": iter([png(200)[:60_000]] * 2)}),
    "json": (422, "invalid_parameter", {"json": {"image": "x"}}),
    "form": (415, "image_format_unsupported", {"data": {"image": "x"}}),
    "gzip": (415, "media_type_unsupported", {"content": RED, "headers": {"Content-Encoding": "gzip"}}),
    "a scan bomb": (422, "image_too_complex", {"content": SMALL[:-2] + SMALL[SMALL.index(b"\xff\xda") : -2] * 70}),
    "padding without end": (422, "image_too_complex", {"content": b"\xff\xd8" + b"\xff" * 90_000}),
    "unknown plan": (422, "unknown_views", {"content": RED, "params": {"views": "eleven_crop"}}),
    "unknown average": (422, "invalid_parameter", {"content": RED, "params": {"average": "median"}}),
    "top_k=0": (422, "invalid_parameter", {"content": RED, "params": {"top_k": 0}}),
    "top_k=-1": (422, "invalid_parameter", {"content": RED, "params": {"top_k": -1}}),
    "top_k=1.5": (422, "invalid_parameter", {"content": RED, "params": {"top_k": 1.5}}),
    "top_k over the classes": (422, "invalid_parameter", {"content": RED, "params": {"top_k": 4}}),
    "top_k of many digits": (422, "invalid_parameter", {"content": RED, "params": {"top_k": "9" * 10_000}}),
    "unknown parameter": (422, "unknown_parameter", {"content": RED, "params": {"view": "center"}}),
    "top_k twice": (422, "invalid_parameter", {"content": RED, "params": [("top_k", 1), ("top_k", 2)]}),
    "version that is not there": (404, "model_not_found", {"content": RED, "params": {"version": 7}}),
    "version=0": (422, "invalid_parameter", {"content": RED, "params": {"version": 0}}),
    "multipart without a boundary": (
        400, "multipart_invalid", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}
    ),
    "multipart in no charset": (
        400,
        "multipart_invalid",
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n\r\n--b--',
            "headers": {"Content-Type": "multipart/form-data; boundary=b; charset=undefined"},
        },
    ),
    "multipart cut short": (
        400,
        "multipart_invalid",
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + RED,
            "headers": {"Content-Type": "multipart/form-data; boundary=b"},
        },
    ),
    "multipart with another field": (400, "multipart_invalid", {"files": [("url", ("a", RED))]}),
    "multipart with a field": (400, "multipart_invalid", {"files": [("images", (None, "text"))]}),
    "five files where four are allowed": (413, "too_many_images", {"files": [("images", ("a", RED))] * 5}),
    "fifty files": (400, "multipart_invalid", {"files": [("images", ("a", RED))] * 50}),
    "a file over the limit": (413, "body_too_large", {"files": [("images", ("a", png(200)))]}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_and_the_next_request_works(client: httpx.Client, case: str) -> None:
    status, code, request = CASES[case]
    answer = client.post(CLASSIFY, **request)  # type: ignore[arg-type]
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert len(answer.content) < 1000
    for leak in ("0x", "BytesIO", "Traceback", "/", "PIL", "pydantic", "cannot identify"):
        assert leak not in problem["detail"].replace("multipart/form-data", "")
    assert client.post(CLASSIFY, content=RED).status_code == 200


@pytest.mark.parametrize("name", ["nope", "..%2f..%2fetc", "%2e%2e", "a" * 5000, "colours%00"])
def test_an_unknown_model_is_404(client: httpx.Client, name: str) -> None:
    answer = client.post(f"/v1/models/{name}:classify", content=RED)
    assert (answer.status_code, answer.json()["code"]) in [(404, "model_not_found"), (404, "route_not_found")]
    assert len(answer.content) < 1000


def test_a_request_id_that_is_no_token_is_replaced(client: httpx.Client) -> None:
    for given in ("a b", "x" * 65, "", "<script>"):
        answer = client.post(CLASSIFY, content=RED, headers={"X-Request-Id": given})
        assert len(answer.headers["X-Request-Id"]) == 32
