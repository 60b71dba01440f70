"""The tab Runs: leaderboard, learning curves, and links to the reports in the run directories."""

import html
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from opsin.commands.explore.models import RunModels
from opsin.commands.explore.outputs import error_area, shows_errors
from opsin.errors import UserError
from opsin.evaluation.comparison.columns import columns
from opsin.evaluation.comparison.comparison import curve
from opsin.evaluation.comparison.leaderboard import Leaderboard, leaderboard
from opsin.evaluation.comparison.row_names import shortened_names
from opsin.evaluation.comparison.run_records import RunRecord, read_record
from opsin.runs.directory import RunDirectory
from opsin.runs.home import real_path
from opsin.runs.metric_registry import RANKING_METRIC, metric_names
from opsin.runs.quoting import opsin_command
from opsin.visualization.charts import Series, line_chart

RECIPE = 1
"""Index of the column of the recipe."""

CURVES = 8
"""Number of rows in the charts: as many as there are colors."""


def report_file(models: RunModels, name: str) -> Path | None:
    """Return the report of a run in the folder; None if there is no such run, or the run has no report.

    Args:
        models: The runs.
        name: Name of the run from the URL; not trusted.
    """
    run = models.runs().get(name)
    return None if run is None else _report_of(run)


def _report_of(run: RunDirectory) -> Path | None:
    inside = real_path(run.report).is_relative_to(real_path(run.path))  # a symbolic link can point anywhere
    return run.report if run.report.is_file() and inside else None


def runs_html(models: RunModels, metric: str) -> tuple[str, str]:
    """Return the leaderboard with links to the reports, and the learning curves, as HTML.

    Raises:
        UserError: There are no runs, or no run has the metric.
    """
    records = {name: read_record(run) for name, run in models.runs().items()}
    if not records:
        raise UserError(f"No runs in {models.outputs} yet. Train one: {opsin_command('train')}")
    board = leaderboard(records.values(), metric)
    names = {record.run.path: name for name, record in records.items()}
    table = _table(board, names) + _without_result(board, names)
    return _report_styled(table), _report_styled(_curves(board))


def _report_styled(content: str) -> str:
    """Return HTML with the style sheet of reports, limited to this content."""
    style = (resources.files("opsin.evaluation") / "templates" / "style.css").read_text(encoding="utf-8")
    scoped = style.replace(":root", ":scope")
    return f'<style>@scope (.report) {{ {scoped} }}</style><div class="report">{content}</div>'


def _table(board: Leaderboard, names: dict[Path, str]) -> str:
    found = columns(board)
    metrics = range(2, found.header.index("runs"))
    shown = [0, *metrics, RECIPE, *range(metrics.stop, len(found.header))]  # the numbers first
    recipes = shortened_names([row.name for row in board.rows])
    head = "".join(f"<th>{html.escape(found.header[i])}</th>" for i in shown) + "<th>report</th>"
    rows = []
    for (row, cells), recipe in zip(found.rows, recipes, strict=True):
        links = " ".join(_link(record.run, names[record.run.path], str(i + 1)) for i, record in enumerate(row.runs))
        full = f'<td class="recipe" title="{html.escape(row.name)}">{html.escape(recipe)}</td>'
        texts = "".join(full if i == RECIPE else f"<td class=right>{html.escape(cells[i])}</td>" for i in shown)
        rows.append(f"<tr>{texts}<td>{links}</td></tr>")
    problems = "".join(f'<p class="note">{html.escape(sentence)}</p>' for sentence in board.ranking_problems())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>{problems}'


def _without_result(board: Leaderboard, names: dict[Path, str]) -> str:
    """Return the list of runs without a result, with their status."""
    items = [_status_item(record, names[record.run.path]) for record in board.without_result]
    return f"<h3>Runs without a result</h3><ul>{''.join(items)}</ul>" if items else ""


def _status_item(record: RunRecord, name: str) -> str:
    reason = f": {record.reason[:300]}" if record.reason else ""
    return f"<li>{html.escape(f'{name}, {record.status}{reason}')} {_link(record.run, name, 'report')}</li>"


def _link(run: RunDirectory, name: str, text: str) -> str:
    if _report_of(run) is None:
        return f'<span class="faint" title="{html.escape(name)}">no report</span>'
    address = f"/report/{quote(name)}"
    return f'<a href="{address}" target="_blank" rel="noopener" title="{html.escape(name)}">{text}</a>'


def _curves(board: Leaderboard) -> str:
    """Return charts of validation loss and accuracy by epoch, averaged over the runs of each row."""
    rows = board.rows[:CURVES]
    recipes = shortened_names([row.name for row in rows])
    names = [f"{row.letter} {recipe}" for row, recipe in zip(rows, recipes, strict=True)]
    charts = []
    for metric, title in (("val/loss", "Validation loss"), ("val/acc", "Validation accuracy")):
        found = [Series(name, *curve(row, metric)) for name, row in zip(names, rows, strict=True)]
        if series := [one for one in found if one.x]:
            charts.append(line_chart(series, title=title))
    return f'<div class="multiples">{"".join(charts)}</div>'


def _html_area() -> gr.HTML:
    return gr.HTML(js_on_load=None, apply_default_css=False)  # Gradio's style would override that of reports


def build(models: RunModels, tab: gr.Tab) -> None:
    """Build the tab; it is updated whenever it is opened."""
    with gr.Row():
        metric = gr.Dropdown(metric_names(("test", "val")), value=RANKING_METRIC, label="Ranked by", scale=2)
        refresh = gr.Button("Refresh", scale=1, min_width=100)
    error = error_area()
    table, curves = _html_area(), _html_area()

    @shows_errors(None, None)
    def read(chosen: str) -> tuple[str, str]:
        return runs_html(models, chosen)

    how: dict[str, Any] = {"fn": read, "inputs": metric, "outputs": [error, table, curves], "api_visibility": "private"}
    tab.select(**how)
    metric.input(**how)
    refresh.click(**how)
