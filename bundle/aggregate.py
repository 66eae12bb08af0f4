"""From the scores of the views to one answer."""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Average = Literal["probabilities", "logits"]
AVERAGES: tuple[Average, ...] = get_args(Average)


def softmax(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Probabilities along the last axis, in float64."""
    scores = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def average(logits: npt.ArrayLike, weights: npt.ArrayLike, how: Average) -> npt.NDArray[np.float64]:
    """The weighted mean over the views.

    Args:
        logits: [views, classes].
        weights: [views], relative; identical views computed once carry their multiplicity.
        how: "probabilities" is the mean of the softmaxes (Krizhevsky et al., 2012, and all later papers); "logits" is
            the softmax of the mean logits, the normalised geometric mean of the probabilities.

    Returns:
        Probabilities [classes] that sum to 1.
    """
    if len(np.atleast_1d(weights)) == 1:
        return np.asarray(softmax(logits)[0])
    scores = softmax(logits) if how == "probabilities" else np.asarray(logits, dtype=np.float64)
    mean = np.average(scores, axis=0, weights=np.asarray(weights, dtype=np.float64))
    return softmax(mean) if how == "logits" else np.asarray(mean)


def sharpen(probabilities: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """The softmax of log(probabilities) / temperature along the last axis (Guo et al., 2017, section 4.2)."""
    return softmax(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature)


def top_k(probabilities: npt.NDArray[np.float64], k: int) -> list[int]:
    """The indices of the k largest, the largest first; of equal ones the lower index first."""
    return [int(index) for index in np.argsort(-probabilities, kind="stable")[:k]]
