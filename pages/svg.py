"""Pictures as SVG: by themselves, and as part of a page."""

import io
import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.figure import Figure

from pages.look import STYLE, THEME

SVG = "http://www.w3.org/2000/svg"


def to_svg(figure: Figure, titles: Mapping[str, str]) -> str:
    """The picture as SVG, with tooltips: the text over what was drawn with that gid."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 matplotlib wrote it just now
    for metadata in root.findall(f"{{{SVG}}}metadata"):  # who wrote it, with addresses
        root.remove(metadata)
    for group in root.iter(f"{{{SVG}}}g"):
        if said := titles.get(group.get("id", "")):
            title = ET.Element(f"{{{SVG}}}title")
            title.text = said
            group.insert(0, title)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def inline(svg: str) -> str:
    """For a page that has the theme's colours as variables: the picture follows it, and fills the width."""
    picture = svg[svg.index("<svg") :]
    for colour, variable in THEME.items():
        picture = picture.replace(colour, f"var(--{variable})")
    tag = picture[: picture.index(">")]
    return re.sub(r' (?:width|height)="[^"]*"', "", tag) + picture[len(tag) :]
