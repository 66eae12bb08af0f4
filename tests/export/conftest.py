"""Networks with random weights, frozen once for all tests."""

import pytest

from frozen import Frozen, freeze


@pytest.fixture(scope="session")
def resnet20() -> Frozen:
    return freeze("resnet20", "random:0")


@pytest.fixture(scope="session")
def lenet5() -> Frozen:
    return freeze("lenet5", "random:0")
