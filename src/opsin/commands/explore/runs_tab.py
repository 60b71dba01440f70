"""The tab about runs: the leaderboard, curves, and the reports, opened from their run directories only."""

import html
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from opsin.commands.explore.messages import answers, message
from opsin.commands.explore.models import RunModels
from opsin.errors import UserError
from opsin.evaluation.comparison.columns import columns
from opsin.evaluation.comparison.leaderboard import Leaderboard, leaderboard
from opsin.evaluation.comparison.run_records import RunRecord, read_record
from opsin.visualization.charts import Series, line_chart

CURVES = 8
"""How many runs the charts show: as many as there are colours."""

METRICS = ["test/acc", "val/acc", "test/loss", "val/loss"]


def report_file(networks: RunModels, name: str) -> Path | None:
    """The report of a run in the folder; None: there is no such run, or it has none.

    Args:
        networks: Knows the runs.
        name: As in an address: anything.
    """
    run = networks.runs().get(name)
    if run is None:
        return None
    report = run.path / "report.html"
    inside = report.resolve().is_relative_to(run.path.resolve())  # a link could lead anywhere
    return report if report.is_file() and inside else None


def page_of_runs(networks: RunModels, metric: str) -> tuple[str, str]:
    """The leaderboard with links to the reports, and the curves, as HTML.

    Raises:
        UserError: There are no runs, or none has such a metric.
    """
    records = {name: read_record(run) for name, run in networks.runs().items()}
    if not records:
        raise UserError(f"There are no runs in {networks.outputs} yet: python train.py")
    board = leaderboard(records.values(), metric)
    names = {record.run.path: name for name, record in records.items()}
    return _sheet(_table(networks, board, names) + _rest(networks, board, names)), _sheet(_curves(board))


def _sheet(content: str) -> str:
    """HTML that looks as reports do, whatever is around it."""
    style = (resources.files("opsin.evaluation") / "templates" / "style.css").read_text(encoding="utf-8")
    scoped = style.replace(":root", ":scope")
    return f'<style>@scope (.sheet) {{ {scoped} }}</style><div class="sheet">{content}</div>'


def _table(networks: RunModels, board: Leaderboard, names: dict[Path, str]) -> str:
    found = columns(board)
    kept = [i for i in range(len(found.header)) if i == 0 or any(cells[i] for _, cells in found.rows)]
    head = "".join(f"<th>{html.escape(found.header[i])}</th>" for i in kept) + "<th>report</th>"
    rows = []
    for row, cells in found.rows:
        links = " ".join(_link(networks, names[record.run.path], str(i + 1)) for i, record in enumerate(row.runs))
        written = "".join(f"<td{' class=right' * (i > 1)}>{html.escape(cells[i])}</td>" for i in kept)
        rows.append(f"<tr>{written}<td>{links}</td></tr>")
    refusals = "".join(f'<p class="note">{html.escape(sentence)}</p>' for sentence in board.refusals())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>{refusals}'


def _rest(networks: RunModels, board: Leaderboard, names: dict[Path, str]) -> str:
    """The runs without a result, with their status."""
    lines = [_other(networks, record, names[record.run.path]) for record in board.others]
    return f"<h3>Without a result</h3><ul>{''.join(lines)}</ul>" if lines else ""


def _other(networks: RunModels, record: RunRecord, name: str) -> str:
    reason = f": {record.reason[:300]}" if record.reason else ""
    return f"<li>{html.escape(f'{name}, {record.status}{reason}')} {_link(networks, name, 'report')}</li>"


def _link(networks: RunModels, name: str, text: str) -> str:
    if report_file(networks, name) is None:
        return f'<span class="faint" title="{html.escape(name)}">no report</span>'
    address = f"/report/{quote(name)}"
    return f'<a href="{address}" target="_blank" rel="noopener" title="{html.escape(name)}">{text}</a>'


def _curves(board: Leaderboard) -> str:
    """Validation loss and accuracy over the epochs, of the first run of each row."""
    runs = [(f"{row.letter} {row.name}", row.runs[0].history) for row in board.rows[:CURVES]]
    charts = []
    for metric, title in (("val/loss", "Validation loss"), ("val/acc", "Validation accuracy")):
        series = [
            Series(name, [row.epoch for row in history], [row.get(metric) for row in history])
            for name, history in runs
            if history
        ]
        if series:
            charts.append(line_chart(series, title=title))
    return f'<div class="multiples">{"".join(charts)}</div>'


def _sheet_place() -> gr.HTML:
    return gr.HTML(js_on_load=None, apply_default_css=False)  # Gradio's own look would win over that of reports


def build(networks: RunModels, tab: gr.Tab) -> None:
    """Lay out the tab; it is read again whenever it is opened."""
    with gr.Row():
        metric = gr.Dropdown(METRICS, value=METRICS[0], label="Ranked by", scale=2)
        again = gr.Button("Read again", scale=1, min_width=100)
    said = message()
    table, curves = _sheet_place(), _sheet_place()

    @answers(None, None)
    def read(chosen: str) -> tuple[str, str]:
        return page_of_runs(networks, chosen)

    how: dict[str, Any] = {"fn": read, "inputs": metric, "outputs": [said, table, curves], "api_visibility": "private"}
    tab.select(**how)
    metric.input(**how)
    again.click(**how)
