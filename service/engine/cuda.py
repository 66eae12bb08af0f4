"""ONNX Runtime on one GPU: batches of a few sizes, at addresses that stay the same, as captured graphs.

    a lane:  copy the rows into pinned memory -> to the device -> | run the graph of that size | -> scores to the host

Two lanes take turns on one session: while the batch of one runs, that of the other is copied. The second takes only
full batches, so that requests go on gathering while the device is busy.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from service.engine.backend import Provider
from service.engine.driver import Memory
from service.engine.entry import Pixels, Scores, Shape
from service.engine.session import open_session

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes; others are padded up, since each new shape costs a search for its kernels."""

LANES = 2

NO_GRAPH = "-1"
"""Of a run that is not to be captured: of another size than the warmed one."""


class CudaBackend:
    """One session on one GPU.

    Views of another shape than the warmed one pay for the search of their kernels anyway, and run as they are: of one
    dense view padded to eight, seven would be computed for nothing.

    Args:
        model: ONNX file.
        memory: of the GPU.
        buckets: batch sizes, ascending.
        half: it computes in float16: tensor cores want the channels last.
        memory_limit: bytes of the GPU that the session may take; None: all there are.
        graphs: capture one for each size; done without where the network cannot be captured.
    """

    provider: Provider = "cuda"
    fills_ahead = True
    lanes = LANES
    at_once = 1

    def __init__(
        self,
        model: bytes,
        memory: Memory,
        buckets: Sequence[int] = BUCKETS,
        *,
        half: bool = False,
        memory_limit: int | None = None,
        graphs: bool = True,
    ) -> None:
        self._model = model
        self._memory = memory
        self._buckets = tuple(buckets)
        self.max_batch_size = self._buckets[-1]
        self._options = _options(memory.number, half, memory_limit)
        self._graphs = graphs
        self._session: Any = None
        self._turn = threading.Lock()
        self._slots: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._warmed: Shape | None = None

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:  # noqa: ARG002 a GPU has nothing more to give
        """See `Backend.run`."""
        self._memory.enter()
        if images.shape[1:] != self._warmed:
            with self._turn:
                options = _run_options(NO_GRAPH)
                return np.asarray(self._session.run(["logits"], {"images": images}, options)[0])
        slot = self._slots.get()
        try:
            bucket = next(size for size in self._buckets if size >= len(images))
            slot.load(images, bucket)
            with self._turn:
                slot.run(bucket)
            return slot.scores(len(images))
        finally:
            self._slots.put(slot)

    def warm(self, shape: Shape) -> None:
        """Opens the session and captures its graphs; to be called once, before `run`."""
        self._memory.enter()
        if not (self._graphs and self._captures(shape)):
            self._prepare(shape, self._options)
        self._warmed = shape
        self._model = b""  # it is in the session now

    def _captures(self, shape: Shape) -> bool:
        """Whether the network can be captured: some are refused when opened, some only when run.

        Of the latter nothing is left but the memory of their slots, which is the backend's until it is gone.
        """
        try:
            self._prepare(shape, {**self._options, "enable_cuda_graph": "1"})
        except Exception:  # what is really wrong shows without graphs too
            number = self._memory.number
            logger.warning("cuda:%d captures no graph of this network; it runs without", number, exc_info=True)
            return False
        return True

    def _prepare(self, shape: Shape, options: dict[str, str]) -> None:
        """A session and its slots, after a run of each size: the largest first, whose memory the others then use."""
        session = open_session(self._model, f"{self._memory.kind.upper()}ExecutionProvider", options)
        slots = [Slot(session, self._memory, shape, self._buckets, number) for number in range(LANES)]
        blank = np.zeros((self.max_batch_size, *shape), np.uint8)
        for slot in slots:
            for bucket in reversed(self._buckets):
                for _ in ("captured", "replayed"):
                    slot.load(blank[:bucket], bucket)
                    slot.run(bucket)
        self._session = session
        for slot in slots:
            self._slots.put(slot)


class Slot:
    """Where one batch lies.

    Args:
        session: that runs it.
        memory: of the session's device.
        shape: height, width and channels of the rows.
        buckets: batch sizes.
        number: of the slot, among those of the session.
    """

    def __init__(self, session: Any, memory: Memory, shape: Shape, buckets: Sequence[int], number: int) -> None:
        most, classes = buckets[-1], int(session.get_outputs()[0].shape[-1])
        self._session = session
        self._memory = memory
        self._images = memory.pin((most, *shape), np.uint8)
        self._scores = memory.pin((most, classes), np.float32)
        self._images_there = memory.allocate(self._images.nbytes)
        self._scores_there = memory.allocate(self._scores.nbytes)
        self._bindings = {size: self._bind(size) for size in buckets}
        # A graph knows its addresses: each slot has its own graph for each size, told by a positive number.
        self._options = {
            size: _run_options(str(1 + number * len(buckets) + place)) for place, size in enumerate(buckets)
        }

    def load(self, images: Pixels, bucket: int) -> None:
        """Rows onto the device; those that fill up the bucket are whatever was there before."""
        np.copyto(self._images[: len(images)], images)
        self._memory.upload(self._images_there, self._images[:bucket])

    def run(self, bucket: int) -> None:
        self._session.run_with_iobinding(self._bindings[bucket], self._options[bucket])

    def scores(self, rows: int) -> Scores:
        """A copy: the next batch will lie here."""
        self._memory.download(self._scores[:rows], self._scores_there)
        return np.array(self._scores[:rows])

    def _bind(self, size: int) -> Any:
        memory, binding = self._memory, self._session.io_binding()
        image, score = self._images.shape[1:], self._scores.shape[1:]
        binding.bind_input("images", memory.kind, memory.number, np.uint8, [size, *image], self._images_there)
        binding.bind_output("logits", memory.kind, memory.number, np.float32, [size, *score], self._scores_there)
        return binding


def _options(number: int, half: bool, memory_limit: int | None) -> dict[str, str]:
    """Of ONNX Runtime's CUDA provider."""
    options = {
        "device_id": str(number),
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles its memory and never gives it back
        "cudnn_conv_algo_search": "HEURISTIC",  # the default searches for seconds at each new shape
        "use_tf32": "0",  # fp32 means fp32: the golden answers are torch's
    }
    if half:
        options["prefer_nhwc"] = "1"
    if memory_limit is not None:
        options["gpu_mem_limit"] = str(memory_limit)
    return options


def _run_options(graph: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
