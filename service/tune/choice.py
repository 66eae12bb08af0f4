"""Which candidate is better, and whether that is sure: pure functions of what the rounds measured."""

from collections.abc import Hashable, Mapping, Sequence
from statistics import median
from typing import NamedTuple, TypeVar

GAIN = 0.05
"""The least that a change has to bring: less is not worth an odd configuration."""
HOPELESS = 0.7
"""Of the best of the first round: who is slower than that is measured no further."""

Key = TypeVar("Key", bound=Hashable)


class Round(NamedTuple):
    """One measurement of one candidate."""

    speed: float
    """Images per second, of those answered within the limit."""
    p99_ms: float | None
    """None of fewer than a hundred answers."""
    keeps: bool
    """The limit: at most one answer in a hundred took longer."""
    clients: int
    """That asked at once."""


Rounds = Mapping[Key, Sequence[Round]]


def choose(incumbent: Key, rounds: Rounds[Key]) -> Key | None:
    """The one to take; None where none keeps the limit.

    The incumbent stays unless another one is faster beyond the noise, or it does not keep the limit itself.

    Args:
        incumbent: who is in place, one of the rounds' keys.
        rounds: of each candidate, measured in turns; who has fewer than the incumbent was given up.
    """
    complete = len(rounds[incumbent])
    keeping = [key for key, each in rounds.items() if len(each) == complete and keeps(each)]
    if incumbent in keeping:
        keeping = [incumbent, *(key for key in keeping if is_faster(rounds[key], rounds[incumbent]))]
        faster = [key for key in keeping if key != incumbent]
        return max(faster, key=lambda key: speed(rounds[key]), default=incumbent)
    return max(keeping, key=lambda key: speed(rounds[key]), default=None)


def is_faster(one: Sequence[Round], other: Sequence[Round]) -> bool:
    """Every round of the one beats every round of the other, and the medians differ by `GAIN`.

    Of three rounds each, chance alone does the first once in twenty times.
    """
    apart = min(each.speed for each in one) > max(each.speed for each in other)
    return apart and speed(one) >= (1 + GAIN) * speed(other)


def keeps(rounds: Sequence[Round]) -> bool:
    """In most rounds."""
    return sum(each.keeps for each in rounds) > len(rounds) / 2


def speed(rounds: Sequence[Round]) -> float:
    return median(each.speed for each in rounds)


def p99(rounds: Sequence[Round]) -> float | None:
    known = [each.p99_ms for each in rounds if each.p99_ms is not None]
    return median(known) if known else None


def noise(rounds: Rounds[Key]) -> float:
    """How far the rounds of one and the same candidate lie apart, as a part of their median: the largest of all."""
    spreads = []
    for each in rounds.values():
        speeds = [one.speed for one in each]
        if len(speeds) > 1 and median(speeds):
            spreads.append((max(speeds) - min(speeds)) / median(speeds))
    return max(spreads, default=0.0)


def hopeful(incumbent: Key, first: Rounds[Key]) -> list[Key]:
    """Who is worth further rounds, by the first: the incumbent, and who is not far behind the best within the limit."""
    best = max((each[0].speed for each in first.values() if each[0].keeps), default=0.0)
    return [key for key, each in first.items() if key == incumbent or each[0].speed >= HOPELESS * best]
