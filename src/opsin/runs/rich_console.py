"""The console of rich for all commands: text is shown as it is, and only rich itself writes control sequences."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from opsin.runs.escaping import escape_controls


class TerminalConsole(Console):
    """A console that escapes control characters in the text that it shows, such as the name of a class.

    Text in brackets is no style tag, and `:name:` is no emoji. `TextColumn` of a progress bar needs `markup=False`.

    Args:
        stderr: Write to stderr instead of stdout.
        options: Further options of rich.
    """

    def __init__(self, stderr: bool = False, **options: Any) -> None:
        stream = sys.stderr if stderr else sys.stdout
        file = options.pop("file", None) or getattr(stream, "plain", stream)
        super().__init__(file=file, stderr=stderr, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of an object."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape_controls(segment.text), segment.style)
