"""The picture of a frontier as SVG, with a tooltip over each point."""

from collections.abc import Sequence
from itertools import product

from matplotlib.figure import Figure

from export.goals import Configuration
from export.scene import PANELS
from pages import svg


def to_svg(figure: Figure, configurations: Sequence[Configuration]) -> str:
    """The picture as SVG; over each point a tooltip with its figures."""
    points = product(PANELS, enumerate(configurations))
    return svg.to_svg(figure, {f"{panel.key}-{index}": f"{c.title}: {c.figures}" for panel, (index, c) in points})
