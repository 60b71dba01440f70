"""The summary of a network as a table of text, for the terminal and the report."""

from opsin.runs.result import NetworkSummary, StageSummary


def title(summary: NetworkSummary) -> str:
    """Return the title of the table."""
    return f"{summary.name} for images {_by(summary.input_shape)}"


def cells(summary: NetworkSummary) -> list[tuple[str, ...]]:
    """Return the header, one row per stage, and the totals."""
    header = ("stage", "output", "parameters", "trainable", "multiply-adds", "receptive field")
    rows = [
        (
            row.name,
            _by(row.output_shape),
            *_counts(row),
            f"{row.receptive_field} px" if row.receptive_field else "image",
        )
        for row in summary.rows
    ]
    return [header, *rows, ("total", "", *_counts(summary), "")]


def _counts(row: StageSummary | NetworkSummary) -> tuple[str, ...]:
    return tuple(f"{count:,}" for count in (row.parameters, row.trainable, row.mult_adds))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
