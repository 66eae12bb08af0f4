"""Reading request bodies under a cap, in memory, without temporary files."""

from collections.abc import AsyncGenerator

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import BodyTooLargeError, MediaTypeError, MultipartError, TooManyImagesError

FIELD = "images"


def is_multipart(request: Request) -> bool:
    return _media_type(request) == "multipart/form-data"


def check_media_type(request: Request) -> None:
    """The bytes of a raw body decide what it is, whatever its type says, unless it says that it is something else.

    Raises:
        MediaTypeError: JSON, a form, or a content encoding.
    """
    if encoding := request.headers.get("content-encoding"):
        raise MediaTypeError(f"content encoding {encoding[:32]!r} is not read here; send the image as it is")
    if (kind := _media_type(request)) in ("application/json", "application/x-www-form-urlencoded"):
        raise MediaTypeError(f"{kind} is not read here; send the image's bytes, or multipart/form-data")


async def read(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        BodyTooLargeError: more than `limit` bytes, noticed before they are read where the client announces them.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_images(request: Request, body_limit: int, image_limit: int, most: int) -> list[bytes]:
    """The files in the field `images` of a multipart body, in their order.

    Raises:
        BodyTooLargeError: the body or one file of it.
        TooManyImagesError: more than `most` files.
        MultipartError: not well-formed, cut short, another field, or no file.
    """
    body = await read(request, body_limit)
    parser = _Parser(request.headers, _once(body), max_files=most + 1, max_fields=1)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, KeyError, UnicodeDecodeError) as error:
        raise MultipartError(f"the multipart body is malformed, or has more than {most} files") from error
    files = [value for key, value in form.multi_items() if key == FIELD and isinstance(value, UploadFile)]
    if len(files) < len(form.multi_items()) or not files:
        raise MultipartError(f"a multipart body takes files in the field {FIELD!r} and nothing else")
    if not _is_complete(request, body):
        raise MultipartError("the multipart body ends before its last boundary; send it whole")
    if len(files) > most:
        raise TooManyImagesError(f"more than {most} images in one request; send several requests")
    images = [await file.read() for file in files]
    if any(len(image) > image_limit for image in images):
        raise _too_large(image_limit)
    return images


class _Parser(MultiPartParser):
    spool_max_size = 1 << 62  # the body is in memory already and its size was checked: nothing goes to the disk


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _is_complete(request: Request, body: bytes) -> bool:
    """Whether the last boundary, which ends in two hyphens, is there; the parser would drop an unfinished part."""
    _, options = parse_options_header(request.headers["content-type"])
    return b"--" + options[b"boundary"] + b"--" in body


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"more than {limit} bytes; scale the image down, or send fewer at once")
