"""The binary tensor extension against tritonclient's own reading and writing of it."""

import gzip
import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from service.api import v2_codec
from service.api.v2_codec import Output
from service.api.v2_types import InferenceRequest, RequestInput
from service.errors import BodyTooLargeError, InferenceRequestError, InvalidTensorError, TensorSizeError


def tensor(name: str, shape: list[int], datatype: str = "UINT8", **more: Any) -> RequestInput:
    return RequestInput.model_validate({"name": name, "shape": shape, "datatype": datatype, **more})


def sent(*inputs: Any) -> tuple[InferenceRequest, memoryview]:
    """What tritonclient makes of its inputs, taken apart where it says that the JSON ends."""
    content, length = triton.InferenceServerClient.generate_request_body(list(inputs))
    length = len(content) if length is None else length
    return v2_codec.read(InferenceRequest, content[:length]), memoryview(content)[length:]


def test_inputs_lie_in_the_order_of_the_json_and_some_are_in_it() -> None:
    rows = [np.arange(start, start + 6, dtype=np.uint8).reshape(2, 3) for start in (0, 100, 200)]
    inputs = [
        triton.InferInput(name, [2, 3], "UINT8").set_data_from_numpy(array, binary_data=name != "b")
        for name, array in zip("abc", rows, strict=True)
    ]
    request, behind = sent(*inputs)
    assert len(behind) == 12
    found = v2_codec.payloads(request.inputs, behind)
    assert [isinstance(payload, list) for payload in found] == [False, True, False]
    for given_tensor, payload, expected in zip(request.inputs, found, rows, strict=True):
        assert np.array_equal(v2_codec.pixels(given_tensor, payload), expected)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_elements_are_read_as_the_client_writes_them(elements: list[bytes]) -> None:
    array = np.array(elements, dtype=np.object_)
    packed = memoryview(serialize_byte_tensor(array).item())
    assert v2_codec.strings(tensor("image", [len(elements)], "BYTES"), packed) == elements


@given(st.lists(st.text("abc:é", min_size=1, max_size=9), min_size=1, max_size=9), st.booleans(), st.booleans())
def test_answers_are_read_by_the_client(texts: list[str], first: bool, second: bool) -> None:
    scores = np.linspace(-1e30, 1e30, 6, dtype=np.float32).reshape(2, 3)
    strings = [text.encode() for text in texts]
    outputs = [Output("classes", (len(texts),), strings, first), Output("scores", (2, 3), scores, second)]
    content, length = v2_codec.write({"model_name": "m"}, outputs)
    assert (length is None) == (not first and not second)
    answer = triton.InferenceServerClient.parse_response_body(content, header_length=length)
    assert np.array_equal(answer.as_numpy("scores"), scores)
    classes = answer.as_numpy("classes").tolist()
    assert classes == (strings if first else texts)


def test_the_bytes_of_an_answer() -> None:
    """Worked out by hand: 1.0 is 00 00 80 3f, little-endian; an element has its length before it."""
    outputs = [Output("b", (1,), [b"ab"], True), Output("f", (1,), np.array([1], np.float32), True)]
    content, length = v2_codec.write({}, outputs)
    assert content[length:] == b"\x02\0\0\0ab" + b"\0\0\x80?"
    assert [output["parameters"] for output in json.loads(content[:length])["outputs"]] == [
        {"binary_data_size": 6},
        {"binary_data_size": 4},
    ]
    assert deserialize_bytes_tensor(content[length : (length or 0) + 6]).tolist() == [b"ab"]


@given(st.recursive(st.integers(-2, 300), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_nested_data_are_what_numpy_takes_for_that_shape(data: Any) -> None:
    """Flat or exactly nested, and all of them 0 to 255; else refused."""
    shape = [2, 3]
    if not isinstance(data, list):
        return
    wish = tensor("a", shape, data=data)
    try:
        array = np.array(data, dtype=np.int64)
    except ValueError:
        array = np.array([-1])
    fits = array.shape in ((6,), (2, 3)) and array.min() >= 0 and array.max() <= 255
    if fits:
        assert np.array_equal(v2_codec.pixels(wish, data), array.reshape(shape))
    else:
        with pytest.raises(InvalidTensorError):
            v2_codec.pixels(wish, data)


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_data_flat_and_nested(data: list[Any]) -> None:
    assert v2_codec.pixels(tensor("a", [2, 3]), data).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_sizes_are_compared_before_anything_is_made_of_them() -> None:
    with pytest.raises(TensorSizeError, match="more than 2"):
        v2_codec.pixels(tensor("a", [16, 2**60 + 2, 2**60]), memoryview(b"x"))
    with pytest.raises(TensorSizeError):
        v2_codec.payloads([tensor("a", [1], parameters={"binary_data_size": 2**70})], memoryview(b"x"))
    with pytest.raises(TensorSizeError):
        v2_codec.pixels(tensor("a", [-2, -3]), memoryview(b"x"))


@given(st.binary(max_size=300), st.integers(0, 300))
def test_unpacking_stops_at_the_limit(plain: bytes, limit: int) -> None:
    packed = gzip.compress(plain)
    if len(plain) > limit:
        with pytest.raises(BodyTooLargeError):
            v2_codec.inflate(packed, "gzip", limit)
    else:
        assert v2_codec.inflate(packed, "GZIP", limit) == plain


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_our_words(content: bytes) -> None:
    with pytest.raises(InferenceRequestError) as refused:
        v2_codec.read(InferenceRequest, content)
    assert str(refused.value).isascii()
    for encoding in ("gzip", "deflate"):
        with pytest.raises((InferenceRequestError, BodyTooLargeError)):
            v2_codec.inflate(content, encoding, 100)
