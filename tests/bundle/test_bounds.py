"""What is too large to run, wherever it is asked for."""

import pytest

from bundle.bounds import over_bounds
from bundle.manifest import Input
from bundle.plan import Part, Plan
from bundle.plans import PUBLISHED
from bundle.views import Size

WANTED = Input(height=224, width=224, channels=3, dynamic=True, resize=256)


def refusal(plan: Plan, image: Size) -> str | None:
    return over_bounds([plan.views(image, WANTED).distinct()])


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() - {"shifts"}))
def test_every_published_plan_runs_on_photographs(name: str) -> None:
    for image in (Size(500, 375), Size(4000, 3000), Size(1080, 1920)):
        assert refusal(PUBLISHED[name], image) is None


def test_a_dense_view_of_a_strip_is_too_large() -> None:
    assert refusal(PUBLISHED["dense_five_scale"], Size(2000, 100)) == (
        "a view of dense_five_scale would be 12800 x 640, at most 1572864 pixels are allowed; cut the image, or ask for"
        " views of the native size"
    )
    assert refusal(PUBLISHED["vgg_150"], Size(2000, 100)) is None


def test_a_scale_of_thousands_of_pixels_is_too_large() -> None:
    plan = Plan(name="huge", source="", parts=(Part(scales=(4096,)),))
    assert refusal(plan, Size(100, 100)) is None
    assert "huge would resize the image to 167772160 pixels, at most 33554432" in str(refusal(plan, Size(1000, 100)))


def test_many_large_views_are_too_many_pixels() -> None:
    plan = Plan(name="many", source="", parts=(Part(scales=(1200,), size=1100, crops=16),))
    assert "256 views of many have 309760000 pixels, at most 134217728" in str(refusal(plan, Size(400, 300)))


def test_the_members_of_an_ensemble_are_added_up() -> None:
    views = Plan(name="big", source="", parts=(Part(scales=(4096,)),)).views(Size(150, 100), WANTED)
    assert over_bounds([views]) is None
    assert "50331648 pixels" in str(over_bounds([views, views]))
