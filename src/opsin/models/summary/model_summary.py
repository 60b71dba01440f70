"""The model summary: one row per stage or per layer, as a table or as text."""

import copy
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from opsin.models.network import Network
from opsin.models.shapes import on_meta
from opsin.models.summary.layers import LayerSummary, layer_cells, layers_of, memory_of
from opsin.models.summary.receptive_field import ReceptiveFields
from opsin.runs.network_table import cells, title
from opsin.runs.result import NetworkSummary, StageSummary

if TYPE_CHECKING:
    from rich.table import Table


def summarize(network: Network, input_shape: tuple[int, int, int]) -> NetworkSummary:
    """Summarize a network for images `(C, H, W)`, without changing it.

    It runs on the meta device, or on the CPU if its operations depend on values. An auxiliary head has a row without
    multiply-adds, because it runs only in training.
    """
    return summarize_layers(network, input_shape)[0]


def summarize_layers(
    network: Network, input_shape: tuple[int, int, int]
) -> tuple[NetworkSummary, tuple[LayerSummary, ...]]:
    """Return the result of `summarize`, and the layers that run in the stages and the head."""
    try:
        return _summary(on_meta(network), torch.empty(1, *input_shape, device="meta"))
    except (RuntimeError, NotImplementedError):
        return _summary(copy.deepcopy(network).cpu().eval(), torch.zeros(1, *input_shape))


def _summary(shadow: Network, x: Tensor) -> tuple[NetworkSummary, tuple[LayerSummary, ...]]:
    input_shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
    fields = ReceptiveFields(x)
    rows, layers = [], []
    for name, part in [*shadow.stages.items(), ("head", shadow.head)]:
        inside = layers_of(name, part, x)
        layers += inside
        with torch.no_grad(), fields:
            x = part(x)
        mult_adds = sum(layer.mult_adds for layer in inside)
        rows.append(_row(name, part, tuple(x.shape[1:]), mult_adds, fields.pixels(x)))
    if shadow.auxiliary is not None:
        rows.append(_row("auxiliary", shadow.auxiliary, rows[-1].output_shape, 0, None))
        layers.append(LayerSummary("auxiliary", "in training only", None, (), rows[-1].parameters, 0))
    return NetworkSummary(shadow.name, input_shape, tuple(rows)), tuple(layers)


def _row(
    name: str, part: nn.Module, output_shape: tuple[int, ...], mult_adds: int, receptive_field: int | None
) -> StageSummary:
    return StageSummary(
        name=name,
        output_shape=output_shape,
        parameters=sum(p.numel() for p in part.parameters()),
        trainable=sum(p.numel() for p in part.parameters() if p.requires_grad),
        mult_adds=mult_adds,
        receptive_field=receptive_field,
    )


def summary_table(summary: NetworkSummary) -> "Table":
    """Return the summary as a table of rich."""
    *rows, totals = cells(summary)
    return _table(title(summary), rows, totals)


def _table(
    caption: str, rows: Sequence[tuple[str, ...]], totals: Sequence[str] | None = None, *, left: int = 1
) -> "Table":
    """Return a table; the first row is its header, and the first columns are left-aligned."""
    from rich.table import Table

    header, *others = rows
    table = Table(title=caption, title_justify="left", show_footer=totals is not None)
    for column, name in enumerate(header):
        footer = totals[column] if totals else ""
        table.add_column(name, footer=footer, justify="left" if column < left else "right")
    for row in others:
        table.add_row(*row)
    return table


def summary_text(summary: NetworkSummary) -> str:
    """Return the summary as plain text."""
    return _text(summary_table(summary))


def layers_text(summary: NetworkSummary, layers: Sequence[LayerSummary]) -> str:
    """Return the layers as plain text: one row per layer, and the memory of the network."""
    table = _table(f"layers of {title(summary)}", layer_cells(layers), left=3)
    return f"{_text(table)}{memory_of(layers, summary.input_shape)}\n"


def _text(table: "Table") -> str:
    from opsin.runs.rich_console import TerminalConsole

    file = io.StringIO()
    TerminalConsole(file=file, width=160, color_system=None, legacy_windows=False).print(table)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
