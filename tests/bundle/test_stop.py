"""Early exit: `exact` never changes the answer and stops as early as that allows; the others stop where they say."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.aggregate import AVERAGES, Average, average, softmax
from bundle.stop import SLACK, Confident, Exact, Never, Rule, StopOption, doubling, replay

Floats = npt.NDArray[np.float64]

weight_lists = st.lists(st.integers(1, 12) | st.floats(0.01, 5), min_size=1, max_size=200)

# --- waves


def test_exact_first_looks_when_more_than_half_is_seen() -> None:
    """Before that, nothing is certain; then after every sixteenth of the views."""
    assert Exact().waves([1] * 10) == [6, 7, 8, 9, 10]
    assert Exact().waves([1] * 144) == [73, 82, 91, 100, 109, 118, 127, 136, 144]
    assert Exact().waves([3] * 48) == [25, 28, 31, 34, 37, 40, 43, 46, 48]
    assert Exact().waves([9, 1, 1]) == [1, 2, 3]
    assert Exact().waves([1, 1, 9]) == [3]
    assert Exact().waves([1, 1]) == [2]
    assert Exact().waves([7]) == [1]


def test_confident_looks_after_one_two_four() -> None:
    assert [doubling(views) for views in (1, 2, 3, 4, 5, 8, 10)] == [
        [1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 5], [1, 2, 4, 8], [1, 2, 4, 8, 10],
    ]  # fmt: skip
    assert Confident(0.9, (1.0,)).waves([3] * 144) == [1, 2, 4, 8, 16, 32, 64, 128, 144]


def test_never_looks_at_the_end() -> None:
    assert Never().waves([1] * 144) == [144]
    assert not Never().enough(0, np.array([1.0, 0.0]), 1.0)


@given(weights=weight_lists, rule=st.sampled_from([Never(), Exact(), Confident(0.5, (1.0,))]))
def test_waves_ascend_to_all_views(weights: list[float], rule: Rule) -> None:
    waves = rule.waves(weights)
    assert all(earlier < later for earlier, later in pairwise([0, *waves]))
    assert waves[-1] == len(weights)


@given(weights=st.lists(st.integers(1, 12), min_size=1, max_size=200))
def test_exact_does_not_look_where_nothing_can_be_certain(weights: list[int]) -> None:
    first = Exact().waves(weights)[0]
    assert 2 * sum(weights[: first - 1]) <= sum(weights)
    assert 2 * sum(weights[:first]) > sum(weights)


# --- exact


def test_ten_unanimous_views_are_decided_after_six() -> None:
    """Six tenths are seen, four are left: the earliest that is certain."""
    logits = np.tile([0.0, 50.0, 0.0], (10, 1))
    assert replay(logits, [1] * 10, Exact(), "probabilities")[1] == 6


def test_ten_nearly_unanimous_views_are_decided_when_the_rest_is_outweighed() -> None:
    """0.8 against 0.2: 0.6 s > 1 - s from s = 0.625 on, so that seven are needed; 0.7 against 0.3 needs eight."""
    for probability, used in ((0.8, 7), (0.7, 8), (0.5, 10)):
        logits = np.tile(np.log([probability, 1 - probability]), (10, 1))
        assert replay(logits, [1] * 10, Exact(), "probabilities")[1] == used


def test_one_heavy_view_decides() -> None:
    logits = [[50.0, 0.0], [0.0, 50.0], [0.0, 50.0]]
    mean, used = replay(logits, [9, 1, 1], Exact(), "probabilities")
    assert used == 1
    assert mean == pytest.approx([1, 0], abs=1e-12)


def test_one_class_is_always_right() -> None:
    assert replay(np.zeros((10, 1)), [1] * 10, Exact(), "probabilities")[1] == 6


@given(scores=st.lists(st.floats(0, 12), min_size=2, max_size=8), seen=st.floats(0.01, 1))
def test_exact_stops_if_and_only_if_the_worst_rest_leaves_the_best_class(scores: list[float], seen: float) -> None:
    """The worst that can come: every view that is left is sure of the second class."""
    mean = softmax(scores)
    second, best = np.argsort(mean, kind="stable")[-2:]
    final = mean * seen
    final[second] += 1 - seen
    lead = final[best] - final[second]
    if Exact().enough(0, mean, seen):
        assert np.argmax(final) == best
        assert lead > SLACK - 1e-12
    else:
        assert lead < SLACK + 1e-12


def test_where_exact_goes_on_the_rest_can_turn_the_answer() -> None:
    """Six of ten views for class 0 with 0.7: the four that are left make it class 1."""
    first, rest = np.tile(np.log([0.7, 0.3]), (6, 1)), np.tile([-50.0, 0.0], (4, 1))
    mean = average(first, [1] * 6, "probabilities")
    assert mean.argmax() == 0
    assert not Exact().enough(0, mean, 0.6)
    assert average(np.vstack([first, rest]), [1] * 10, "probabilities").argmax() == 1


def test_a_lead_within_the_slack_is_no_certainty() -> None:
    for part, enough in ((0.9, False), (1.1, True)):
        lead = (0.4 + part * SLACK) / 0.6  # of six tenths of the weight over the four that are left
        assert Exact().enough(0, np.array([1 + lead, 1 - lead]) / 2, 0.6) == enough


def posteriors(kind: str, images: int, views: int, classes: int, weights: Floats, rng: np.random.Generator) -> Floats:
    """Logits [images, views, classes]."""
    noise = rng.normal(size=(images, views, classes))
    subject = rng.normal(size=(images, 1, classes))
    match kind:
        case "peaked":
            return 8 * subject + 2 * noise
        case "flat":
            return 0.1 * subject + 0.1 * noise
        case "views that differ":
            return 3 * subject + 3 * noise
        case "ties":
            return np.asarray(np.round(subject + 0.5 * noise) * 20)
    return turning(noise, weights, rng)


def turning(noise: Floats, weights: Floats, rng: np.random.Generator) -> Floats:
    """The first views are sure of class 0, all others of class 1, and the two are within 0.004 of each other."""
    sums = np.cumsum(weights) / weights.sum()
    count = int(np.searchsorted(sums, 0.5, "right")) + 1
    logits = np.full(noise.shape, -60.0)
    lead = rng.uniform(-0.002, 0.002, size=(len(noise), 1))
    ours = np.clip(0.5 + lead, 0, sums[count - 1]) / sums[count - 1]  # of each of the first views
    logits[:, :count, 0], logits[:, :count, 1] = np.log(ours), np.log(np.maximum(1 - ours, 1e-30))
    logits[:, count:, 1] = 0.0
    return np.asarray(logits)


def decided(logits: Floats, weights: Floats) -> tuple[int, float]:
    """Changed answers, and mean views used; the means by running sums."""
    rule, waves = Exact(), Exact().waves(weights.tolist())
    exponentials = np.exp(logits - logits.max(axis=2, keepdims=True))
    weighed = exponentials / exponentials.sum(axis=2, keepdims=True) * (weights / weights.sum())[:, None]
    sums, seen = weighed.cumsum(axis=1), np.cumsum(weights) / weights.sum()
    changed, used = 0, 0
    for image in sums:
        for wave, count in enumerate(waves):
            if rule.enough(wave, image[count - 1] / seen[count - 1], float(seen[count - 1])):
                break
        changed += bool(image[count - 1].argmax() != image[-1].argmax())
        used += count
    return changed, used / len(sums)


SHAPES = [(10, 10, 12_000), (2, 2, 2_000), (3, 5, 2_000), (48, 10, 4_000), (150, 20, 1_000), (10, 1000, 300)]
"""Views, classes, images."""
KINDS = ["peaked", "flat", "views that differ", "ties", "turning"]


def test_exact_changes_none_of_a_hundred_thousand_answers() -> None:
    assert len(KINDS) * sum(images for *_, images in SHAPES) >= 100_000
    rng = np.random.default_rng(0)
    for views, classes, images in SHAPES:
        for kind in KINDS:
            weights = np.ones(views) if images % 1000 == 0 and views % 2 == 0 else rng.integers(1, 9, views) / 7
            changed, used = decided(posteriors(kind, images, views, classes, weights, rng), weights)
            print(f"{kind:<18}{views:4} views {classes:5} classes: {used:6.2f} views used, {changed} changed")
            assert changed == 0
            assert kind != "peaked" or views < 10 or used < 0.9 * views
            assert kind != "turning" or views < 10 or 0.6 * views < used < views


def test_the_slack_outlasts_what_a_batch_changes() -> None:
    """Views computed in other batches move by some 1e-5: forty times that, all against it, leaves the answer."""
    rng, weights = np.random.default_rng(1), np.ones(10)
    stopped = 0
    for logits in posteriors("turning", 2000, 10, 4, weights, rng):
        mean, used = replay(logits, weights.tolist(), Exact(), "probabilities")
        if used == len(weights):
            continue
        stopped += 1
        moved = average(logits, weights, "probabilities") + 4e-4
        moved[mean.argmax()] -= 8e-4
        assert moved.argmax() == mean.argmax()
    assert stopped > 400


def test_a_rule_without_the_bound_changes_answers() -> None:
    """So that the test above can fail: after six of ten views class 0 leads, and of half of the images the end is 1."""
    rng, weights = np.random.default_rng(0), np.ones(10)
    logits = posteriors("turning", 1000, 10, 10, weights, rng)
    early = [average(image[:6], weights[:6], "probabilities").argmax() for image in logits]
    full = [average(image, weights, "probabilities").argmax() for image in logits]
    assert 300 < np.sum(np.array(early) != full) < 700


# --- confident


@pytest.mark.parametrize(
    ("threshold", "used"), [(1e-9, 1), (0.5, 1), (0.74, 2), (0.76, 4), (0.87, 4), (0.88, 5), (1.0, 5)]
)
def test_confident_stops_when_the_best_class_reaches_the_threshold(threshold: float, used: int) -> None:
    """The means are 0.7, 0.75 and 0.875 after one, two and four views, and then 0.9."""
    views = np.array([0.7, 0.8, 1, 1, 1]) - 1e-12
    logits = np.log(np.stack([views, 1 - views], axis=1))
    assert replay(logits, [1] * 5, Confident(threshold, (1.0,)), "probabilities")[1] == used


def test_a_threshold_of_one_is_reached_by_certainty_alone() -> None:
    sure = np.tile([0.0, 800.0], (4, 1))
    assert replay(sure, [1] * 4, Confident(1.0, (1.0,)), "probabilities")[1] == 1
    assert replay(sure / 40, [1] * 4, Confident(1.0, (1.0,)), "probabilities")[1] == 4


def test_each_wave_has_its_temperature_and_the_last_stands_for_the_rest() -> None:
    """1:3 at temperature 1/2 is 1:9, at 2 it is 1:1.73."""
    mean = np.array([0.25, 0.75])
    rule = Confident(0.8, (2.0, 0.5))
    assert [rule.enough(wave, mean, 0.5) for wave in range(4)] == [False, True, True, True]
    assert not Confident(0.91, (0.5,)).enough(3, mean, 0.5)


# --- replay


def straight(logits: Sequence[Sequence[float]], weights: Sequence[float], rule: Rule, how: Average) -> int:
    """Views used, number by number."""
    for wave, count in enumerate(rule.waves(weights)):
        totals = [0.0] * len(logits[0])
        for view, weight in zip(logits[:count], weights[:count], strict=True):
            terms = list(view)
            if how == "probabilities":
                whole = sum(math.exp(x) for x in view)
                terms = [math.exp(x) / whole for x in view]
            totals = [total + weight * term for total, term in zip(totals, terms, strict=True)]
        mean = [total / sum(weights[:count]) for total in totals]
        if how == "logits":
            mean = [math.exp(x) / sum(map(math.exp, mean)) for x in mean]
        if rule.enough(wave, np.array(mean), sum(weights[:count]) / sum(weights)):
            return count
    return len(weights)


@given(
    views=st.integers(1, 30),
    classes=st.integers(2, 6),
    scale=st.sampled_from([0.3, 2.0, 6.0]),
    how=st.sampled_from(AVERAGES),
    rule=st.sampled_from([Never(), Exact(), Confident(0.9, (1.5, 0.8)), Confident(0.99, (1.0,))]),
    seed=st.integers(0, 2**32 - 1),
)
def test_replay_is_a_straight_loop(views: int, classes: int, scale: float, how: Average, rule: Rule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = scale * (rng.normal(size=(views, classes)) + rng.normal(size=classes))
    weights = rng.uniform(0.2, 3, views).tolist()
    mean, used = replay(logits, weights, rule, how)
    assert used == straight(logits.tolist(), weights, rule, how)
    assert mean == pytest.approx(average(logits[:used], weights[:used], how), abs=1e-15)
    assert used in rule.waves(weights)
    assert used == views or not isinstance(rule, Never)


# --- what is asked for


@pytest.mark.parametrize(
    ("text", "kind", "threshold"),
    [
        ("never", "never", None),
        ("exact", "exact", None),
        ("confident", "confident", None),
        ("confident:0.9", "confident", 0.9),
        ("confident:.99999999999999999", "confident", 1.0),  # as many digits as a float has
        ("confident:1", "confident", 1.0),
        ("confident:1.0", "confident", 1.0),
    ],
)
def test_what_a_request_asks_for(text: str, kind: str, threshold: float | None) -> None:
    assert StopOption.parse(text) == StopOption(kind, threshold)


@pytest.mark.parametrize(
    "text",
    ["", "Exact", "exact ", "exact\n", "always", "exact:0.9", "confident:", "confident:0", "confident:0.0",
     "confident:1.1", "confident:-0.5", "confident:nan", "confident:inf", "confident:1e-3", "confident:90%",
     "confident:0.9 ", "confident: 0.9", "confident:0." + 18 * "1"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^stop is never, exact, confident, or confident:P with P above 0 and at mos"):
        StopOption.parse(text)
