"""Which requests of a batch that failed are at fault: a search that says what to run next, and waits for nothing."""

from collections.abc import Callable, Generator, Sequence

from service.engine.entry import Segment

MAX_CULPRITS = 4
"""After that many the device itself is at fault, and what is left of a batch fails with them."""


def isolate(segments: Sequence[Segment], run: Callable[[Sequence[Segment]], bool]) -> list[Segment]:
    """Of segments that failed together, those that fail by themselves; the others have run when it returns.

    Args:
        segments: of a batch whose run failed; with those that have left since, who may have been the culprits.
        run: runs some of them; whether that worked.
    """
    search = searching(segments)
    try:
        part = next(search)
        while True:
            part = search.send(run(part))
    except StopIteration as end:
        culprits: list[Segment] = end.value
        return culprits


def searching(segments: Sequence[Segment]) -> Generator[list[Segment], bool, list[Segment]]:
    """Yields what has to be run next and is sent whether that worked; returns the culprits, see `isolate`.

    Halves what must hold a culprit, and sets the other half aside until it is found: k culprits among B segments
    cost at most k * (ceil(log2 B) + 1) runs, and one more for each that leaves meanwhile.
    """
    culprits: list[Segment] = []
    left = list(segments)
    while left:
        failed = left
        suspects, left, proven = yield from _narrowing(failed)
        # Who is only what is left over has to fail once more; not if two runs have failed, all of whom are still there.
        proven = proven or (bool(left) and not any(segment.entry.given_up for segment in failed))
        if proven or not (yield suspects):
            culprits += suspects
        if len(culprits) >= MAX_CULPRITS:
            return culprits + left
        if left and (yield left):
            break
    return culprits


def _narrowing(failed: list[Segment]) -> Generator[list[Segment], bool, tuple[list[Segment], list[Segment], bool]]:
    """One suspect of what failed together, what was set aside, and whether the suspect has failed by itself."""
    suspects, proven = failed, len(failed) == 1
    aside: list[Segment] = []
    while len(suspects) > 1:
        half, rest = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
        if (yield half):
            suspects, proven = rest, False
        else:
            suspects, aside, proven = half, rest + aside, len(half) == 1
    return suspects, aside, proven
