"""Outputs of the page: images, and errors as one sentence in one place per tab, never a traceback."""

import functools
import html
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from opsin.data.types import BadImage
from opsin.errors import UserError

log = logging.getLogger(__name__)


def picture_area(label: str, min_width: int = 160) -> gr.Image:
    """Create the place for an image that the page makes, with a button to enlarge it.

    Args:
        label: The title of the image.
        min_width: The width in pixels below which images in a row are placed below each other.
    """
    return gr.Image(label=label, format="png", buttons=["fullscreen"], elem_classes="picture", min_width=min_width)


def error_area() -> gr.HTML:
    """Create the place on the page for one error; empty until there is one."""
    return gr.HTML("", elem_classes="error-area", js_on_load=None)


def error_html(text: str) -> str:
    """Return an error as HTML."""
    return f'<p class="error" role="alert">{html.escape(text)}</p>'


def shows_errors(*blank: Any) -> Callable[[Callable[..., Any]], Callable[..., tuple[Any, ...]]]:
    """Turn a function into a handler of the page that returns an error, empty on success, and the function's values.

    Args:
        blank: The values to return if the function raises, one for each value of the function (a single value, or a
            tuple). Mostly None, which empties a component, so that no outdated result stays on the page.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        @functools.wraps(function)
        def handler(*inputs: Any, **options: Any) -> tuple[Any, ...]:
            try:
                values = function(*inputs, **options)
            except (UserError, BadImage) as error:
                return (error_html(str(error)), *blank)
            except Exception as error:
                log.exception("explorer: %s", function.__name__)
                text = f"Unexpected error: {type(error).__name__}: {error}. The terminal shows the traceback."
                return (error_html(text), *blank)
            return ("", values) if len(blank) == 1 else ("", *values)

        return handler

    return decorate
