"""Charts as inline SVG: no script, hover titles, and colors from CSS, for light and dark mode.

Every chart is 360 units wide, about the width of a phone, and scales with its column. The CSS classes are defined in
`templates/style.css`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from opsin.visualization.axis import Scale, scale
from opsin.visualization.formatting import Text, number, percent, shortened

WIDTH = 360
COLORS = 8
"""Number of series colors in the style sheet; further series repeat them dashed."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 34


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: Name in the legend and the hover titles.
        x: The x values.
        y: The y values; None and values without a position leave a gap.
        color: Index of the color; None for the index of the series.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: int | None = None


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    Attributes:
        name: Label of the bar.
        value: Length of the bar; NaN for no bar.
        low: Lower end of the interval; None for no interval.
        high: Upper end of the interval; None for no interval.
        note: Additional text of the hover title.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    log: bool = False,
    mark: float | None = None,
    text: Text = number,
) -> Markup:
    """Return a line chart over epochs.

    Args:
        series: At least one.
        title: Title above the chart.
        log: Use a logarithmic y axis; values of 0 and below leave gaps.
        mark: The best epoch, marked by a dashed vertical line.
        text: Format of the values.

    Returns:
        A `<figure>`, with a legend if there are several series.
    """
    height = 220
    x = scale([value for one in series for value in one.x], _LEFT, WIDTH - _RIGHT, integer=True)
    y = scale([value for one in series for value in one.y], height - _BOTTOM, _TOP, log=log)
    parts = [_axes(x, y, "epoch", height, number, text)]
    if not any(y.holds(value) for one in series for value in one.y):
        parts.append(f'<text class="tick x" x="{WIDTH / 2}" y="{height / 2}">no values</text>')
    if mark is not None and x.low <= mark <= x.high:
        place, near_end = x(mark), x(mark) > WIDTH * 0.75
        anchor = f'x="{place + (-4 if near_end else 4)}" text-anchor="{"end" if near_end else "start"}"'
        parts.append(f'<line class="mark" x1="{place}" x2="{place}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        parts.append(f'<text class="mark-label" {anchor} y="{_TOP - 4}">best</text>')
    parts += [_line(one, _color(i, one), x, y, text) for i, one in enumerate(series)]
    return figure(title, "".join(parts), height, series)


def reliability_bars(
    confidence: Sequence[float], accuracy: Sequence[float], counts: Sequence[int], *, title: str
) -> Markup:
    """Return a reliability diagram: accuracy over confidence, with the diagonal of perfect calibration.

    Args:
        confidence: Mean confidence of each bin `(B,)`; NaN for empty bins. The bins are equal, from 0 to 1.
        accuracy: Accuracy of each bin `(B,)`; NaN for empty bins.
        counts: Number of images in each bin.
        title: Title above the chart.
    """
    height = 260
    x, y = scale([0, 1], _LEFT, WIDTH - _RIGHT), scale([0, 1], height - _BOTTOM, _TOP)
    parts = [_axes(x, y, "confidence", height, percent, percent)]
    bins, floor = len(counts), y(0)
    for i, (sure, right, count) in enumerate(zip(confidence, accuracy, counts, strict=True)):
        if count:
            left, width = x(i / bins) + 1, round(x((i + 1) / bins) - x(i / bins) - 2, 2)
            words = f"{count:,} images of confidence {percent(sure)}: {percent(right)} right"
            bar = f'<rect class="bar" x="{left}" y="{y(right)}" width="{width}" height="{round(floor - y(right), 2)}"/>'
            gap = f'<line class="gap" x1="{left}" x2="{left + width}" y1="{y(sure)}" y2="{y(sure)}"/>'
            parts.append(f"<g><title>{escape(words)}</title>{bar}{gap}</g>")
    parts.append(f'<line class="mark" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    return figure(title, "".join(parts), height)


def horizontal_bars(bars: Sequence[Bar], *, title: str, low: float) -> Markup:
    """Return horizontal bars with intervals; dots instead of bars if the axis does not include zero.

    Args:
        bars: The bars from top to bottom.
        title: Title above the chart.
        low: Start of the axis, which ends at 1.
    """
    row, name_width = 20, min(112, 10 + 7 * max((len(bar.name) for bar in bars), default=0))
    height = _TOP + row * len(bars) + _BOTTOM - 12
    x = scale((low, 1.0), name_width, WIDTH - 62, most=4)
    bottom = _TOP + row * len(bars)
    parts = [_upright(x, tick, _TOP, bottom, percent) for tick in x.ticks]
    for i, bar in enumerate(bars):
        middle = _TOP + row * i + row / 2
        shows = x.holds(bar.value)
        value = min(max(bar.value, x.low), x.high) if shows else x.low
        if x.low <= 0 <= x.high:
            left, width = min(x(0), x(value)), round(abs(x(value) - x(0)), 2)
            shown = f'<rect class="bar" x="{left}" y="{middle - 6}" width="{width}" height="12"/>'
        else:  # without zero on the axis, the length of a bar has no meaning
            shown = f'<circle class="point" cx="{x(value)}" cy="{middle}" r="4"/>' if shows else ""
        words = f"{bar.name}: {percent(bar.value)}" + (f", {bar.note}" if bar.note else "")
        if bar.low is not None and bar.high is not None and x.holds(bar.low) and x.holds(bar.high):
            words += f" (95 % interval {percent(bar.low)} to {percent(bar.high)})"
            reach = x(max(bar.low, x.low)), x(min(bar.high, x.high))
            shown += f'<line class="whisker" x1="{reach[0]}" x2="{reach[1]}" y1="{middle}" y2="{middle}"/>'
        shown += f'<text class="name" x="{name_width - 6}" y="{middle + 4}">{escape(shortened(bar.name, 17))}</text>'
        shown += f'<text class="value" x="{WIDTH - 56}" y="{middle + 4}">{escape(percent(bar.value))}</text>'
        parts.append(f"<g><title>{escape(words)}</title>{shown}</g>")
    return figure(title, "".join(parts), height)


def small_multiples(charts: Sequence[Markup]) -> Markup:
    """Arrange charts side by side; below each other on a phone."""
    return Markup('<div class="multiples">{}</div>').format(Markup("").join(charts))


def _color(place: int, series: Series) -> str:
    index = place if series.color is None else series.color
    return f"s{index % COLORS}" + (" dashed" if index // COLORS % 2 else "")


def _axes(x: Scale, y: Scale, x_label: str, height: int, x_text: Text, y_text: Text) -> str:
    bottom = height - _BOTTOM
    parts = [_upright(x, tick, bottom, bottom, x_text) for tick in x.ticks]
    for tick in y.ticks:
        place = y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text class="tick y" x="{_LEFT - 5}" y="{place + 4}">{escape(y_text(tick))}</text>')
    parts.append(f'<text class="tick x" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{height - 4}">{escape(x_label)}</text>')
    return "".join(parts)


def _upright(x: Scale, tick: float, top: float, bottom: float, text: Text) -> str:
    line = f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom + 4}"/>'
    return f'{line}<text class="tick x" x="{x(tick)}" y="{bottom + 15}">{escape(text(tick))}</text>'


def _line(series: Series, color: str, x: Scale, y: Scale, text: Text) -> str:
    path, dots, pen_up = [], [], True
    quiet = " quiet" if len(series.x) > 40 else ""
    for at, value in zip(series.x, series.y, strict=True):
        if value is None or not (x.holds(at) and y.holds(value)):
            pen_up = True
            continue
        path.append(f"{'M' if pen_up else 'L'}{x(at)} {y(value)}")
        pen_up = False
        words = escape(f"{series.name}, epoch {number(at)}: {text(value)}")
        dots.append(f'<circle class="dot{quiet}" cx="{x(at)}" cy="{y(value)}" r="3"><title>{words}</title></circle>')
    return f'<g class="series {color}"><path d="{"".join(path)}"/>{"".join(dots)}</g>' if path else ""


def figure(title: str, content: str, height: int, series: Sequence[Series] = (), *, name: str = "chart") -> Markup:
    """Return SVG elements as a `<figure>` with a title above and, for several series, a legend below.

    Args:
        title: Title above the drawing, and its label for screen readers.
        content: The SVG elements.
        height: Height in units; the width is 360.
        series: The series of the legend.
        name: CSS class of the figure.
    """
    legend = ""
    if len(series) > 1:
        items = (f'<li class="{_color(i, one)}">{escape(one.name)}</li>' for i, one in enumerate(series))
        legend = f'<ul class="legend">{"".join(items)}</ul>'
    drawing = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{content}</svg>'
    return Markup(f'<figure class="{name}"><figcaption>{escape(title)}</figcaption>{drawing}{legend}</figure>')
