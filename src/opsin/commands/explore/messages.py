"""What goes wrong is said on the page: one place per tab, one sentence, never a traceback."""

import functools
import html
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from opsin.data.decode import BadImage
from opsin.errors import UserError

log = logging.getLogger(__name__)


def message() -> gr.HTML:
    """The place on the page for one message; empty until there is one."""
    return gr.HTML("", elem_classes="message", js_on_load=None)


def said(text: str) -> str:
    """A message, as the page shows it."""
    return f'<p class="problem" role="alert">{html.escape(text)}</p>'


def answers(*blank: Any) -> Callable[[Callable[..., Any]], Callable[..., tuple[Any, ...]]]:
    """Make a handler of the page: it gives a message, empty where all is well, and then the function's values.

    Args:
        blank: What stands for each value of the function (one by itself, or a tuple) where it raises: mostly None,
            which empties a place, so that nothing stays on the page that belongs to something else.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        @functools.wraps(function)
        def handler(*inputs: Any, **options: Any) -> tuple[Any, ...]:
            try:
                values = function(*inputs, **options)
            except (UserError, BadImage) as problem:
                return (said(str(problem)), *blank)
            except Exception as error:
                log.exception("the explorer: %s", function.__name__)
                return (said(f"That did not work: {type(error).__name__}: {error}. The terminal says where."), *blank)
            return ("", values) if len(blank) == 1 else ("", *values)

        return handler

    return decorate
