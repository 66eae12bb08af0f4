"""The CUDA backend with memory of the host in place of a GPU's: the same bindings and addresses, ONNX Runtime's CPU."""

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bundle import store
from bundle.store import Bundle
from fakes import write_colour_bundle
from service.engine import cuda
from service.engine.cuda import BUCKETS, LANES, CudaBackend, Slot
from service.engine.driver import Array, GpuMemory, count_gpus
from service.engine.entry import Pixels
from service.engine.session import open_session
from service.errors import ProviderError

SHAPE = (8, 8, 3)
SOON = 10.0


class HostMemory:
    """Stands in for a GPU's: what is up there is an array too, and copies are counted."""

    kind = "cpu"
    number = 0

    def __init__(self) -> None:
        self.there: dict[int, Array] = {}
        self.uploads: list[int] = []

    def pin(self, shape: Sequence[int], dtype: Any) -> Array:
        return np.full(shape, 99, dtype)

    def allocate(self, size: int) -> int:
        found = np.full(size, 99, np.uint8)
        self.there[found.ctypes.data] = found
        return found.ctypes.data

    def enter(self) -> None:
        """Threads are all alike here."""

    def upload(self, address: int, source: Array) -> None:
        assert source.flags.c_contiguous
        assert source.nbytes <= len(self.there[address])
        self.uploads.append(len(source))
        ctypes.memmove(address, source.ctypes.data, source.nbytes)

    def download(self, target: Array, address: int) -> None:
        ctypes.memmove(target.ctypes.data, address, target.nbytes)


