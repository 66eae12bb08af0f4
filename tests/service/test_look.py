"""One image's views in waves, on a device that answers the first pixel of each view and waits when it is told to."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.aggregate import average
from bundle.errors import BadImageError
from bundle.manifest import Input
from bundle.plan import Part, Plan
from bundle.plans import PUBLISHED
from bundle.preprocess import Decoded, ImageLimits, Opened
from bundle.stop import Never, Probabilities, Rule
from bundle.views import Size
from fakes import FakeBackend
from live import encode
from samples import manifest
from service import look as module
from service.answer import Seconds
from service.engine.batcher import Batcher
from service.engine.entry import Entry, Pixels, Scores
from service.errors import BackendError
from service.look import Drawing, Looked, look
from service.metrics import Metrics
from service.work import Choice, Work, work_of

SOON = 10.0
NETWORK = manifest(input=Input(height=8, width=8, channels=3, dynamic=True, resize=10), macs=1000)
NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
IMAGE = encode(Image.fromarray(NOISE))
SHAPES = Plan(name="shapes", source="", parts=(Part(mirror=True), Part(scales=(10, 12), crops="dense")))
"""Two views of 8 x 8, one of 15 x 10, one of 18 x 12."""


@dataclass(frozen=True)
class Waves:
    """Looks after these numbers of views, and has enough after the last but `more`."""

    counts: tuple[int, ...]
    stop_at: int

    def waves(self, weights: Sequence[float]) -> list[int]:
        assert len(weights) == self.counts[-1]
        return list(self.counts)

    def enough(self, wave: int, mean: Probabilities, seen: float) -> bool:
        assert mean.sum() == pytest.approx(1)
        assert seen == pytest.approx(self.counts[wave] / self.counts[-1])
        return wave == self.stop_at


class Device(FakeBackend):
    """Runs as many batches as it is allowed to, and notes their shapes; `entered` counts those that have begun."""

    def __init__(self, allowed: int = 1_000_000, **options: Any) -> None:
        super().__init__(**options)
        self.allowed = threading.Semaphore(allowed)
        self.entered = threading.Semaphore(0)
        self.shapes: list[tuple[int, ...]] = []

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        self.entered.release()
        assert self.allowed.acquire(timeout=SOON)
        self.shapes.append(images.shape)
        return super().run(images, alone=alone) / np.float32(64)


@pytest.fixture
def start() -> Iterator[Callable[..., Batcher]]:
    batchers = []

    def make(device: Device, max_queue_size: int = 100) -> Batcher:
        batchers.append(Batcher(device, Metrics().of("model"), max_queue_size=max_queue_size))
        return batchers[-1]

    yield make
    for batcher in batchers:
        device = batcher._backends[0]
        assert isinstance(device, Device)
        device.allowed.release(1000)
        batcher.close(SOON)


def work(plan: Plan = PUBLISHED["ten_crop"], rule: Rule | None = None) -> Work:
    choice = Choice(plan, "probabilities", rule or Never(), "", "identical", detail=False)
    return work_of(choice, Size(30, 20), NETWORK)


async def looked(batcher: Batcher, work: Work, image: bytes = IMAGE, wait: float = SOON) -> Looked:
    return await look(batcher, NETWORK, Opened(image, ImageLimits()), work, time.monotonic() + wait)


def first_pixels(work: Work) -> np.ndarray[Any, Any]:
    """What the device sees of each view, by resizing and cutting it by itself."""
    image, found = Image.fromarray(NOISE), []
    for view in work.views:
        resized = np.asarray(image.resize(view.resized, Image.Resampling.BILINEAR))
        box = view.box
        cut = resized[box.top : box.top + box.height, box.left : box.left + box.width]
        found.append(cut[0, -1 if view.mirrored else 0])
    return np.array(found)


@pytest.mark.parametrize("lanes", [1, 3])
def test_scores_stand_in_plan_order_whatever_the_shapes(start: Callable[..., Batcher], lanes: int) -> None:
    device = Device(max_batch_size=2, lanes=lanes)
    for plan in (SHAPES, PUBLISHED["multicrop_dense"]):
        wanted = work(plan)
        found = asyncio.run(looked(start(device), wanted))
        assert found.logits * 64 == pytest.approx(first_pixels(wanted), abs=1)
        assert list(found.mean) == pytest.approx(list(average(found.logits, wanted.weights, "probabilities")))


def test_entries_of_a_shape_run_together_and_cost_what_they_are(start: Callable[..., Batcher]) -> None:
    device = Device()
    submitted: list[Entry] = []
    batcher = start(device)
    admit = batcher.submit

    def submit(*entries: Entry, admitted: bool = False) -> None:
        submitted.extend(entries)
        admit(*entries, admitted=admitted)

    batcher.submit = submit  # type: ignore[method-assign]
    asyncio.run(looked(batcher, work(SHAPES)))
    assert [(entry.rows, entry.shape, entry.cost) for entry in submitted] == [
        (2, (8, 8, 3), 1),
        (1, (10, 15, 3), 3),  # 150 / 64 pixels
        (1, (12, 18, 3), 4),  # 216 / 64
    ]
    assert sorted(device.shapes) == [(1, 10, 15, 3), (1, 12, 18, 3), (2, 8, 8, 3)]


def test_waves_are_run_one_after_the_other_until_it_is_enough(start: Callable[..., Batcher]) -> None:
    device = Device(max_batch_size=100)
    wanted = work(rule=Waves((1, 3, 7, 10), stop_at=2))
    found = asyncio.run(looked(start(device), wanted))
    assert device.batches == [1, 2, 4]
    assert found.logits * 64 == pytest.approx(first_pixels(wanted)[:7], abs=1)
    assert list(found.mean) == pytest.approx(list(average(found.logits, [1.0] * 7, "probabilities")))


def test_an_image_is_decoded_once_for_all_waves_shapes_and_lanes(
    start: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = Opened.decode

    def counting(*arguments: Any) -> Decoded:
        decoded.append(threading.current_thread().name)
        time.sleep(0.02)  # so that another lane comes before it is done
        return decode(*arguments)

    monkeypatch.setattr(Opened, "decode", counting)
    batcher = start(Device(lanes=3))
    asyncio.run(looked(batcher, work(SHAPES, Waves((3, 4), stop_at=1))))
    assert len(decoded) == 1
    with pytest.raises(BadImageError):
        asyncio.run(looked(batcher, work(SHAPES), IMAGE[:-40]))
    assert len(decoded) == 2, "a bad image too"


def test_a_failure_cancels_the_other_shapes(start: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first shape fails while the second runs and the third waits."""

    class Failing(Device):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            scores = super().run(images, alone=alone)
            if images.shape[1:] == (8, 8, 3):
                raise RuntimeError("no memory")
            return scores

    device = Failing(allowed=1)
    batcher = start(device)
    with pytest.raises(BackendError):
        asyncio.run(looked(batcher, work(SHAPES)))
    assert batcher.waiting == 0
    device.allowed.release(100)
    monkeypatch.setattr(Failing, "run", Device.run)
    assert len(asyncio.run(looked(batcher, work(SHAPES))).logits) == 4


