"""JSON bodies and format=labels on :classify: the same answers as for raw and multipart bodies, and every bad body."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

CLASSIFY = "/v1/models/colours:classify"
JSON = {"Content-Type": "application/json", "X-Request-Id": "mine"}
"""A request that has no id gets 32 random digits of 0 to f, among which `aaaa` may be."""
Plain = Callable[..., bytes]


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def scores(answer: dict[str, Any]) -> dict[str, float]:
    return {score["label"]: score["probability"] for score in answer["predictions"]}


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_one_image_is_answered_as_its_bytes_are(client: httpx.Client, plain: Plain, kind: str) -> None:
    image = plain("green", (20, 10))
    content = json.dumps({"image": text(image)})
    answer = client.post(CLASSIFY, content=content, headers={"Content-Type": kind}, params={"views": "ten_crop"})
    raw = client.post(CLASSIFY, content=image, params={"views": "ten_crop"})
    assert answer.status_code == 200
    same = {"model", "version", "digest", "views", "predictions"}
    assert {name: answer.json()[name] for name in same} == {name: raw.json()[name] for name in same}


def test_several_images_are_answered_as_files_are(client: httpx.Client, plain: Plain) -> None:
    """Also an image that is bad costs its own answer only; one image in a list is a list of one."""
    images = [plain("red"), b"no image", plain("blue")]
    first, second, third = client.post(CLASSIFY, json={"images": [text(each) for each in images]}).json()["results"]
    assert [max(scores(each).items(), key=lambda item: item[1])[0] for each in (first, third)] == ["red", "blue"]
    assert second["code"] == "image_format_unsupported"
    files = [("images", ("a", each)) for each in images]
    multipart = client.post(CLASSIFY, files=files).json()["results"]
    assert [scores(first), scores(third)] == [scores(multipart[0]), scores(multipart[2])]
    assert len(client.post(CLASSIFY, json={"images": [text(images[0])]}).json()["results"]) == 1


def test_a_transparent_pixel_in_any_spelling_of_json(client: httpx.Client, plain: Plain) -> None:
    """Escapes and white space are JSON's own matter."""
    image = text(plain("red"))
    odd = "".join(f"\\u{ord(letter):04x}" for letter in image[:50]) + image[50:]
    answer = client.post(CLASSIFY, content=f' {{\n"im\\u0061ge"\t: "{odd}" }} \r\n', headers=JSON)
    assert scores(answer.json())["red"] > 0.99


