"""The CPU backend on a graph whose answers are known."""

import numpy as np
import pytest

from bundle import store
from bundle.store import Bundle
from fakes import write_colour_bundle
from service.engine.cpu import CpuBackend

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("repository")
    write_colour_bundle(folder)
    return store.open_bundle(folder, "colours", 1)


def test_cpu_answers_each_row(bundle: Bundle) -> None:
    images = np.zeros((2, *SHAPE), np.uint8)
    images[1, :, :, 2] = 51
    assert CpuBackend(bundle.model, macs=1).run(images).tolist() == [[0, 0, 0], [0, 0, pytest.approx(2.0)]]


@pytest.mark.parametrize(
    ("macs", "views"),
    [(416_520, 16), (40_551_040, 4), (1_814_073_344, 1), (0, 16)],
    ids=["lenet5", "resnet20", "resnet18", "unknown"],
)
def test_a_cpu_batch_is_short(bundle: Bundle, macs: int, views: int) -> None:
    assert CpuBackend(bundle.model, macs).max_batch_size == views