@pytest.mark.parametrize("wave", [0, 1])
def test_cancelling_a_request_takes_all_its_views_out_of_the_queue(start: Callable[..., Batcher], wave: int) -> None:
    device = Device(allowed=2 * wave, max_batch_size=1)
    batcher = start(device)

    async def leave() -> None:
        task = asyncio.ensure_future(looked(batcher, work(rule=Waves((2, 10), stop_at=1))))
        for _ in range(2 * wave + 1):
            assert await asyncio.to_thread(device.entered.acquire, timeout=SOON)
        assert batcher.waiting
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)  # the cancellation goes on to the engine's futures

    asyncio.run(leave())
    assert batcher.waiting == 0


def test_a_later_wave_is_not_refused_by_a_full_queue(start: Callable[..., Batcher]) -> None:
    """Another request waits, in a queue that it fills, until the second wave is there."""
    device = Device(allowed=0, max_batch_size=1)
    batcher = start(device, max_queue_size=4)
    admit, second = batcher.submit, threading.Event()

    def submit(*entries: Entry, admitted: bool = False) -> None:
        admit(*entries, admitted=admitted)
        if admitted:
            second.set()

    def slow(pixels: Pixels) -> None:
        assert second.wait(SOON)
        pixels[:] = 0

    async def crowd() -> Looked:
        task = asyncio.ensure_future(looked(batcher, work(rule=Waves((1, 10), stop_at=1))))
        assert await asyncio.to_thread(device.entered.acquire, timeout=SOON)
        admit(Entry(4, (8, 8, 3), slow))
        device.allowed.release(100)
        return await task

    batcher.submit = submit  # type: ignore[method-assign]
    assert len(asyncio.run(crowd()).logits) == 10


def test_the_stages_are_no_longer_than_the_time_that_passed(start: Callable[..., Batcher]) -> None:
    batcher = start(Device(seconds=0.01, lanes=3, max_batch_size=1))
    began = time.monotonic()
    seconds = asyncio.run(looked(batcher, work(SHAPES, Waves((3, 4), stop_at=1)))).seconds
    passed = time.monotonic() - began
    assert seconds.compute >= 0.02, "two waves"
    assert seconds.decode + seconds.queue + seconds.compute + seconds.merge <= passed


def test_many_scores_are_averaged_beside_the_loop(
    start: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noting(*arguments: Any) -> Probabilities:
        threads.append(threading.current_thread())
        return average(*arguments)

    monkeypatch.setattr(module, "average", noting)
    monkeypatch.setattr(module, "SCORES_ON_THE_LOOP", 20)
    batcher = start(Device())
    asyncio.run(looked(batcher, work(PUBLISHED["center"])))
    asyncio.run(looked(batcher, work()))
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def test_seconds_side_by_side_are_those_of_the_longest() -> None:
    first, second = Seconds(1.0, 2.0, 3.0, 0.5), Seconds(2.0, 0.0, 2.0, 0.5)
    assert Seconds.beside([first]) == first
    assert Seconds.beside([first, second]) == Seconds(decode=3.0, queue=0.0, compute=3.5, merge=0.0)
    assert Seconds.beside([first, Seconds(1.0, 0.0, 1.0, 0.0)]) == Seconds(2.0, 0.0, 4.0, 0.5)


def test_a_drawing_keeps_no_upload_and_nothing_once_all_views_are_drawn() -> None:
    views = work().views
    drawing = Drawing(Opened(IMAGE, ImageLimits()), views, NETWORK.input)
    rows = np.empty((len(views), 8, 8, 3), np.uint8)
    held = []
    for part in (slice(1), slice(1, None)):
        drawing.draw(views[part], rows[part])
        assert drawing._image is None
        held.append(drawing._scaled is not None)
    assert held == [True, False]
    assert rows[:, 0, 0] == pytest.approx(first_pixels(work()), abs=1)
