"""Reading request bodies under a cap, in memory, without temporary files."""

import asyncio
import base64
import json
import math
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import (
    BodyTooLargeError,
    InvalidParameterError,
    JsonError,
    MediaTypeError,
    MultipartError,
    TooManyImagesError,
)

FIELD = "images"
MAX_AROUND = 256
"""Bytes before the first and after the last boundary of a multipart body."""


def is_multipart(request: Request) -> bool:
    return _media_type(request) == "multipart/form-data"


def is_json(request: Request) -> bool:
    return _media_type(request) == "application/json"


def check_encoding(request: Request) -> None:
    """Raises MediaTypeError for a content encoding."""
    if encoding := request.headers.get("content-encoding"):
        raise MediaTypeError(f"content encoding {encoding[:32]!r} is not read here; send the image as it is")


async def read(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        BodyTooLargeError: more than `limit` bytes, noticed before they are read where the client announces them.
    """
    return b"".join([chunk async for chunk in _chunks(request, limit)])


async def read_json(request: Request, body_limit: int, image_limit: int, most: int) -> bytes | list[bytes]:
    """The image of `{"image": BASE64}`, or the images of `{"images": [BASE64, …]}` in their order.

    Raises:
        JsonError: not JSON as RFC 8259 has it, or not in UTF-8.
        InvalidParameterError: JSON that says anything else, or no base64.
        BodyTooLargeError: the body or one image in it.
        TooManyImagesError: more than `most` images.
    """
    return await asyncio.to_thread(_from_json, await read(request, body_limit), image_limit, most)


async def read_images(request: Request, body_limit: int, image_limit: int, most: int) -> list[bytes]:
    """The files in the field `images` of a multipart body, in their order.

    Raises:
        BodyTooLargeError: the body or one file of it.
        TooManyImagesError: more than `most` files.
        MultipartError: not well-formed, cut short, another field, or no file.
    """
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    if not boundary:
        raise MultipartError("the content type of the multipart body names no boundary")
    chunks = _within(b"--" + boundary, _chunks(request, body_limit))
    parser = _Parser(request.headers, chunks, max_files=most + 1, max_fields=1)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeError) as error:
        raise MultipartError(f"the multipart body is malformed, or has more than {most} files") from error
    try:
        return [await file.read() for file in _files(form, image_limit, most)]
    finally:
        await form.close()


def _from_json(body: bytes, limit: int, most: int) -> bytes | list[bytes]:
    try:
        found = strict_json(body)
    except ValueError as error:
        raise JsonError(
            "the body is no JSON document in UTF-8; NaN and Infinity are no JSON, nor is a name given twice"
        ) from error
    if not isinstance(found, dict) or found.keys() not in ({"image"}, {FIELD}):
        raise InvalidParameterError('a JSON body is {"image": "BASE64"} or {"images": ["BASE64", …]} and nothing else')
    if "image" in found:
        return _from_base64(found["image"], "image", limit)
    texts = found[FIELD]
    if not isinstance(texts, list) or not texts:
        raise InvalidParameterError(f"{FIELD} is a list of at least one image in base64")
    if len(texts) > most:
        raise _too_many(most)
    return [_from_base64(text, f"{FIELD}[{place}]", limit) for place, text in enumerate(texts)]


def strict_json(content: bytes | memoryview) -> Any:
    """JSON in UTF-8, and nothing that another reader might take for something else.

    Raises:
        ValueError: it is none: NaN, a number that is infinite, a name given twice, half a surrogate pair, too deep.
    """
    text = str(content, "utf-8")
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)
        if "\\u" in text:  # nothing else makes half a pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("too deep") from error
    return value


def _no_number(_: str) -> NoReturn:
    raise ValueError("NaN or Infinity")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError("an infinite number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _from_base64(text: object, name: str, limit: int) -> bytes:
    if isinstance(text, str) and 3 * (len(text) // 4) - 2 > limit:  # two characters may be padding
        raise _too_large(limit)
    try:
        image = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        image = None
    if image is None:
        raise InvalidParameterError(f"{name} is no base64 text (RFC 4648, section 4, padded, without line breaks)")
    if len(image) > limit:
        raise _too_large(limit)
    return image


def _files(form: FormData, limit: int, most: int) -> list[UploadFile]:
    items = form.multi_items()
    files = [value for key, value in items if key == FIELD and isinstance(value, UploadFile)]
    if len(files) < len(items) or not files:
        raise MultipartError(f"a multipart body takes files in the field {FIELD!r} and nothing else")
    if len(files) > most:
        raise _too_many(most)
    if any((file.size or 0) > limit for file in files):
        raise _too_large(limit)
    return files


class _Parser(MultiPartParser):
    spool_max_size = 1 << 62  # the size of the body is bounded: nothing goes to the disk


async def _chunks(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


async def _within(boundary: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The chunks; an error without a boundary among the first bytes, and the end's among the last.

    The parser would read line breaks for ever, and drop an unfinished part.
    """
    head, tail, end, most = b"", b"", boundary + b"--", len(boundary) + 2 + MAX_AROUND
    async for chunk in chunks:
        if boundary not in head:
            head += chunk[: most - len(head)]
            if len(head) == most and boundary not in head:
                raise MultipartError("the multipart body does not begin with its boundary")
        tail = (tail + chunk)[-most:]
        yield chunk
    if end not in tail:
        raise MultipartError("the multipart body ends before its last boundary; send it whole")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"more than {limit} bytes; scale the image down, or send fewer at once")


def _too_many(most: int) -> TooManyImagesError:
    return TooManyImagesError(f"more than {most} images in one request; send several requests")
