"""The command `frontier` on a bundle whose answers can be worked out by hand, its files, and its picture."""

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from bundle.accuracy import Accuracies
from bundle.labelled import Labelled, open_labelled
from bundle.manifest import Input
from bundle.plans import PUBLISHED
from bundle.serving import Serving, read_serving
from bundle.stop import Never
from bundle.store import open_bundle, write_bundle
from export import frontier
from export.__main__ import main
from export.combinations import combine, find_targets
from export.errors import ExportError
from export.frontier_page import Frontier
from export.jobs import FrontierJob
from fakes import COLOURS, write_colour_bundle
from samples import files, manifest

TRICKY = "red<b>&green"
"""The name of the data, which must not become part of the page."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_colour_bundle(folder)
    write_colour_bundle(folder, scale=5)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images a class: one of its colour, and a wide one that shows the next colour in the middle."""
    folder = tmp_path_factory.mktemp("data") / TRICKY
    for index, colour in enumerate(COLOURS):
        (folder / colour).mkdir(parents=True)
        _flat(colour, 8).save(folder / colour / "plain.png")
        wide = _flat(colour, 24)
        wide.paste(_flat(COLOURS[(index + 1) % 3], 8), (8, 0))
        wide.save(folder / colour / "wide.png")
    return folder


def _flat(colour: str, width: int) -> Image.Image:
    rgb = [0, 0, 0]
    rgb[COLOURS.index(colour)] = 255
    return Image.new("RGB", (width, 8), tuple(rgb))


@pytest.fixture(scope="module")
def found(models: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Frontier, Path]:
    out = tmp_path_factory.mktemp("out") / "deep" / "down"
    job = FrontierJob(
        bundles=[models / "colours"], data=data, views=("center", "five_crop", "dense"), out=out, error=10
    )
    return frontier.run(job), out


def test_versions_times_plans_have_the_figures_worked_out_by_hand(found: tuple[Frontier, Path]) -> None:
    """The middle of a wide image misleads the central crop; of five crops four see its ends, of which two are alike."""
    measured = [
        (c.version, c.accuracy.views, c.accuracy.top1, c.accuracy.mean_views, c.accuracy.gmacs)
        for c in found[0].configurations
    ]
    assert sorted(measured[:2]) == [(1, "center", 3, 1, 1e-9), (2, "center", 3, 1, 1e-9)]
    assert sorted(measured[2:]) == [(1, "five_crop", 6, 2, 2e-9), (2, "five_crop", 6, 2, 2e-9)]
    assert all(c.latency_ms > 0 for c in found[0].configurations)
    assert (found[0].images, found[0].unread) == (6, 0)


def test_what_a_network_cannot_run_is_left_out_with_the_reason(found: tuple[Frontier, Path]) -> None:
    assert [(one.model, one.views) for one in found[0].left_out] == [("colours/1", "dense"), ("colours/2", "dense")]
    assert "needs a network that takes any size" in found[0].left_out[0].reason


def test_the_serving_file_is_what_was_chosen(found: tuple[Frontier, Path]) -> None:
    answer = found[0].answer
    assert answer
    chosen = answer.configuration
    assert chosen.accuracy.views == "five_crop"
    wanted = Serving(versions=(chosen.version,), views="five_crop", average="probabilities", stop="never")
    assert read_serving(found[1]) == wanted
    assert "# For the model colours:" in (found[1] / "serving.toml").read_text()


def test_the_results_are_kept_beside_the_bundles(found: tuple[Frontier, Path], models: Path) -> None:
    for version in (1, 2):
        digest = open_bundle(models, "colours", version).digest
        kept = Accuracies.model_validate_json((models / "colours" / "evaluations" / f"{digest}.json").read_bytes())
        assert set(kept.results) >= {c.accuracy for c in found[0].configurations if c.version == version}


def test_the_json_file_holds_the_report(found: tuple[Frontier, Path]) -> None:
    assert Frontier.model_validate_json((found[1] / "frontier.json").read_bytes()) == found[0]


