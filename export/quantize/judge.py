"""What labelled images say of a graph: choices by one half of them, the figure by the other, which is read once."""

from dataclasses import replace

from tqdm import tqdm

from bundle.accuracy import Accuracy
from bundle.labelled import Labelled
from bundle.manifest import Precision, Validation
from bundle.plans import PUBLISHED
from bundle.store import Bundle
from export.evaluate import measure


class Judge:
    """Decides how much accuracy a graph may lose.

    Args:
        bundle: the float one.
        data: all labelled images.
        seed: of the halves.
        budget: percentage points of top-1 accuracy that may be lost.

    Raises:
        ExportError: no image of the validation half can be read.
        LabelledError: the data cannot be split.
    """

    def __init__(self, bundle: Bundle, data: Labelled, seed: int, budget: float) -> None:
        self._bundle = bundle
        self._seed = seed
        self.budget = budget
        self.validation, self.test = data.split(seed)
        self.right_float = self.right(bundle.model, "fp32")

    def right(self, model: bytes, what: str) -> int:
        """Validation images whose best answer is right."""
        return self._measure(model, self.validation, what).top1

    def lost(self, right: int) -> float:
        """Percentage points of top-1 accuracy on the validation half; below 0 where some are gained."""
        return 100 * (self.right_float - right) / len(self.validation)

    def allows(self, right: int) -> bool:
        return self.lost(right) <= self.budget

    def verdict(self, right: int) -> Validation:
        """For the manifest."""
        return Validation(
            data=self.validation.name,
            data_sha256=self.validation.digest(),
            seed=self._seed,
            images=len(self.validation),
            right_float=self.right_float,
            right=right,
            budget=self.budget,
        )

    def figure(self, model: bytes, precision: Precision) -> Accuracy:
        """On the test half; for what is already decided."""
        return self._measure(model, self.test, f"{precision}, test")

    def _measure(self, model: bytes, half: Labelled, what: str) -> Accuracy:
        with tqdm(total=len(half), desc=what, unit="image", disable=None) as bar:
            found = measure(replace(self._bundle, model=model), half, PUBLISHED["center"], answered=bar.update)
        return found.accuracy
