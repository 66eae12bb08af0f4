"""HTML pages that hold everything they show: one file to keep or to send."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, filters: Mapping[str, Any], **values: Any) -> str:
    """A template of export/templates with its filters and values; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("export"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)
