"""Bytes of the Open Inference Protocol to tensors and back, with the binary tensor extension.

A body is JSON, or JSON and then the bytes of its binary tensors in the order in which the JSON lists them; the header
`Inference-Header-Content-Length` says where the JSON ends. 0 says that there is none: the body is the input itself.
All sizes are compared as Python integers before anything is allocated.
"""

import base64
import binascii
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from bundle.preprocess import Pixels
from service.api.body import strict_json
from service.api.v2_types import Request, RequestInput
from service.errors import BodyTooLargeError, InferenceRequestError, InvalidTensorError, MediaTypeError, TensorSizeError

MAX_JSON_BYTES = 4 << 20
"""Of the JSON part: its parser holds the interpreter lock for 60 ms of that. Tensors belong behind it."""

MAX_ELEMENTS = 64
"""Of a BYTES tensor."""

_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}  # deflate is zlib's format (RFC 9110)

Asked = TypeVar("Asked", bound=Request)
Payload = memoryview | list[Any]


@dataclass(frozen=True)
class Output:
    """A tensor of the answer; `values` are float32, or bytes for the datatype BYTES."""

    name: str
    shape: tuple[int, ...]
    values: npt.NDArray[np.float32] | list[bytes]
    binary: bool

    @property
    def datatype(self) -> str:
        return "BYTES" if isinstance(self.values, list) else "FP32"


def inflate(body: bytes, encoding: str | None, limit: int) -> bytes:
    """The body as it was before its content encoding.

    Raises:
        MediaTypeError: an encoding other than gzip and deflate.
        BodyTooLargeError: more than `limit` bytes come out; no more than that are ever unpacked.
        InferenceRequestError: not of that encoding, cut short, or something behind it.
    """
    if encoding in (None, "", "identity"):
        return body
    window = _WINDOWS.get(str(encoding).lower())
    if window is None:
        raise MediaTypeError("the content encoding is not read here; send gzip, deflate, or the body as it is")
    unpacking = zlib.decompressobj(window)
    try:
        plain = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise InferenceRequestError("the body is not of its content encoding; send it again") from error
    if len(plain) > limit:
        raise BodyTooLargeError(f"more than {limit} bytes when unpacked; send fewer rows at once")
    if not unpacking.eof or unpacking.unused_data:
        raise InferenceRequestError("the packed body is cut short, or something stands behind it; send it whole")
    return plain


def header_length(header: str | None, size: int) -> int | None:
    """Where the JSON of a body of that size ends; None when all of it is JSON.

    Raises:
        InferenceRequestError: not a number, or beyond the body.
    """
    if header is None:
        return None
    digits = header.isascii() and header.isdecimal() and len(header) <= 20  # noqa: PLR2004 of the largest uint64
    if not digits or int(header) > size:
        raise InferenceRequestError(
            f"Inference-Header-Content-Length has to be a number of bytes, at most the {size} of the body"
        )
    return int(header)


def read(kind: type[Asked], content: bytes | memoryview) -> Asked:
    """JSON to a part of the protocol.

    Raises:
        BodyTooLargeError: more than `MAX_JSON_BYTES`.
        InferenceRequestError: no JSON (NaN, a key given twice and other than UTF-8 are none), or something missing or
            of the wrong type; names the place and repeats nothing of what was sent.
    """
    if len(content) > MAX_JSON_BYTES:
        raise BodyTooLargeError(f"the JSON has more than {MAX_JSON_BYTES} bytes; send tensors in binary form behind it")
    try:
        value = strict_json(content)
    except ValueError as error:
        raise InferenceRequestError(
            "the body is not JSON in UTF-8 (where tensors follow it, Inference-Header-Content-Length says its length)"
        ) from error
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the request"
        said = "is missing" if problem["type"] == "missing" else "is not what the protocol allows there"
        raise InferenceRequestError(f"{where} {said}; docs/oip.md shows a request") from error


def payloads(inputs: Sequence[RequestInput], binary: memoryview) -> list[Payload]:
    """For each input its bytes behind the JSON, or its `data`.

    Raises:
        TensorSizeError: the sizes do not add up to the bytes that are there.
        InvalidTensorError: an input with both or neither.
    """
    sizes = [tensor.parameters.binary_data_size for tensor in inputs]
    total = sum(size for size in sizes if size is not None)
    if total != len(binary):
        raise TensorSizeError(
            f"the inputs' binary_data_size sum to {_number(total)}, {len(binary)} bytes follow the JSON"
        )
    found: list[Payload] = []
    start = 0
    for tensor, size in zip(inputs, sizes, strict=True):
        if (size is None) == (tensor.data is None):
            raise InvalidTensorError(f"{_name(tensor)} needs data or binary_data_size, and not both")
        if size is not None:
            found.append(binary[start : start + size])
            start += size
        else:
            found.append(tensor.data or [])
    return found


