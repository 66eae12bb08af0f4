"""Golden answers: kept bit for bit, and a wrong, swapped or infinite answer is refused."""

import io
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from bundle.errors import BundleError
from bundle.golden import TOLERANCES, Golden
from bundle.manifest import Precision
from samples import golden


def test_golden_survives_its_file_bit_for_bit() -> None:
    before = golden()
    after = type(before).from_bytes(before.to_bytes())
    assert after.images.dtype == np.uint8
    assert after.logits.dtype == np.float32
    np.testing.assert_array_equal(after.images, before.images)
    np.testing.assert_array_equal(after.logits, before.logits)
    assert after.tolerance == before.tolerance


def test_the_same_golden_gives_the_same_bytes() -> None:
    assert golden().to_bytes() == golden().to_bytes()


def test_check_returns_the_largest_error_by_the_largest_logit() -> None:
    answers = golden().logits.copy()
    answers[1, 2] += 2e-4  # the largest |logit| is 4
    assert golden().check(answers, "cpu") == pytest.approx(5e-5, rel=1e-2)


def test_each_provider_has_its_own_bound() -> None:
    answers = golden().logits + np.float32(2e-3)  # 5e-4 of the largest
    assert golden().check(answers, "cuda") == pytest.approx(5e-4, rel=1e-2)
    with pytest.raises(BundleError, match=r"off by 0\.0005 of the largest, 0\.0001 is allowed"):
        golden().check(answers, "cpu")


def test_two_swapped_images_are_noticed() -> None:
    with pytest.raises(BundleError, match="off by"):
        golden().check(golden().logits[::-1].copy(), "cuda")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_refused(value: float) -> None:
    answers = golden().logits.copy()
    answers[0, 0] = value
    with pytest.raises(BundleError, match="off by"):
        golden().check(answers, "cpu")


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(BundleError, match=r"answers \(2, 2\), expected \(2, 3\)"):
        golden().check(golden().logits[:, :2], "cpu")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", golden().to_bytes()[:200]])
def test_a_damaged_file_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"golden\.npz is not readable"):
        type(golden()).from_bytes(content)


def test_a_pickled_array_is_never_loaded() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.array([object()]), logits=np.zeros(1), tolerance=np.zeros(1))
    with pytest.raises(BundleError, match=r"golden\.npz is not readable"):
        type(golden()).from_bytes(buffer.getvalue())


def test_every_precision_has_a_bound_for_every_provider() -> None:
    """A reader asks for both, whichever it will be checked on."""
    for bounds in TOLERANCES.values():
        before = replace(golden(), tolerance=bounds)
        after = Golden.from_bytes(before.to_bytes())
        after.require_fit((32, 32, 1), 3)
        assert after.tolerance == bounds
    assert TOLERANCES.keys() == set(get_args(Precision))
