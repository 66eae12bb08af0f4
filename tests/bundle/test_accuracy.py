"""Intervals against published numbers and SciPy's, the table as papers print it, and what is kept beside a bundle."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scipy import stats

from bundle.accuracy import Accuracies, Accuracy, Interval, keep, table, wilson
from bundle.beside import read_json
from bundle.errors import BundleError

DIGEST, DATA = "a" * 64, "b" * 64


def accuracy(**changes: Any) -> Accuracy:
    facts: dict[str, Any] = {
        "data": "digits",
        "data_sha256": DATA,
        "images": 1000,
        "views": "ten_crop",
        "average": "probabilities",
        "top1": 900,
        "top5": 990,
        "mean_views": 10,
        "gmacs": 40.89184,
        "images_per_second": 12.3456,
    }
    return Accuracy(**{**facts, **changes})


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (0, 10, 0, 27.75),
        (5, 10, 23.66, 76.34),
        (10, 10, 72.25, 100),
        (1, 1, 20.65, 100),
        (81, 263, 25.53, 36.62),  # Newcombe, 1998, table I, method 3
        (15, 148, 6.24, 16.05),
        (0, 20, 0, 16.11),
        (1, 29, 0.61, 17.18),
    ],
)
def test_the_interval_is_the_published_one(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=0.005)


def test_the_interval_is_scipy_s() -> None:
    for total in (1, 2, 7, 100, 9_999, 50_000):
        for count in {0, 1, total // 3, total - 1, total}:
            theirs = stats.binomtest(count, total).proportion_ci(method="wilson")
            low, high = wilson(count, total)
            assert (low, high) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-4)
            assert 0 <= low < high <= 100


def test_errors_are_what_is_not_right_in_percent() -> None:
    result = accuracy(images=10, top1=5, top5=10)
    assert (result.error(), result.error(5)) == (50, 0)
    assert result.interval() == wilson(5, 10)
    assert result.interval(5) == pytest.approx(Interval(0, 27.75), abs=0.005)


TABLE = """
views     average        stop        top-1 error % (95 %)  top-5 error % (95 %)  mean views       GMAC  images/s
ten_crop  probabilities  never         10.00 (8.29-12.02)      1.00 (0.54-1.83)          10      40.89     12.35
center    logits         exact      100.00 (99.62-100.00)      0.00 (0.00-0.38)           1  0.0004165     12346
vgg_150   probabilities  confident     10.00 (8.29-12.02)      1.00 (0.54-1.83)         150       2321     12.35
"""


def test_the_table_has_one_row_a_plan() -> None:
    rows = [
        accuracy(),
        accuracy(views="center", average="logits", stop="exact", top1=0, top5=1000, mean_views=1, gmacs=0.00041652,
                 images_per_second=12345.6),
        accuracy(views="vgg_150", mean_views=149.96, gmacs=2320.5396, stop="confident"),
    ]  # fmt: skip
    assert table(rows).splitlines() == TABLE.splitlines()[1:]


def test_an_empty_table_is_its_head() -> None:
    assert table([]).split() == table([accuracy()]).splitlines()[0].split()


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    results = [accuracy(), accuracy(views="center")]
    path = keep(tmp_path / "cats", DIGEST, results)
    assert path == tmp_path / "cats" / "evaluations" / f"{DIGEST}.json"
    assert read_json(path, Accuracies) == Accuracies(digest=DIGEST, results=tuple(results))


def test_a_result_takes_the_place_of_the_older_one_of_the_same_question(tmp_path: Path) -> None:
    others = [
        accuracy(views="center"),
        accuracy(average="logits"),
        accuracy(stop="exact"),
        accuracy(data_sha256="c" * 64),
    ]
    keep(tmp_path, DIGEST, [others[0], accuracy(top1=1), *others[1:]])
    path = keep(tmp_path, DIGEST, [accuracy(top1=2, data="renamed"), accuracy(views="flips")])
    kept = read_json(path, Accuracies)
    assert kept is not None
    assert [r.top1 for r in kept.results] == [900, 2, 900, 900, 900, 900]
    assert list(kept.results) == [others[0], accuracy(top1=2, data="renamed"), *others[1:], accuracy(views="flips")]


def test_bundles_do_not_share_their_results(tmp_path: Path) -> None:
    first, second = keep(tmp_path, DIGEST, [accuracy()]), keep(tmp_path, "d" * 64, [accuracy(top1=1)])
    kept = read_json(first, Accuracies)
    assert kept is not None
    assert kept.results == (accuracy(),)
    assert second.name == "d" * 64 + ".json"


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"digest": "x"}', b"\xff\xfe", b'{"results": []}'])
def test_a_damaged_file_is_refused_by_name_and_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = keep(tmp_path, DIGEST, [accuracy()])
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"^{DIGEST}\.json: "):
        keep(tmp_path, DIGEST, [accuracy()])
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "changes",
    [{"images": 0}, {"top1": -1}, {"gmacs": float("nan")}, {"data_sha256": "B" * 64}, {"average": "max"}, {"speed": 1}],
)
def test_what_cannot_be_a_result_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        accuracy(**changes)
