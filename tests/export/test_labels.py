"""Labels near their points, off each other and inside the picture."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.labels import Rectangle, place

FRAME = Rectangle(0, 0, 500, 300)
SIZE = (80.0, 14.0)


def around(point: tuple[float, float]) -> Rectangle:
    x, y = point
    return Rectangle(x - 7, y - 7, x + 7, y + 7)


def test_the_shared_area_of_rectangles() -> None:
    assert Rectangle(0, 0, 10, 10).overlap(Rectangle(6, 8, 20, 20)) == 8
    assert Rectangle(0, 0, 10, 10).overlap(Rectangle(10, 0, 20, 10)) == 0


@settings(max_examples=50)
@given(st.floats(0, 500), st.floats(0, 300))
def test_a_label_is_in_the_frame_and_hides_neither_its_point_nor_another(x: float, y: float) -> None:
    points = [(x, y), (250.0, 150.0)]
    for label in place([points[0]], [SIZE], [around(point) for point in points], FRAME):
        assert label.overlap(FRAME) == pytest.approx(label.area)
        assert all(label.overlap(around(point)) < 1 for point in points)
        assert label.right - label.left == pytest.approx(SIZE[0])
        assert max(label.left - x, x - label.right, label.bottom - y, y - label.top) < 40  # near


def test_labels_of_a_crowd_do_not_touch() -> None:
    points = [(100.0 + 20 * index, 150.0 + 5 * (index % 3)) for index in range(10)]
    labels = place(points, [SIZE] * len(points), [around(point) for point in points], FRAME)
    assert not any(one.overlap(other) > 0 for one in labels for other in labels if one is not other)
    assert not any(label.overlap(around(point)) > 0 for label in labels for point in points)