class Watched:
    """A session that notes what it is asked, and may be held up."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.graphs: list[str] = []
        self.free = threading.Event()
        self.free.set()
        self.inside = 0
        self.most_inside = 0

    def run(self, outputs: list[str], inputs: dict[str, Any], options: Any) -> Any:
        self.graphs.append(options.get_run_config_entry("gpu_graph_id"))
        return self._session.run(outputs, inputs)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        assert self.free.wait(SOON)
        self.graphs.append(options.get_run_config_entry("gpu_graph_id"))
        self._session.run_with_iobinding(binding)
        self.inside -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("repository")
    write_colour_bundle(folder, dynamic=True)
    return store.open_bundle(folder, "colours", 1)


@pytest.fixture
def opened(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[CudaBackend, Watched]]:
    """A backend that was warmed, and its session."""

    def open_one(buckets: Sequence[int] = BUCKETS) -> tuple[CudaBackend, Watched]:
        session = Watched(open_session(bundle.model, "CPUExecutionProvider", {}))
        monkeypatch.setattr(cuda, "open_session", lambda *_: session)
        backend = CudaBackend(bundle.model, HostMemory(), buckets)
        backend.warm(SHAPE)
        return backend, session

    return open_one


def coloured(*values: int) -> Pixels:
    """Rows of one red value each; the graph answers ten times their part of 255."""
    images = np.zeros((len(values), *SHAPE), np.uint8)
    images[..., 0] = np.array(values)[:, None, None]
    return images


def test_each_row_gets_its_own_answer_whatever_the_batch(opened: Callable[..., tuple[CudaBackend, Watched]]) -> None:
    """Also the second time, at the same addresses: a graph that replays the first answer for ever is a known trap."""
    backend, _ = opened()
    values = np.random.default_rng(0).integers(0, 256, 64)
    for rows in (*range(1, 65), 64, 1, 33):
        answer = backend.run(coloured(*values[:rows]))
        np.testing.assert_allclose(answer[:, 0], values[:rows] / 25.5, rtol=1e-5)
        assert not answer[:, 1:].any()
        values = np.roll(values, 1)


def test_an_answer_is_not_overwritten_by_the_next(opened: Callable[..., tuple[CudaBackend, Watched]]) -> None:
    backend, _ = opened()
    first = backend.run(coloured(51))
    for value in range(LANES + 1):
        backend.run(coloured(value))
    assert first[0, 0] == pytest.approx(2.0)


def test_only_graphs_that_were_captured_are_run(opened: Callable[..., tuple[CudaBackend, Watched]]) -> None:
    backend, session = opened((3, 5))
    captured = session.graphs.copy()
    assert len(set(captured)) == 2 * LANES, "one for each size and slot"
    assert all(captured.count(graph) == 2 for graph in captured), "captured, then replayed"
    assert all(int(graph) > 0 for graph in captured)
    assert backend.max_batch_size == 5
    for rows in range(1, 6):
        backend.run(coloured(*[7] * rows))
    assert set(session.graphs) == set(captured)


def test_a_batch_is_padded_to_its_bucket(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "open_session", lambda *_: open_session(bundle.model, "CPUExecutionProvider", {}))
    memory = HostMemory()
    backend = CudaBackend(bundle.model, memory, (1, 4, 8))
    backend.warm(SHAPE)
    memory.uploads.clear()
    for rows in (1, 2, 4, 5, 8):
        backend.run(coloured(*[7] * rows))
    assert memory.uploads == [1, 4, 4, 8, 8]


def test_other_sizes_run_as_they_are_and_are_not_captured(opened: Callable[..., tuple[CudaBackend, Watched]]) -> None:
    """A dense view is large, and each of its shapes is new: padding would be computed for nothing."""
    backend, session = opened()
    session.graphs.clear()
    answer = backend.run(np.full((3, 9, 11, 3), 51, np.uint8))
    assert answer.tolist() == [[pytest.approx(2.0)] * 3] * 3
    assert session.graphs == ["-1"]


def test_the_next_batch_is_copied_while_one_runs(
    opened: Callable[..., tuple[CudaBackend, Watched]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, session = opened()
    loaded = threading.Semaphore(0)
    load = Slot.load

    def noting(slot: Slot, images: Pixels, bucket: int) -> None:
        load(slot, images, bucket)
        loaded.release()

    monkeypatch.setattr(Slot, "load", noting)
    session.free.clear()
    answers: dict[int, float] = {}

    def ask(value: int) -> None:
        answers[value] = float(backend.run(coloured(value))[0, 0])

    lanes = [threading.Thread(target=ask, args=(value,)) for value in (51, 102)]
    for lane in lanes:
        lane.start()
    for _ in lanes:
        assert loaded.acquire(timeout=SOON), "both are on the device while the first is held up"
    session.free.set()
    for lane in lanes:
        lane.join(SOON)
    assert answers == {51: pytest.approx(2.0), 102: pytest.approx(4.0)}
    assert session.most_inside == 1, "the device computes one batch at a time"


def test_a_run_that_fails_gives_its_slot_back(
    opened: Callable[..., tuple[CudaBackend, Watched]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, session = opened()

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error 700")

    with monkeypatch.context() as patched:
        patched.setattr(session, "run_with_iobinding", fail)
        for _ in range(LANES + 1):
            with pytest.raises(RuntimeError):
                backend.run(coloured(1))
    assert backend.run(coloured(51))[0, 0] == pytest.approx(2.0)


class Uncapturable(Watched):
    """Fails in the middle of the second slot, as a network does that waits for the host while it is captured."""

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        if len(self.graphs) == 2 * len(BUCKETS) + 3:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        super().run_with_iobinding(binding, options)


@pytest.mark.parametrize("when", ["opened", "captured"])
def test_what_cannot_be_captured_runs_without_graphs(
    when: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, str]] = []
    sessions: list[Watched] = []

    def refusing(model: bytes, _: str, options: dict[str, str]) -> Any:
        asked.append(options)
        graphs = "enable_cuda_graph" in options
        if graphs and when == "opened":
            raise RuntimeError("This session cannot use the graph capture feature")
        kind = Uncapturable if graphs else Watched
        sessions.append(kind(open_session(model, "CPUExecutionProvider", {})))
        return sessions[-1]

    monkeypatch.setattr(cuda, "open_session", refusing)
    backend = CudaBackend(bundle.model, HostMemory(), half=True, memory_limit=1 << 30)
    backend.warm(SHAPE)
    assert caplog.messages == ["cuda:0 captures no graph of this network; it runs without"]
    *given_up, session = sessions
    before = [len(each.graphs) for each in given_up]
    for value in (51, 102, 153, 204):
        assert backend.run(coloured(value))[0, 0] == pytest.approx(value / 25.5)
    assert [len(each.graphs) for each in given_up] == before, "no slot of the first session is left"
    assert len(session.graphs) == 2 * len(BUCKETS) * LANES + 4
    with_graphs, without = asked
    assert with_graphs == {**without, "enable_cuda_graph": "1"}
    assert without == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "prefer_nhwc": "1",
        "gpu_mem_limit": "1073741824",
    }


@pytest.mark.parametrize("graphs", [True, False])
def test_what_fails_without_graphs_too_is_told(graphs: bool, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Watched] = []

    def failing(model: bytes, *_: object) -> Any:
        opened.append(Uncapturable(open_session(model, "CPUExecutionProvider", {})))
        return opened[-1]

    monkeypatch.setattr(cuda, "open_session", failing)
    with pytest.raises(RuntimeError, match="900"):
        CudaBackend(bundle.model, HostMemory(), graphs=graphs).warm(SHAPE)
    assert len(opened) == 1 + graphs


@pytest.mark.gpu
def test_captured_graphs_answer_what_they_are_asked(bundle: Bundle) -> None:
    if not count_gpus():
        pytest.skip("there is no GPU here")
    backend = CudaBackend(bundle.model, GpuMemory(0))
    backend.warm(SHAPE)
    every = np.random.default_rng(0).permutation(256)
    for rows in (1, 1, 1, 3, 3, 64, 64, 64, 1):
        every = np.roll(every, 67)
        np.testing.assert_allclose(backend.run(coloured(*every[:rows]))[:, 0], every[:rows] / 25.5, rtol=1e-4)


class FakeDriver:
    """libcuda, as far as it is called, on memory of the host; what is taken has to be given back."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.taken: dict[int, Any] = {}
        self.calls: list[str] = []
        self.contexts = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return 2 if name == self.fails else self._act(name, arguments)

        return call

    def _act(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "cuDevicePrimaryCtxRetain":
            self.contexts += 1
            arguments[0]._obj.value = 4321
        elif name == "cuDevicePrimaryCtxRelease_v2":
            self.contexts -= 1
        elif name == "cuStreamCreate":
            self._take(arguments[0], b"stream")
        elif name in ("cuMemHostAlloc", "cuMemAlloc_v2"):
            self._take(arguments[0], bytes(arguments[1].value))
        elif name in ("cuMemFreeHost", "cuMemFree_v2", "cuStreamDestroy_v2"):
            del self.taken[arguments[0].value]
        elif name.startswith("cuMemcpy"):
            target, source, size, stream = (argument.value for argument in arguments)
            assert stream in self.taken
            ctypes.memmove(target, source, size)
        return 0

    def _take(self, found: Any, content: bytes) -> None:
        block = ctypes.create_string_buffer(content, max(len(content), 1))
        self.taken[ctypes.addressof(block)] = block
        found._obj.value = ctypes.addressof(block)


def test_copies_go_through_the_driver_and_everything_is_given_back() -> None:
    driver = FakeDriver()
    memory = GpuMemory(3, driver)
    images, scores = memory.pin((2, 5), np.uint8), memory.pin((10,), np.uint8)
    address = memory.allocate(10)
    images[:] = np.arange(10).reshape(2, 5)
    memory.enter()
    memory.upload(address, images)
    memory.download(scores, address)
    assert scores.tolist() == list(range(10))
    assert "cuThreadExchangeStreamCaptureMode" in driver.calls
    assert driver.calls.count("cuStreamSynchronize") == 2, "a copy is done when its call returns"
    del images, scores, memory
    assert not driver.taken
    assert driver.contexts == 0


@pytest.mark.parametrize("function", ["cuDevicePrimaryCtxRetain", "cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2"])
def test_what_the_driver_refuses_names_the_gpu_and_the_error(function: str) -> None:
    driver = FakeDriver(fails=function)
    with pytest.raises(ProviderError, match=rf"cuda:1 refuses {function} \(CUDA error 2\)"):
        _use(GpuMemory(1, driver))
    assert not driver.taken


def _use(memory: GpuMemory) -> None:
    memory.upload(memory.allocate(4), memory.pin((4,), np.uint8))
