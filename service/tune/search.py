"""The way through the candidates: one contest after the other.

In the end the winner meets what was there before, measured anew: the best of many looks a little better than it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

from service.loadtest.report import number
from service.tune.candidates import Candidate, other_buckets, other_instances
from service.tune.choice import Round, choose, hopeful, keeps, noise, p99, speed
from service.tune.server import Running, TuneError


class Progress(Protocol):
    """Of measurements; a bar on the terminal."""

    def plan(self, count: int) -> None:
        """So many more are to come, or fewer where it is negative."""

    def begin(self, what: str) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Contest:
    """Candidates that took turns: what slows the machine for a while slows all of them."""

    title: str
    incumbent: Candidate
    rounds: dict[Candidate, list[Round]]
    refused: dict[Candidate, str]
    """Whose server did not answer, and why."""

    @property
    def winner(self) -> Candidate | None:
        """None where none keeps the limit."""
        return choose(self.incumbent, self.rounds)

    def table(self) -> str:
        """A row a candidate, the fastest first."""
        head = ("", self.title, "clients", "images/s", "of its rounds", "p99 ms", "")
        order = sorted(self.rounds, key=lambda candidate: -speed(self.rounds[candidate]))
        rows = [head, *(self._row(candidate) for candidate in order)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        left = (0, 1, len(head) - 1)
        lines = [
            "  ".join(
                cell.ljust(width) if place in left else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *(f"left out: {candidate}: {why}" for candidate, why in self.refused.items())])

    def _row(self, candidate: Candidate) -> tuple[str, ...]:
        rounds = self.rounds[candidate]
        speeds, tail = [one.speed for one in rounds], p99(rounds)
        fewest = max(map(len, self.rounds.values()))
        remarks = ["was there before"] * (candidate == self.incumbent) + ["too slow for more rounds"] * (
            len(rounds) < fewest
        )
        return (
            "*" if candidate == self.winner else "",
            str(candidate),
            str(rounds[0].clients),
            number(speed(rounds)),
            f"{number(min(speeds))}-{number(max(speeds))}",
            "-" if tail is None else number(tail),
            ", ".join([*remarks, *["beyond the limit"] * (not keeps(rounds))]),
        )


@dataclass
class Search:
    """Finds the best of what is there.

    Args:
        measure: one candidate once; raises TuneError where its server does not answer.
        look: what the server of a candidate says of itself; raises the same.
        rounds: of each contest.
        progress: is told.
        show: is given each contest when it is over.
    """

    measure: Callable[[Candidate], Round]
    look: Callable[[Candidate], Running]
    rounds: int
    progress: Progress
    show: Callable[[Contest], None]

    def run(self, before: Candidate, versions: Sequence[int], cores: int) -> Contest:
        """The last contest: of what was there before and what is best, or of the last key where nothing is better.

        Args:
            before: what serves now.
            versions: to choose among; empty to keep the one of `before`.
            cores: of this machine.

        Raises:
            TuneError: what serves now does not start.
        """

        @cache
        def usual(version: int) -> Running:
            """Of each version: an int8 one runs on the CPU beside GPUs, and its batches are others."""
            return self.look(replace(before, version=version, buckets=None))

        def instances(best: Candidate) -> list[Candidate]:
            return other_instances(best, usual(best.version).provider, cores)

        def buckets(best: Candidate) -> list[Candidate]:
            return other_buckets(best, usual(best.version).provider, usual(best.version).max_batch_size)

        stages = [("instances", instances), ("buckets", buckets)]
        if set(versions) - {before.version}:
            stages.insert(0, ("versions", lambda best: _other_versions(best, versions)))
        best = before
        for _, others in stages:
            self.progress.plan(self.rounds * (1 + len(others(before))))
        self.progress.plan(2 * self.rounds)
        for title, others in stages:
            candidates = others(best)
            self.progress.plan(self.rounds * (len(candidates) - len(others(before))))
            contest = self.contest(title, best, candidates)
            best = contest.winner or best
        if best == before:
            self.progress.plan(-2 * self.rounds)
            return contest
        return self.contest("measured anew", before, [best])

    def contest(self, title: str, incumbent: Candidate, others: Sequence[Candidate]) -> Contest:
        """Of the incumbent and others; who is hopeless after the first round has no other."""
        contest = Contest(title, incumbent, {}, {})
        left = [incumbent, *others]
        for turn in range(self.rounds):
            for candidate in left[:: 1 if turn % 2 == 0 else -1]:  # none always comes after the same one
                self._measure(contest, candidate, f"{title}, round {turn + 1}: {candidate}", turn)
            still = [each for each in left if each in contest.rounds]
            if turn == 0:
                still = hopeful(incumbent, contest.rounds)
            self.progress.plan((len(still) - len(left)) * (self.rounds - turn - 1))
            left = still
        self.show(contest)
        return contest

    def _measure(self, contest: Contest, candidate: Candidate, what: str, turn: int) -> None:
        """One that fails is left out, and so is what was measured of it; without the incumbent there is no contest."""
        self.progress.begin(what)
        try:
            found = self.measure(candidate)
        except TuneError as error:
            if candidate == contest.incumbent:
                raise
            contest.refused[candidate] = str(error)
            contest.rounds.pop(candidate, None)
        else:
            if turn == 0 or candidate in contest.rounds:
                contest.rounds.setdefault(candidate, []).append(found)
        self.progress.end()


def verdict(last: Contest, before: Candidate, latency_ms: int, spread: float) -> tuple[Candidate, list[str]]:
    """What to take, and why, in sentences.

    Args:
        last: contest, as of `Search.run`.
        before: what was there.
        latency_ms: the limit.
        spread: of the rounds of one candidate, as a part.

    Raises:
        TuneError: nothing keeps the limit.
    """
    chosen = last.winner
    if chosen is None:
        best = max(last.rounds.values(), key=speed)
        tail = p99(best)
        found = "" if tail is None else f"; the best has a p99 of {number(tail)} ms"
        raise TuneError(f"nothing that was tried keeps to {latency_ms} ms{found}; allow more, or fewer views")
    noise_said = f"rounds of one and the same candidate lay up to {100 * spread:.0f} % apart"
    if chosen == before:
        kept = "nothing that was tried is better than what is there beyond the noise"
        return chosen, [f"{kept}: {_figures(last.rounds[chosen])}", noise_said]
    old, new = last.rounds[before], last.rounds[chosen]
    if keeps(old):
        gain = f"{100 * (speed(new) / speed(old) - 1):.0f} % more images per second than before"
    else:
        gain = f"before, the p99 was beyond {latency_ms} ms"
    return chosen, [f"{chosen}: {_figures(new)}; before {_figures(old)}: {gain}", noise_said]


def spread(contests: Sequence[Contest]) -> float:
    return max((noise(contest.rounds) for contest in contests), default=0.0)


def _figures(rounds: Sequence[Round]) -> str:
    tail = p99(rounds)
    return f"{number(speed(rounds))} images/s" + ("" if tail is None else f" at a p99 of {number(tail)} ms")


def _other_versions(best: Candidate, versions: Sequence[int]) -> list[Candidate]:
    return [replace(best, version=version) for version in sorted(set(versions) - {best.version})]
