"""The model summary: one row per stage, as a table or as text."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from opsin.models.network import Network
from opsin.models.shapes import on_meta
from opsin.models.summary.receptive_field import ReceptiveFields

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class StageSummary:
    """One row of the summary.

    Attributes:
        name: Name of the stage, `head` or `auxiliary`.
        output_shape: Output shape for one image: `(C, H, W)`, or `(num_logits,)` for the head.
        parameters: Number of parameters.
        trainable: Number of trainable parameters.
        mult_adds: Multiply-adds for one image; additions of biases are counted as in torchinfo.
        receptive_field: Side of the receptive field of one output unit, in pixels; None for the whole image.
    """

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable: int
    mult_adds: int
    receptive_field: int | None


@dataclass(frozen=True)
class Summary:
    """The rows of a network's stages and head, and their totals."""

    name: str
    input_shape: tuple[int, int, int]
    rows: tuple[StageSummary, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(row.trainable for row in self.rows)

    @property
    def frozen(self) -> int:
        """Number of frozen parameters."""
        return self.parameters - self.trainable

    @property
    def mult_adds(self) -> int:
        """Multiply-adds for one image."""
        return sum(row.mult_adds for row in self.rows)


def summarize(network: Network, input_shape: tuple[int, int, int]) -> Summary:
    """Summarize a network for images `(C, H, W)`, on the meta device and without changing it.

    An auxiliary head has a row without multiply-adds, because it runs only in training.
    """
    shadow = on_meta(network)
    x = torch.empty(1, *input_shape, device="meta")
    fields = ReceptiveFields(x)
    rows = []
    for name, part in [*shadow.stages.items(), ("head", shadow.head)]:
        mult_adds = _mult_adds(part, x)
        with torch.no_grad(), fields:
            x = part(x)
        rows.append(_row(name, part, tuple(x.shape[1:]), mult_adds, fields.pixels(x)))
    if shadow.auxiliary is not None:
        rows.append(_row("auxiliary", shadow.auxiliary, rows[-1].output_shape, 0, None))
    return Summary(network.name, input_shape, tuple(rows))


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


def summary_table(summary: Summary) -> "Table":
    """Return the summary as a table of rich."""
    from rich.table import Table

    table = Table(title=f"{summary.name} for images {_by(summary.input_shape)}", title_justify="left")
    table.add_column("stage", footer="total")
    for header, footer in (
        ("output", ""),
        ("parameters", f"{summary.parameters:,}"),
        ("trainable", f"{summary.trainable:,}"),
        ("multiply-adds", f"{summary.mult_adds:,}"),
        ("receptive field", ""),
    ):
        table.add_column(header, footer=footer, justify="right")
    table.show_footer = True
    for row in summary.rows:
        field = "image" if row.receptive_field is None else f"{row.receptive_field} px"
        counts = (f"{count:,}" for count in (row.parameters, row.trainable, row.mult_adds))
        table.add_row(row.name, _by(row.output_shape), *counts, field)
    return table


def summary_text(summary: Summary) -> str:
    """Return the summary as plain text."""
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=100, color_system=None, legacy_windows=False).print(summary_table(summary))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
