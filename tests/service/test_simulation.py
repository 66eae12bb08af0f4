"""The promises of the queue over many seeds; `tests/bench/simulate.py` tries more of them."""

from collections import Counter, OrderedDict

import pytest

from service.engine import queue
from service.engine.entry import Entry
from service.engine.queue import BatchQueue
from simulated import BrokenError, Simulation

SEEDS = 300


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_no_seed_breaks_a_promise(first: int) -> None:
    for seed in range(first, first + 50):
        try:
            Simulation(seed).run()
        except BrokenError as error:
            raise AssertionError(f"seed {seed}") from error


def test_the_seeds_reach_everything_that_can_happen() -> None:
    ends: Counter[str] = Counter()
    refused = reruns = 0
    for seed in range(60):
        simulation = Simulation(seed)
        simulation.run()
        ends += simulation.ends
        refused += simulation.refused
        reruns += simulation.reruns
    assert min(ends[how] for how in ("done", "failed", "damaged", "expired", "cancelled")) > 20
    assert refused > 20
    assert reruns > 20


def test_a_seed_comes_out_the_same_twice() -> None:
    first, second = Simulation(7), Simulation(7)
    first.run()
    second.run()
    assert (first.ends, first.now) == (second.ends, second.now)


def broken(seeds: int = 200) -> set[str]:
    found = set()
    for seed in range(seeds):
        try:
            Simulation(seed).run()
        except BrokenError as error:
            found.add(str(error))
    return found


def test_a_queue_without_expiry_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchQueue, "expire", lambda *_: [])
    assert "what is late is not taken" in broken()


def test_a_queue_without_turns_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unmoved(OrderedDict[Entry, None]):
        def move_to_end(self, key: Entry, last: bool = True) -> None:
            """Stays first."""

    monkeypatch.setattr(queue, "OrderedDict", Unmoved)
    assert "everybody has a turn" in broken()


def test_a_queue_without_priorities_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "sorted", lambda rings, reverse: sorted(rings, reverse=not reverse), raising=False)
    assert "a higher priority is taken first" in broken()


def test_a_queue_that_gives_the_rest_of_a_batch_to_a_lower_priority_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    deal = BatchQueue._deal
    monkeypatch.setattr(BatchQueue, "_deal", lambda *arguments: ([], deal(*arguments)[1]))
    assert "a lower priority has what is left over" in broken()


def test_a_queue_that_deals_again_while_somebody_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    in_order = BatchQueue._in_order
    monkeypatch.setattr(BatchQueue, "_in_order", lambda *arguments: (in_order(*arguments)[0], True))
    assert "nobody has a second turn before the first of another" in broken()
