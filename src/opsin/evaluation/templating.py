"""Render templates as self-contained HTML pages, without scripts and without network access."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from opsin.runs.metric_registry import is_percentage, metric_title
from opsin.visualization.formatting import number, percent, seconds, shortened, split_name


def render(template: str, **values: Any) -> str:
    """Render a template of `templates/`; all values are escaped except `Markup`.

    Templates extend `base.html` and can use the filters `metric`, `metric_title`, `number`, `percent`, `seconds`,
    `shortened` and `split`.

    Args:
        template: File name of the template.
        **values: Variables of the template; an undefined variable is an error.
    """
    page: str = _environment().get_template(template).render(**values)
    return page


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("opsin.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "style.css")[0]
    environment.globals["style"] = Markup(style)  # a file of this package, so it needs no escaping
    environment.filters |= {
        "metric": lambda value, name: (percent if is_percentage(name) else number)(value),
        "metric_title": metric_title,
        "number": number,
        "percent": percent,
        "seconds": seconds,
        "shortened": shortened,
        "split": split_name,
    }
    return environment
