"""Reading request bodies under a cap, in memory, without temporary files."""

from collections.abc import AsyncGenerator

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import BodyTooLargeError, MediaTypeError, MultipartError, TooManyImagesError

FIELD = "images"
MAX_EPILOGUE = 256
"""Bytes after the last boundary of a multipart body."""


def is_multipart(request: Request) -> bool:
    return _media_type(request) == "multipart/form-data"


def check_media_type(request: Request) -> None:
    """The bytes of a raw body decide what it is, whatever its type says: curl calls everything a form.

    Raises:
        MediaTypeError: JSON, or a content encoding.
    """
    if encoding := request.headers.get("content-encoding"):
        raise MediaTypeError(f"content encoding {encoding[:32]!r} is not read here; send the image as it is")
    if _media_type(request) == "application/json":
        raise MediaTypeError("JSON is not read here; send the image's bytes, or multipart/form-data")


async def read(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        BodyTooLargeError: more than `limit` bytes, noticed before they are read where the client announces them.
    """
    return b"".join([chunk async for chunk in _chunks(request, limit)])


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
    chunks = _until(b"--" + boundary + b"--", _chunks(request, body_limit))
    parser = _Parser(request.headers, chunks, max_files=most + 1, max_fields=1)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, UnicodeError) as error:
        raise MultipartError(f"the multipart body is malformed, or has more than {most} files") from error
    try:
        return [await file.read() for file in _files(form, image_limit, most)]
    finally:
        await form.close()


def _files(form: FormData, limit: int, most: int) -> list[UploadFile]:
    items = form.multi_items()
    files = [value for key, value in items if key == FIELD and isinstance(value, UploadFile)]
    if len(files) < len(items) or not files:
        raise MultipartError(f"a multipart body takes files in the field {FIELD!r} and nothing else")
    if len(files) > most:
        raise TooManyImagesError(f"more than {most} images in one request; send several requests")
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


async def _until(end: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The chunks; an error when `end` is not among the last bytes. The parser would drop an unfinished part."""
    tail = b""
    async for chunk in chunks:
        tail = (tail + chunk)[-len(end) - MAX_EPILOGUE :]
        yield chunk
    if end not in tail:
        raise MultipartError("the multipart body ends before its last boundary; send it whole")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"more than {limit} bytes; scale the image down, or send fewer at once")
