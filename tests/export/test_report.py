"""The report of a batch: every row, everywhere, and nothing that a name could smuggle into the page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from export.report import Report, Row, State, duration, write_report

NASTY = "<script>alert('x')</script> & \"more\""


def row(name: str, state: State = "done", **changes: object) -> Row:
    facts: dict[str, object] = {
        "parameters": 25_557_032,
        "folded_parameters": 25_530_472,
        "macs": 4_089_184_256,
        "bytes": 102_400_000,
        "max_rel": 1.2e-5,
        "tolerance": 5e-5,
        "batchnorm_nodes": 0,
        "seconds": 30.44,
        "peak_mib": 1113.2,
        "digest": "a" * 64,
    }
    return Row.model_validate({"network": "resnet50", "name": name, "version": 2, "state": state} | facts | changes)


FAILED = Row(network=NASTY, name="birds", version=None, state="failed", reason=NASTY, seconds=7)


@pytest.fixture
def report() -> Report:
    rows = (row("cats"), row("dogs", "skipped"), FAILED, row("odd", batchnorm_nodes=2, max_rel=6e-5))
    return Report(file="jobs.toml", repository=NASTY, workers=2, seconds=751.2, rows=rows, tools={"torch": "2.13.0"})


class Page(HTMLParser):
    """The texts of each body of the table, and every tag and address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.bodies: list[list[str]] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action")]
        if tag == "tbody":
            self._inside = True
            self.bodies.append([dict(attrs)["class"] or ""])

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "tbody"

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self.bodies[-1].append(data.strip())


def test_the_page_has_every_row_with_its_figures(report: Report) -> None:
    bodies = Page(report.html()).bodies
    assert bodies[0] == [
        *("done", "cats", "/2", "resnet50", "done", "25,557,032", "25,530,472", "4.0892", "102.4"),
        *("1.2e-5", "/ 5.0e-5", "0", "30.4", "1,113"),
    ]
    assert bodies[1][:2] == ["skipped", "dogs"]
    assert bodies[2] == ["failed", "birds", NASTY, "failed", "7.0", NASTY]
    assert len(bodies) == 4


def test_the_page_escapes_and_takes_nothing_from_elsewhere(report: Report) -> None:
    page = Page(report.html())
    assert "script" not in page.tags
    assert "alert(" in report.html()  # it is there, as text
    assert all(address.startswith(("data:,", "#row-")) for address in page.addresses)
    assert "url(" not in report.html()
    assert "@import" not in report.html()


def test_the_page_marks_what_is_wrong(report: Report) -> None:
    page = report.html()
    assert 'href="#row-1">birds</a>' in page
    assert 'class="failed" id="row-1"' in page
    assert '<span class="bad">2</span>' in page
    assert "width:24.0%" in page  # of what is allowed
    assert "width:100%" in page
    good = report.model_copy(update={"rows": report.rows[:1]}).html()
    assert 'class="alarm"' not in good
    assert "Failed:" not in good


def test_the_table_is_aligned_and_says_why(report: Report) -> None:
    lines = report.table().splitlines()
    assert lines[1].split() == [
        *("cats/2", "done", "25,557,032", "25,530,472", "4.0892", "102.4", "1.2e-5", "5.0e-5", "0", "30.4", "1,113"),
    ]
    assert len(lines[0]) == len(lines[1]) == len(lines[2])
    assert lines[3].split() == ["birds", "failed", "7.0"]
    assert lines[3].index("7.0") + 3 == lines[0].index("seconds") + len("seconds")
    assert lines[-2:] == [f"birds failed: {NASTY}", "4 models: 2 done, 1 skipped, 1 failed, in 12 min 31 s"]


def test_both_files_hold_the_report(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "deep" / "down")
    held = (tmp_path / "deep" / "down" / "report.json").read_bytes()
    assert Report.model_validate_json(held) == report
    assert json.loads(held)["rows"][2]["parameters"] is None
    assert (tmp_path / "deep" / "down" / "report.html").read_text() == report.html()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (751, "12 min 31 s"), (7800, "2 h 10 min")]
)
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
