"""One inference request: its body to tensors, those to an answer, that to a body."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.aggregate import softmax, top_k
from bundle.preprocess import Pixels
from service.answer import Answered, Seconds
from service.api import v2_codec
from service.api.v2_codec import Output, Payload
from service.api.v2_names import PRIORITIES, Named
from service.api.v2_types import (
    InferenceRequest,
    InferParameters,
    InputParameters,
    OutputParameters,
    RequestInput,
    RequestOutput,
)
from service.errors import (
    DeadlineExceededError,
    InferenceRequestError,
    InvalidTensorError,
    ModelOutputError,
    UnsupportedError,
)
from service.look import SCORES_ON_THE_LOOP
from service.statistics import Stages
from service.tensors import check_shape, score
from service.work import Asked, Bounds

JSON_ON_THE_LOOP = 32 << 10
"""More bytes of JSON than that are parsed in a thread: 0.5 ms, while other requests wait."""

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Body:
    """What came, unpacked."""

    content: bytes
    json: int | None
    """Bytes of its JSON; None when all of it is."""


@dataclass(frozen=True)
class Inferred:
    """An answer as it is sent."""

    content: bytes
    json: int | None
    """Bytes of its JSON, where tensors follow it."""
    ran: "Ran"
    stages: Stages


@dataclass(frozen=True)
class Asking:
    """A request that was understood."""

    request: InferenceRequest
    outputs: list[RequestOutput]
    value: Pixels | bytes
    """Rows of pixels, or an encoded image."""
    timeout: float
    """In seconds."""
    priority: int | None
    """The engine's: higher is sooner; None leaves it to the operator."""


@dataclass(frozen=True)
class Ran:
    """What the model said: logits of rows, or the averaged probabilities of an image."""

    scores: npt.NDArray[np.floating[Any]]
    """[rows, classes] or [classes]"""
    averaged: bool
    images: int
    views: int
    """That were run."""
    seconds: Seconds

    def output(self, name: str) -> Values:
        """The values of an output."""
        done = self.averaged or name == "logits"
        return (self.scores if done else softmax(self.scores)).astype(np.float32)


async def infer(named: Named, body: Body, bounds: Bounds) -> Inferred:
    """Answers a request.

    Raises:
        InferenceRequestError, InvalidTensorError, UnsupportedError, BodyTooLargeError: about the request.
        ImageError, WorkLimitError: about the image, or the tensor.
        QueueFullError, DeadlineExceededError, ShuttingDownError, BackendError, ModelOutputError: about the engine.
    """
    started = time.monotonic()
    far = (len(body.content) if body.json is None else body.json) > JSON_ON_THE_LOOP
    asked = await asyncio.to_thread(_parse, named, body, bounds) if far else _parse(named, body, bounds)
    parsed = time.monotonic()
    try:
        async with asyncio.timeout(asked.timeout):
            ran = await _run(named, asked, bounds, started + asked.timeout)
    except TimeoutError as error:
        raise DeadlineExceededError(f"no answer within {asked.timeout:g} s; allow the request more time") from error
    answered = time.monotonic()
    far = ran.scores.size > SCORES_ON_THE_LOOP
    content, json = await asyncio.to_thread(_answer, named, asked, ran) if far else _answer(named, asked, ran)
    stages = Stages(
        queue=ran.seconds.queue,
        compute_input=parsed - started + ran.seconds.decode,
        compute_infer=ran.seconds.compute,
        compute_output=ran.seconds.merge + time.monotonic() - answered,
    )
    return Inferred(content, json, ran, stages)


def _parse(named: Named, body: Body, bounds: Bounds) -> Asking:
    """What is asked for; nothing is allocated before its size is known to be right."""
    whole = memoryview(body.content)
    payload: Payload
    if body.json == 0:
        request, payload = _raw(named, whole), whole
    else:
        request = v2_codec.read(InferenceRequest, whole if body.json is None else whole[: body.json])
        _require_no_shared_memory(request)
        _require_input(named, request)
        binary = whole[len(whole) if body.json is None else body.json :]
        payload = v2_codec.payloads(request.inputs, binary)[0]
    tensor = request.inputs[0]
    value: Pixels | bytes
    if named.tensors is not None:
        check_shape(named.tensors, tensor.shape, bounds.max_gmacs)
        value = v2_codec.pixels(tensor, payload)
    elif tensor.shape != [1]:
        raise InvalidTensorError(f"{named.name} takes one image a request, shape [1]; the shape is another")
    else:
        value = bytes(whole) if body.json == 0 else v2_codec.strings(tensor, payload)[0]
    asked = min(request.parameters.timeout, bounds.timeout * 1e6) / 1e6  # an integer may be larger than any float
    timeout = asked or named.found.usual_timeout or bounds.timeout
    priority = _priority(request.parameters)
    return Asking(request, _wanted(named, request), value, min(timeout, bounds.timeout), priority)


