"""The picture of a frontier: what is named, what stands where."""

import io
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from bundle.accuracy import Accuracy
from export.goals import Configuration, Goals
from export.plot import draw, to_png
from export.scene import PANELS, line, short_names
from export.svg import to_svg
from pages.svg import inline


def some(count: int) -> list[Configuration]:
    """On a line that falls with the cost, every third point above it; three versions of two models."""
    found = []
    for index in range(count):
        wrong = 100 - 2 * index + (30 if index % 3 == 2 else 0)
        accuracy = Accuracy(
            data="d", data_sha256="b" * 64, images=1000, views=f"plan_{index}", average="probabilities", top5=1000,
            top1=1000 - wrong, mean_views=index + 1, gmacs=0.04 * 1.4**index, images_per_second=700 / 1.4**index,
        )  # fmt: skip
        model, version = (("net", 1), ("net", 2), ("other", 1))[index % 3]
        found.append(Configuration(model=model, version=version, digest="a" * 64, accuracy=accuracy, latency_ms=1))
    return found


def test_the_points_of_the_pareto_line_are_named_and_labels_do_not_collide() -> None:
    configurations = some(15)
    figure = draw(configurations, Goals(error=9, gmacs=1, throughput=50), configurations[4])
    names = short_names(configurations)
    for axes, panel in zip(figure.axes, PANELS, strict=True):
        members = line(configurations, panel)
        assert members == [index for index in range(15) if index % 3 != 2]
        others = [index for index in range(15) if index not in members]
        assert [text.get_text() for text in axes.texts] == [names[index] for index in members + others]
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_of_many_points_those_of_the_line_alone_are_named_and_hopeless_ones_are_at_the_edge() -> None:
    configurations = some(30)
    hopeless = configurations[2].accuracy.model_copy(update={"top1": 100})
    configurations[2] = configurations[2].model_copy(update={"accuracy": hopeless})
    axes, _ = draw(configurations, Goals(), None).axes
    assert len(axes.texts) == len(line(configurations, PANELS[0])) == 20
    assert axes.get_ylim()[1] == pytest.approx(1.6 * configurations[0].accuracy.interval().high)
    few = draw(configurations[:3], Goals(), None).axes[0]
    assert [text.get_text() for text in few.texts][-1] == "other/1 plan_2 90 %"


def test_names_say_what_differs() -> None:
    one, two, other = some(3)
    assert short_names([one]) == ["plan_0"]
    assert short_names([one, two]) == ["1 plan_0", "2 plan_1"]
    assert short_names([one, two, other]) == ["net/1 plan_0", "net/2 plan_1", "other/1 plan_2"]
    logits = one.model_copy(update={"accuracy": one.accuracy.model_copy(update={"average": "logits", "stop": "exact"})})
    assert short_names([one, logits]) == ["plan_0", "plan_0 logits exact"]
    assert short_names([logits]) == ["plan_0"]
    assert logits.title == "net/1 with plan_0, mean of logits, stop=exact"


def test_a_network_without_multiply_adds_has_a_picture_too() -> None:
    free = [c.model_copy(update={"accuracy": c.accuracy.model_copy(update={"gmacs": 0.0})}) for c in some(1)]
    figure = draw(free, Goals(), None)
    assert Image.open(io.BytesIO(to_png(figure))).width > 1500
    picture = inline(to_svg(figure, free))
    assert "var(--ink)" in picture
    assert "#ffffff" not in picture
    assert ET.fromstring(picture).get("width") is None  # noqa: S314 our own


def test_a_crowd_of_points_has_no_names_over_each_other_and_the_line_keeps_its_own() -> None:
    """Plans of one cost and an error far above the line: at the upper edge there is room for some of the names."""
    better, *others = some(24)
    hopeless = better.accuracy.model_copy(update={"top1": 300, "views": "a_plan_of_a_long_name_that_is_of_no_use"})
    crowd = [c.model_copy(update={"accuracy": hopeless}) for c in others]
    axes = draw([better, *crowd], Goals(), None).axes[0]
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert axes.texts[0].get_text() == "net/1 plan_0"
    assert 2 < len(axes.texts) < 24


def test_a_single_point_has_its_whole_interval_and_several_ticks_beside_it() -> None:
    one = some(1)
    low, high = one[0].accuracy.interval()
    for axes in draw(one, Goals(), None).axes:
        bottom, top = axes.get_ylim()
        assert bottom < low < high < top
        left, right = axes.get_xlim()
        assert len([tick for tick in axes.get_xticks() if left < tick < right]) >= 3
