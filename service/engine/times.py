"""What batches took lately, by their size, and so what others will take."""

from itertools import pairwise

LEARNED = 0.2
"""The part of a new run in what is remembered of its size."""


class RunTimes:
    """Seconds on the device.

    A CPU takes eight times as long for eight views as for one, a GPU hardly longer: sizes are told apart, by powers of
    two. Between those that were seen a straight line is drawn, also from none; beyond them time grows as the size.

    Args:
        max_batch_size: in views of native size.
    """

    def __init__(self, max_batch_size: int) -> None:
        self._most = max_batch_size
        self._points: dict[int, tuple[float, float]] = {}
        """Size and seconds, each the running mean of the runs of a power of two."""
        self.usual = 0.0
        """Of a run, whatever its size."""

    def learn(self, views: int, seconds: float) -> None:
        """Notes a run; one view that is larger than a batch counts as its part of it."""
        self.usual += (seconds - self.usual) * (LEARNED if self._points else 1.0)
        if views > self._most:
            views, seconds = self._most, seconds * self._most / views
        key = (views - 1).bit_length()
        size, took = self._points.get(key, (float(views), seconds))
        self._points[key] = (size + (views - size) * LEARNED, took + (seconds - took) * LEARNED)

    def of(self, views: int) -> float:
        """For so many views, in full batches one after the other and what is left; 0 before any run."""
        full, rest = divmod(views, self._most)
        return full * self._run(self._most) + self._run(rest)

    def _run(self, views: int) -> float:
        points = [(0.0, 0.0), *(self._points[key] for key in sorted(self._points))]
        for (small, less), (large, more) in pairwise(points):
            if views <= large:
                return less + (more - less) * (views - small) / (large - small)
        size, seconds = points[-1]
        return seconds * views / size if size else 0.0
