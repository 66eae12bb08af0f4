"""Every bad input of the catalogue, one id each, against one server process that has to outlive them all."""

from collections.abc import Iterator

import pytest

from catalogue import Case, Served
from hostile import CASES


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served"))
    yield server
    server.close()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_bad_input(served: Served, case: Case) -> None:
    case.run(served)
    served.check()