def test_the_png_is_a_picture(found: tuple[Frontier, Path]) -> None:
    with Image.open(found[1] / "frontier.png") as picture:
        assert picture.width > 1500
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 50


def test_the_svg_is_well_formed_and_names_every_point_twice(found: tuple[Frontier, Path]) -> None:
    root = ET.fromstring((found[1] / "frontier.svg").read_bytes())  # noqa: S314 our own
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(titles) == sorted(2 * [f"{c.title}: {c.figures}" for c in found[0].configurations])


class Page(HTMLParser):
    """The cells of each row of the table's body, and every tag and address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_page_has_every_row_by_cost_and_needs_nothing_from_elsewhere(found: tuple[Frontier, Path]) -> None:
    text = (found[1] / "frontier.html").read_text()
    page = Page(text)
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows[1:]]
    assert [row[0].split("colours/")[0].strip() for row in rows] == ["center", "center", "five_crop", "five_crop"]
    assert [row[1] for row in rows[1:3]] == ["50.00 18.76-81.24", "0.00 0.00-39.03"]  # Wilson's, for 3 and 0 of 6
    assert [row[4] for row in rows] == ["1e-09", "1e-09", "2e-09", "2e-09"]
    assert all("GMAC" in row[-1] for row in rows)  # equal ones are all on the line
    assert "b" not in page.tags[: page.tags.index("body")]
    assert "red&lt;b&gt;&amp;green" in text
    assert TRICKY not in text
    assert all(address.startswith(("data:,", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    assert f"sha256:{found[0].data_sha256}" in text
    assert "<svg" in text
    assert "views = &#34;five_crop&#34;" in text


def test_goals_that_nothing_meets_are_status_1_and_leave_no_serving_file(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["frontier", str(models / "colours" / "2"), "--data", str(data), "--views", "center,five_crop"]
    assert main([*asked, "--out", str(tmp_path), "--gmacs", "1e-9"]) == 0
    assert read_serving(tmp_path).views == "center"
    assert "Deploy colours/2 with center" in capsys.readouterr().out
    assert main([*asked, "--out", str(tmp_path), "--gmacs", "1.5e-9", "--error", "10"]) == 1
    out = capsys.readouterr().out
    assert "None of 2 configurations has a top-1 error of at most 10 % and a cost of at most 1.5e-09 GMAC." in out
    assert "colours/2 with five_crop comes nearest, with a cost of 2e-09 GMAC." in out
    assert not (tmp_path / "serving.toml").exists()
    assert "comes nearest" in (tmp_path / "frontier.html").read_text()


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (["--views", "centre"], "colours/1 with centre: there is no such plan; choose one of center, flips, "),
        (["--views", "center", "--stop", "never,sometimes"], "stop is never, exact, confident, or"),
        (["--part", "6:"], "part 6: of "),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], line: str
) -> None:
    assert (
        main(["frontier", str(models / "colours"), "--data", str(data), "--out", str(tmp_path / "out"), *option]) == 1
    )
    assert capsys.readouterr().err.startswith(f"multicrop-export: {line}")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_repository(models: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in (models / "colours", models / "pictures", models):
        assert main(["frontier", str(models / "colours"), "--data", str(data), "--out", str(out)]) == 1
        assert "choose another place with --out" in capsys.readouterr().err
        assert not (out / "frontier.json").exists()


def test_a_place_where_nothing_can_be_written_is_named_before_hours_of_measuring(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.frontier.measure", None)
    asked = ["frontier", str(models / "colours"), "--data", str(data), "--out", str(tmp_path / "file")]
    (tmp_path / "file").write_text("mine")
    assert main(asked) == 1
    assert "file cannot be made a folder: File exists; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_the_latency_is_of_images_that_can_be_read(models: Path, tmp_path: Path) -> None:
    """Twenty places of forty images, every one of them damaged: the images between them are whole."""
    whole = labelled(tmp_path / "whole", (8, 8))[0].image
    (tmp_path / "data" / "0").mkdir(parents=True)
    for index in range(40):
        (tmp_path / "data" / "0" / f"{index:02}.png").write_bytes(whole if index % 2 else whole[:40])
    job = FrontierJob(
        bundles=[models / "colours" / "1"], data=tmp_path / "data", out=tmp_path / "out", views=("center",)
    )
    found = frontier.run(job)
    assert (found.unread, found.alone) == (20, 20)
    assert found.configurations[0].latency_ms > 0


def test_a_bundle_that_is_named_twice_is_one_and_two_of_one_name_are_refused(models: Path, tmp_path: Path) -> None:
    named = [models / "colours" / "2", models / "colours", models / "colours" / "1"]
    assert [target.name for target in find_targets(named)] == ["colours/2", "colours/1"]
    write_colour_bundle(tmp_path, scale=3)
    with pytest.raises(ExportError, match="two of the bundles are colours/1; rename one"):
        find_targets([models / "colours", tmp_path / "colours"])


def test_a_damaged_version_is_named(tmp_path: Path) -> None:
    folder = write_colour_bundle(tmp_path)
    (folder / "labels.txt").write_text("other")
    with pytest.raises(ExportError, match=r"^colours/1: labels.txt is not the file .* or name the versions"):
        find_targets([tmp_path / "colours"])


def test_models_of_other_classes_are_not_compared(tmp_path: Path, data: Path) -> None:
    write_colour_bundle(tmp_path)
    facts = {**files(), "labels.txt": b"blue\ngreen\nred\n"}
    write_bundle(tmp_path, "turned", manifest(), facts)
    job = FrontierJob(bundles=[tmp_path / "colours", tmp_path / "turned"], data=data, out=tmp_path.parent / "o")
    with pytest.raises(ExportError, match=r"colours/1 and turned/1 have other classes"):
        frontier.run(job)


@pytest.mark.parametrize("dynamic", [False, True])
def test_without_views_every_plan_is_measured_that_the_network_can_run(tmp_path: Path, dynamic: bool) -> None:
    """`larger_center`, the baseline that one larger view is, wherever the network takes it."""
    wanted = Input(height=32, width=32, channels=1, dynamic=dynamic, resize=32)
    write_bundle(tmp_path, "net", manifest(input=wanted), files())
    (tmp_path / "net" / "plans").mkdir()
    (tmp_path / "net" / "plans" / "mine.toml").write_text('[[parts]]\ncrops = "corners"\n')
    (tmp_path / "net" / "plans" / "vast.toml").write_text("[[parts]]\nscales = [64, 65]\ncrops = 16\n")
    (tmp_path / "net" / "plans" / "broken.toml").write_text("base = 1\n")
    job = FrontierJob(bundles=[tmp_path / "net"], data=tmp_path, out=tmp_path)
    photographs = labelled(tmp_path / "data", (50, 40), (40, 52))
    found, left = combine(job, find_targets(job.bundles), photographs)
    expected = {name for name, plan in PUBLISHED.items() if plan.refusal(wanted) is None} | {"mine"}
    expected.remove("ten_crop_square")  # flips, where the crop is as large as the square
    assert {each.plan.name for each in found} == expected
    assert ("larger_center" in expected) is dynamic
    reasons = {one.views: one.reason for one in left}
    assert set(reasons) == {*PUBLISHED, "mine", "vast", "broken"} - expected
    assert reasons["vast"] == "it has 512 views; name it with --views"
    named = job.model_copy(update={"views": ("vast",)})
    assert [each.plan.name for each in combine(named, find_targets(job.bundles), photographs)[0]] == ["vast"]


def labelled(folder: Path, *sizes: tuple[int, int]) -> Labelled:
    """Images of the first class."""
    (folder / "0").mkdir(parents=True)
    for index, size in enumerate(sizes):
        Image.new("RGB", size).save(folder / "0" / f"{index}.png")
    return open_labelled(folder, COLOURS)


def test_plans_that_are_one_on_these_images_are_measured_once(models: Path, tmp_path: Path) -> None:
    """Crops of 8 from images of 8 x 8 are the whole image, whichever corner they are cut at."""
    views = ("center", "five_crop", "flips", "ten_crop", "ten_crop_square", "vgg_50", "shifts")
    job = FrontierJob(bundles=[models / "colours"], data=tmp_path, out=tmp_path, views=views, stop=("never", "exact"))
    small = labelled(tmp_path / "small", (8, 8), (16, 16))
    found, left = combine(job, find_targets([models / "colours" / "1"]), small)
    assert [(each.plan.name, each.stop) for each in found] == [
        *(("center", "never"), ("flips", "never"), ("flips", "exact"), ("shifts", "never"), ("shifts", "exact")),
    ]
    reasons = {one.views: one.reason for one in left}
    assert sorted(reasons) == ["five_crop", "ten_crop", "ten_crop_square", "vgg_50"]
    assert len(left) == 4
    assert reasons["ten_crop"] == "on these images its views are those of flips"
    one_wide = labelled(tmp_path / "wide", (8, 8), (16, 8))
    found, left = combine(job, find_targets([models / "colours" / "1"]), one_wide)
    assert {each.plan.name for each in found} == set(views) - {"ten_crop_square"}


def test_of_a_plan_that_is_another_one_it_is_said_once_why_it_is_not_measured(models: Path, tmp_path: Path) -> None:
    """Not also that it is not calibrated: nobody needs it to be."""
    job = FrontierJob(
        bundles=[models / "colours" / "1"], data=tmp_path, out=tmp_path, views=("flips", "ten_crop"),
        stop=("never", "confident"),
    )  # fmt: skip
    _, left = combine(job, find_targets(job.bundles), labelled(tmp_path, (8, 8)))
    assert [(one.views, one.reason.split(";")[0]) for one in left] == [
        ("flips", "flips with average=probabilities is not calibrated"),
        ("ten_crop", "on these images its views are those of flips"),
    ]


def test_each_stop_is_a_configuration_but_of_a_single_view(models: Path, tmp_path: Path) -> None:
    job = FrontierJob(
        bundles=[models / "colours" / "1"], data=tmp_path, out=tmp_path, views=("center", "flips"),
        stop=("never", "exact", "confident"),
    )  # fmt: skip
    found, left = combine(job, find_targets(job.bundles), labelled(tmp_path, (12, 8)))
    assert [(each.plan.name, each.stop) for each in found] == [
        ("center", "never"),
        ("flips", "never"),
        ("flips", "exact"),
    ]
    assert [one.views for one in left] == ["flips"]
    assert "is not calibrated" in left[0].reason


def test_a_single_view_is_measured_without_early_exit_whichever_stop_is_named_first(
    models: Path, tmp_path: Path
) -> None:
    """It was left out for want of a calibration, which no plan of one view can have."""
    job = FrontierJob(
        bundles=[models / "colours" / "1"], data=tmp_path, out=tmp_path, views=("center",), stop=("confident", "exact")
    )
    found, left = combine(job, find_targets(job.bundles), labelled(tmp_path, (12, 8)))
    assert [(each.plan.name, each.stop) for each in found] == [("center", "never")]
    assert left == []


def test_the_latency_is_the_median_of_single_images_after_one_to_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    lengths: Iterator[float] = iter([9.0, 0.004, 0.001, 0.007])

    class Slow:
        def answer(self, *_: object) -> None:
            nonlocal clock
            clock += next(lengths)

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    runner: Any = Slow()
    images = [b"one", b"two", b"three"]
    assert frontier.latency_ms(runner, images, PUBLISHED["center"], Never(), "probabilities") == pytest.approx(4)


@pytest.mark.parametrize(("text", "ms"), [("50ms", 50), ("0.05s", 50), ("1.5s", 1500), ("0.5ms", 0.5)])
def test_latencies_have_a_unit(text: str, ms: float) -> None:
    job = FrontierJob(bundles=[Path("m")], data=Path("d"), out=Path("o"), latency=text)
    assert job.latency_ms == pytest.approx(ms)


@pytest.mark.parametrize("text", ["50", "0ms", "0.0s", "-1s", "50 ms", "1e3ms", "ms"])
def test_other_latencies_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time above 0; write 50ms or 0"):
        FrontierJob(bundles=[Path("m")], data=Path("d"), out=Path("o"), latency=text)
