"""A real server on a free port for every test file that asks for one, and images to send to it."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import settings
from PIL import Image

from fakes import write_colour_bundle
from live import encode, serve
from service.engine.limits import cores
from service.settings import Settings

SHARED = Path(__file__).parents[2] / "shared" / "data"
"""Real weights and images that may not be published with the project; tests that need them are skipped elsewhere."""

# Hypothesis without a clock and a memory: neither a busy machine nor an earlier run makes a failure.
settings.register_profile("multicrop", deadline=None, database=None)
settings.load_profile("multicrop")


def pytest_configure(config: pytest.Config) -> None:
    """A shell that starts the suite in the background ignores Ctrl-C for it, and so would whatever the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        # Torch reads it when it is imported, which is later. Workers that all take every core are in each other's way.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // workers)))


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means. Each worker holds torch and whole networks, so many cores are no reason for as many."""
    return min(4, cores())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several workers none is left alone with a long file at the end: these come first."""
    if hasattr(config, "workerinput"):
        long = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder (real weights and images) is not beside this checkout")
    return SHARED


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    write_colour_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[httpx.Client]:
    with serve(Settings(repository=repository, port=0, max_image_bytes=100_000, max_images=4)) as client:
        yield client


@pytest.fixture(scope="session")
def plain() -> Callable[..., bytes]:
    """An image of one colour, as a file."""

    def make(colour: str = "red", size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
        return encode(Image.new("RGB", size, colour), kind)

    return make
