"""The model summary: one row per stage, as a table or as text."""

import copy
import io
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from opsin.models.network import Network
from opsin.models.shapes import on_meta
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
    try:
        return _summary(on_meta(network), torch.empty(1, *input_shape, device="meta"))
    except (RuntimeError, NotImplementedError):
        return _summary(copy.deepcopy(network).cpu().eval(), torch.zeros(1, *input_shape))


def _summary(shadow: Network, x: Tensor) -> NetworkSummary:
    input_shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
    fields = ReceptiveFields(x)
    rows = []
    for name, part in [*shadow.stages.items(), ("head", shadow.head)]:
        mult_adds = _mult_adds(part, x)
        with torch.no_grad(), fields:
            x = part(x)
        rows.append(_row(name, part, tuple(x.shape[1:]), mult_adds, fields.pixels(x)))
    if shadow.auxiliary is not None:
        rows.append(_row("auxiliary", shadow.auxiliary, rows[-1].output_shape, 0, None))
    return NetworkSummary(shadow.name, input_shape, tuple(rows))


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


def _mult_adds(module: nn.Module, x: Tensor) -> int:
    import torchinfo

    return int(torchinfo.summary(module, input_data=x, device=x.device, verbose=0).total_mult_adds)


def summary_table(summary: NetworkSummary) -> "Table":
    """Return the summary as a table of rich."""
    from rich.table import Table

    header, *rows, totals = cells(summary)
    table = Table(title=title(summary), title_justify="left", show_footer=True)
    for column, (name, total) in enumerate(zip(header, totals, strict=True)):
        table.add_column(name, footer=total, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    return table


def summary_text(summary: NetworkSummary) -> str:
    """Return the summary as plain text."""
    from opsin.runs.rich_console import TerminalConsole

    file = io.StringIO()
    TerminalConsole(file=file, width=100, color_system=None, legacy_windows=False).print(summary_table(summary))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