def pixels(tensor: RequestInput, payload: Payload) -> Pixels:
    """A UINT8 tensor of the shape that it says; without a copy where it is binary.

    Raises:
        TensorSizeError: more or fewer values than the shape has.
        InvalidTensorError: ragged, or values that are no whole numbers of 0 to 255.
    """
    count = math.prod(tensor.shape)
    if isinstance(payload, list):
        payload = memoryview(_whole(tensor, _flat(tensor, payload)))
    if len(payload) != count:
        raise TensorSizeError(f"{_name(tensor)} has {len(payload)} values, its shape has {_number(count)}")
    return np.frombuffer(payload, np.uint8).reshape(tensor.shape)


def strings(tensor: RequestInput, payload: Payload) -> list[bytes]:
    """The elements of a BYTES tensor; those in JSON are base64.

    Raises:
        TensorSizeError: more or fewer elements than the shape has.
        InvalidTensorError: lengths that do not fit, or what is not base64.
    """
    found = _decoded(tensor, payload) if isinstance(payload, list) else _split(tensor, payload)
    if len(found) != math.prod(tensor.shape):
        raise TensorSizeError(
            f"{_name(tensor)} has {len(found)} elements, its shape has {_number(math.prod(tensor.shape))}"
        )
    return found


def write(head: dict[str, Any], outputs: Sequence[Output]) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where tensors follow it.

    Args:
        head: what stands before `outputs` in the JSON.
        outputs: in their order.
    """
    blobs = [_packed(output) if output.binary else None for output in outputs]
    described = [
        {"name": output.name, "shape": list(output.shape), "datatype": output.datatype}
        | ({"data": _listed(output)} if blob is None else {"parameters": {"binary_data_size": len(blob)}})
        for output, blob in zip(outputs, blobs, strict=True)
    ]
    text = json.dumps({**head, "outputs": described}, separators=(",", ":"), allow_nan=False).encode()
    behind = [blob for blob in blobs if blob is not None]
    return b"".join([text, *behind]), len(text) if behind else None


def _flat(tensor: RequestInput, data: list[Any]) -> list[Any]:
    """Flat data as they are; nested ones only in the very shape of the tensor."""
    if not data or not isinstance(data[0], list):
        return data
    first, *inner = tensor.shape
    fits = len(data) == first
    for size in inner:
        fits = fits and all(isinstance(row, list) and len(row) == size for row in data)
        if not fits:
            raise InvalidTensorError(f"the data of {_name(tensor)} are nested otherwise than its shape")
        data = list(chain.from_iterable(data))
    return data


def _whole(tensor: RequestInput, values: list[Any]) -> bytes:
    if set(map(type, values)) <= {int}:  # bytes() would take true for 1
        try:
            return bytes(values)
        except ValueError:
            pass
    raise InvalidTensorError(f"the data of {_name(tensor)} have to be whole numbers of 0 to 255")


def _decoded(tensor: RequestInput, data: list[Any]) -> list[bytes]:
    try:
        return [base64.b64decode(text, validate=True) for text in data]
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidTensorError(
            f"the data of {_name(tensor)} have to be base64; or send them in binary form"
        ) from error


def _split(tensor: RequestInput, payload: memoryview) -> list[bytes]:
    """Each element has its length before it: uint32, little-endian."""
    found: list[bytes] = []
    position = 0
    while position < len(payload):
        start = position + 4
        position = start + int.from_bytes(payload[position:start], "little")
        if position > len(payload) or len(found) == MAX_ELEMENTS:
            raise InvalidTensorError(
                f"{_name(tensor)} is not elements with the length of each before it, as uint32, little-endian"
            )
        found.append(bytes(payload[start:position]))
    return found


def _packed(output: Output) -> bytes:
    if isinstance(output.values, list):
        return b"".join(len(value).to_bytes(4, "little") + value for value in output.values)
    return output.values.astype("<f4").tobytes()


def _listed(output: Output) -> list[Any]:
    if isinstance(output.values, list):
        return [value.decode() for value in output.values]
    flat: list[Any] = output.values.ravel().tolist()
    return flat


def _name(tensor: RequestInput) -> str:
    return f"input {tensor.name[:64]!a}"


def _number(count: int) -> str:
    """Python itself refuses to write very long ones."""
    return str(count) if abs(count) < 1 << 64 else "more than 2^64"