def _raw(named: Named, whole: memoryview) -> InferenceRequest:
    """What a body without JSON stands for: one image, or a batch of one at native size; all outputs are binary."""
    wanted, shape = named.inputs[0], [1]
    if named.tensors is not None:
        native = named.tensors.manifest.input
        shape = [1, native.height, native.width, native.channels]
    only = RequestInput(
        name=wanted.name,
        datatype=wanted.datatype,
        shape=shape,
        parameters=InputParameters(binary_data_size=len(whole)),
    )
    return InferenceRequest(inputs=[only], parameters=InferParameters(binary_data_output=True))


def _require_input(named: Named, request: InferenceRequest) -> None:
    wanted = named.inputs[0]
    if [tensor.name for tensor in request.inputs] != [wanted.name]:
        raise InvalidTensorError(f"{named.name} takes the input {wanted.name!r}, once, and no other")
    if request.inputs[0].datatype != wanted.datatype:
        raise InvalidTensorError(f"the input {wanted.name!r} of {named.name} has the datatype {wanted.datatype}")


def _require_no_shared_memory(request: InferenceRequest) -> None:
    tensors: list[RequestInput | RequestOutput] = [*request.inputs, *(request.outputs or ())]
    if any(tensor.parameters.shared_memory_region is not None for tensor in tensors):
        raise UnsupportedError("shared memory is not done here; send tensors in the body")


def _wanted(named: Named, request: InferenceRequest) -> list[RequestOutput]:
    """The outputs asked for, in their order; all when none is named."""
    known = [tensor.name for tensor in named.outputs]
    if not request.outputs:
        return [RequestOutput(name=name, parameters=OutputParameters()) for name in known]
    asked = [output.name for output in request.outputs]
    if len(asked) > len(set(asked)) or not set(asked) <= set(known):
        raise InvalidTensorError(f"{named.name} has the outputs {', '.join(known)}; ask for each at most once")
    return request.outputs


def _priority(parameters: InferParameters) -> int | None:
    if parameters.priority not in PRIORITIES:
        raise InferenceRequestError(f"priority has to be at most {max(PRIORITIES)}; 1 is the highest, 0 the default")
    return PRIORITIES[parameters.priority]


async def _run(named: Named, asked: Asking, bounds: Bounds, deadline: float) -> Ran:
    """Raises ModelOutputError for scores that are no numbers: JSON has no NaN."""
    if named.tensors is not None and not isinstance(asked.value, bytes):
        usual = named.tensors.wishes.serving.priority
        priority = usual if asked.priority is None else asked.priority
        scored = await score(named.tensors, asked.value, deadline, priority, bounds.charge)
        if not np.isfinite(scored.logits).all():
            raise ModelOutputError
        return Ran(scored.logits, False, len(scored.logits), len(scored.logits), scored.seconds)
    assert isinstance(asked.value, bytes)  # noqa: S101 for the type checker; `_parse` has seen to it
    answered = await named.found.answer(asked.value, Asked(views=named.plan, priority=asked.priority), bounds, deadline)
    return Ran(answered.probabilities, True, 1, _views(answered), answered.seconds)


def _views(answered: Answered) -> int:
    """That were run; for an ensemble by all members that answered."""
    parts = [answered, *(part.answered for part in answered.members)]
    return sum(part.views.computed for part in parts if isinstance(part, Answered) and part.views)


def _answer(named: Named, asked: Asking, ran: Ran) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where tensors follow it."""
    request = asked.request
    head = {"model_name": named.name, "model_version": str(named.version)}
    if request.id is not None:
        head["id"] = request.id
    return v2_codec.write(head, [_output(named, request, wanted, ran) for wanted in asked.outputs])


def _output(named: Named, request: InferenceRequest, wanted: RequestOutput, ran: Ran) -> Output:
    values = ran.output(wanted.name)
    parameters = wanted.parameters
    binary = request.parameters.binary_data_output if parameters.binary_data is None else parameters.binary_data
    if not parameters.classification:
        return Output(wanted.name, values.shape, values, binary)
    k = min(parameters.classification, values.shape[-1])
    rows = values.reshape(-1, values.shape[-1])
    classes = [text for row in rows for text in _classes(row, named.found.labels, k)]
    return Output(wanted.name, (*values.shape[:-1], k), classes, binary)


def _classes(row: Values, labels: tuple[str, ...], k: int) -> list[bytes]:
    """The k largest, as Triton writes them: value, index and label."""
    return [f"{row[index]:.6f}:{index}:{labels[index]}".encode() for index in top_k(row.astype(np.float64), k)]
