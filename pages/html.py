"""HTML pages that hold everything they show: one file to keep or to send."""

from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, filters: Mapping[str, Any], **values: Any) -> str:
    """A template of that package's folder `templates` with its filters and values; all text is escaped.

    What templates extend and include may also lie in pages/templates: the house's frame and its style.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)
