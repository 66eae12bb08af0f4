"""Averages and rankings worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bundle.aggregate import AVERAGES, Average, average, sharpen, softmax, top_k

LOG2, LOG3 = np.log(2.0), np.log(3.0)


def test_softmax_of_known_odds() -> None:
    assert softmax([0.0, LOG2, LOG3]) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert softmax([[0.0, 0.0], [0.0, LOG3]]) == pytest.approx(np.array([[0.5, 0.5], [0.25, 0.75]]))


def test_softmax_of_large_logits_stays_finite() -> None:
    assert softmax([1000.0, 1000.0 + LOG3, -1e30]) == pytest.approx([0.25, 0.75, 0.0])


def test_probabilities_are_averaged_after_the_softmax() -> None:
    logits = [[0.0, LOG3], [LOG3, 0.0], [0.0, LOG3]]  # 1:3, 3:1, 1:3
    assert average(logits, [1, 1, 1], "probabilities") == pytest.approx([5 / 12, 7 / 12])


def test_logits_are_averaged_before_the_softmax() -> None:
    logits = [[0.0, 2 * LOG3], [0.0, 0.0]]  # the mean says 1:3
    assert average(logits, [1, 1], "logits") == pytest.approx([0.25, 0.75])


def test_the_two_averages_can_rank_differently() -> None:
    """One sure view for class 0 outweighs two that prefer class 1 in logits, not in probabilities."""
    logits = [[10.0, 0.0], [0.0, 2.0], [0.0, 2.0]]
    assert top_k(average(logits, [1, 1, 1], "logits"), 1) == [0]  # mean logits 10/3 and 4/3
    assert top_k(average(logits, [1, 1, 1], "probabilities"), 1) == [1]  # 0.41 and 0.59


@pytest.mark.parametrize("how", AVERAGES)
def test_a_weight_counts_like_repeating_the_view(how: Average) -> None:
    once = np.random.default_rng(0).normal(size=(3, 5))
    repeated = once[[0, 1, 1, 1, 2, 2]]
    assert average(once, [1, 3, 2], how) == pytest.approx(average(repeated, np.ones(6), how), abs=1e-15)


@pytest.mark.parametrize("how", AVERAGES)
def test_one_view_is_its_softmax_whatever_its_weight(how: Average) -> None:
    logits = np.array([[0.0, LOG2, LOG3]], dtype=np.float32)
    assert average(logits, [7], how) == pytest.approx([1 / 6, 2 / 6, 3 / 6], rel=1e-6)


@given(
    views=st.integers(1, 12), classes=st.integers(1, 8), how=st.sampled_from(AVERAGES), seed=st.integers(0, 2**32 - 1)
)
def test_an_average_is_a_distribution_and_forgets_the_order(views: int, classes: int, how: Average, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, weights = rng.normal(scale=20, size=(views, classes)), rng.uniform(0.1, 3, size=views)
    answer = average(logits, weights, how)
    order = rng.permutation(views)
    assert answer.sum() == pytest.approx(1)
    assert (answer >= 0).all()
    assert average(logits[order], weights[order], how) == pytest.approx(answer)


def test_a_view_of_a_plan_with_learned_weights_counts_by_its_weight() -> None:
    """0.75 of 1:3 and 0.25 of 3:1; of logits 0.75 and 0.25 of log 3 each way."""
    logits = [[0.0, LOG3], [LOG3, 0.0]]
    assert average(logits, [0.75, 0.25], "probabilities") == pytest.approx([6 / 16, 10 / 16])
    assert average(logits, [0.75, 0.25], "logits") == pytest.approx([1 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5)])


def test_sharpening_raises_odds_to_one_by_the_temperature() -> None:
    odds = np.array([[1, 3], [3, 1]]) / 4
    assert sharpen(odds, 0.5) == pytest.approx(np.array([[1, 9], [9, 1]]) / 10)
    assert sharpen(odds[0], 2) == pytest.approx([1 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5)])
    assert sharpen(np.array([0.0, 1.0]), 0.1) == pytest.approx([0, 1])
    assert sharpen(np.array([0.0, 1.0, 0.0]), 1e6) == pytest.approx([1 / 3] * 3, abs=1e-3)  # log 0 is log 1e-308 here


@given(
    classes=st.integers(1, 8),
    temperature=st.floats(0.05, 20),
    scale=st.floats(0.1, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_sharpening_is_torch_s_softmax_of_divided_logits(
    classes: int, temperature: float, scale: float, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(scale=scale, size=(3, classes))
    expected = torch.softmax(torch.from_numpy(logits) / temperature, dim=1).numpy()
    found = sharpen(softmax(logits), temperature)
    assert found == pytest.approx(expected, abs=1e-9)
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert sharpen(softmax(logits), 1) == pytest.approx(softmax(logits), abs=1e-15)


def test_top_k_puts_the_lower_index_first_among_equals() -> None:
    assert top_k(np.array([0.1, 0.3, 0.3, 0.0, 0.3]), 4) == [1, 2, 4, 0]
    assert top_k(np.tile([0.0, 1.0], 500), 5) == [1, 3, 5, 7, 9]


def test_top_k_gives_all_classes_when_asked_for_more() -> None:
    assert top_k(np.array([0.2, 0.5, 0.3]), 9) == [1, 2, 0]
