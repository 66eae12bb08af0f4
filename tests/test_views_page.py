"""What docs/views.md says about plans is what they are."""

import re
import tomllib
from pathlib import Path

import pytest

from bundle.manifest import Input
from bundle.plan import Part
from bundle.plans import PUBLISHED, CustomPlan
from bundle.views import Size

PAGE = (Path(__file__).parents[1] / "docs" / "views.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_published_plan_is_listed_with_its_number_of_views() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", section("The published plans"), re.MULTILINE)
    assert [(name, int(views)) for name, views in rows] == [(name, len(plan)) for name, plan in PUBLISHED.items()]


def test_every_key_of_a_plan_file_is_explained() -> None:
    plan, part = section("A plan of your own").split("| key of a part |")
    for fields, text in ((CustomPlan.model_fields, plan), (Part.model_fields, part)):
        assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == fields.keys() - {"parts"}


def test_the_example_is_a_plan() -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    plan = CustomPlan.model_validate(tomllib.loads(example)).plan("example")
    wanted = Input(height=224, width=224, channels=3, dynamic=True, resize=256)
    weights = [view.weight for view in plan.views(Size(500, 375), wanted)]
    assert len(weights) == 24 + 1
    assert weights[-1] / sum(weights) == pytest.approx(1 / 3)  # as its comment says


def test_144_views_of_a_square_image_are_48() -> None:
    wanted = Input(height=224, width=224, channels=3, dynamic=False, resize=256)
    assert len(PUBLISHED["googlenet_144"].views(Size(500, 500), wanted).distinct()) == 48
