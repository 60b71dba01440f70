"""Templates to pages: one self-contained file each, that asks nothing of any network and runs no script."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from opsin.runs.metric_registry import is_percentage, metric_title
from opsin.visualization.formatting import number, percent, seconds, shortened, split_name


def render(template: str, **values: Any) -> str:
    """A page of `templates/`, which extends `base.html` and escapes all values but `Markup`.

    Templates can use the filters `metric`, `metric_title`, `number`, `percent`, `seconds`, `shortened` and `split`.

    Args:
        template: Its file name.
        **values: What it names; a name that is missing is an error.
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
    environment.globals["style"] = Markup(style)  # our own file
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