NO_JSON = {
    "empty": b"",
    "cut short": b'{"image": "',
    "single quotes": b"{'image': 'aaaa'}",
    "trailing comma": b'{"image": "aaaa",}',
    "J01 NaN": b'{"image": NaN}',
    "J01 Infinity": b'{"image": "aaaa", "x": -Infinity}',
    "J01 1e999": b'{"image": 1e999}',
    "J02 half a pair": b'{"image": "\\ud800"}',
    "J02 half a pair in a list": b'{"images": ["aaaa", "\\uDFFF"]}',
    "J03 deep": b"[" * 90_000,
    "J03 deep and closed": b'{"image": ' + b"[" * 250_000 + b"]" * 250_000 + b"}",
    "J04 5000 digits": b'{"image": ' + b"9" * 5000 + b"}",
    "J05 a name twice": b'{"image": "aaaa", "image": "bbbb"}',
    "J06 Latin-1": '{"image": "é"}'.encode("latin-1"),
    "J06 UTF-16": '{"image": "aaaa"}'.encode("utf-16"),
    "J06 byte order mark": b'\xef\xbb\xbf{"image": "aaaa"}',
    "J07 two documents": b"{}{}",
    "raw image": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("content", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json(client: httpx.Client, content: bytes) -> None:
    answer = client.post(CLASSIFY, content=content, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "json_invalid")
    assert "aaaa" not in answer.text


NOT_ASKED_FOR: dict[str, Any] = {
    "nothing": {},
    "J08 megabytes in a wrong field": {"image": "aaaa", "name": "aaaa" * 1_250_000},
    "J09 null": None,
    "J09 list": ["aaaa"],
    "J09 text": "aaaa",
    "J09 number": 7,
    "unknown field": {"image": "aaaa", "top_k": 3},
    "only an unknown field": {"instances": [{"b64": "aaaa"}]},
    "both": {"image": "aaaa", "images": ["aaaa"]},
    "no text": {"image": 7},
    "null image": {"image": None},
    "list as image": {"image": ["aaaa"]},
    "text as images": {"images": "aaaa"},
    "no images": {"images": []},
    "nested": {"images": [["aaaa"]]},
    "no base64": {"image": "a picture!"},
    "unpadded": {"image": "aaaaa"},
    "line break": {"image": "aaaa\naaaa"},
    "of URLs": {"image": "-_-_"},
    "data URL": {"image": "data:image/png;base64,aaaa"},
    "other letters": {"image": "ääää"},
    "a whole pair": {"image": "\U0001f600"},
    "one bad of two": {"images": ["aaaa", "?"]},
}


@pytest.mark.parametrize("sent", NOT_ASKED_FOR.values(), ids=NOT_ASKED_FOR)
def test_json_that_is_not_asked_for(client: httpx.Client, sent: Any) -> None:
    answer = client.post(CLASSIFY, content=json.dumps(sent), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert "aaaa" not in answer.text
    assert len(answer.content) < 1000


def test_the_bad_one_of_several_is_named(client: httpx.Client) -> None:
    assert "images[1] is no base64" in client.post(CLASSIFY, json={"images": ["aaaa", "?"]}).json()["detail"]


def test_an_image_without_bytes(client: httpx.Client) -> None:
    answer = client.post(CLASSIFY, json={"image": ""})
    assert (answer.status_code, answer.json()["code"]) == (422, "image_empty")


@pytest.mark.parametrize(("size", "status"), [(100_000, 415), (100_001, 413), (100_002, 413), (150_000, 413)])
def test_the_cap_holds_for_the_decoded_bytes(client: httpx.Client, size: int, status: int) -> None:
    """100,000 as `conftest` sets it: one byte more is too large, alone and among others."""
    image = text(bytes(size))
    assert client.post(CLASSIFY, json={"image": image}).status_code == status
    several = client.post(CLASSIFY, json={"images": ["aaaa", image]})
    assert several.status_code == (413 if status == 413 else 200)


def test_caps_on_the_number_of_images(client: httpx.Client, plain: Plain) -> None:
    image = text(plain())
    assert client.post(CLASSIFY, json={"images": [image] * 4}).status_code == 200
    answer = client.post(CLASSIFY, json={"images": [image] * 5})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")


def test_a_body_over_the_cap_is_refused_while_it_comes(client: httpx.Client) -> None:
    def endless() -> Any:
        yield b'{"image": "'
        for _ in range(200):
            yield b"a" * (1 << 20)

    began = time.monotonic()
    answer = client.post(CLASSIFY, content=endless(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert time.monotonic() - began < 10


def test_an_encoded_body_is_refused(client: httpx.Client) -> None:
    answer = client.post(CLASSIFY, content=b"x", headers={**JSON, "Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type_unsupported")


def test_labels_are_a_plain_list(client: httpx.Client, plain: Plain) -> None:
    """As `pipeline("image-classification")` answers: the best first, five or as many as there are."""
    image = plain("green")
    full = client.post(CLASSIFY, content=image).json()
    answer = client.post(CLASSIFY, content=image, params={"format": "labels"})
    expected = [{"label": score["label"], "score": score["probability"]} for score in full["predictions"]]
    assert answer.json() == expected
    assert len(client.post(CLASSIFY, content=image, params={"format": "labels", "top_k": 2}).json()) == 2
    assert client.post(CLASSIFY, json={"image": text(image)}, params={"format": "labels"}).json() == expected


def test_labels_of_several_images_are_lists_in_their_order(client: httpx.Client, plain: Plain) -> None:
    sent = {"images": [text(plain("red")), text(b"bad"), text(plain("blue"))]}
    first, second, third = client.post(CLASSIFY, json=sent, params={"format": "labels"}).json()
    assert [first[0]["label"], third[0]["label"]] == ["red", "blue"]
    assert (second["status"], second["code"]) == (415, "image_format_unsupported")


@pytest.mark.parametrize(
    "params", [{"format": "json"}, {"format": ""}, {"format": "labels", "detail": "views"}], ids=str
)
def test_other_formats_are_refused(client: httpx.Client, plain: Plain, params: dict[str, str]) -> None:
    answer = client.post(CLASSIFY, content=plain(), params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


def test_the_page_of_the_api_shows_them(client: httpx.Client) -> None:
    content = client.get("/openapi.json").json()["paths"]["/v1/models/{name}:classify"]["post"]["requestBody"][
        "content"
    ]
    one, several = content["application/json"]["schema"]["oneOf"]
    assert (list(one["properties"]), list(several["properties"])) == (["image"], ["images"])
