"""The summary of a network: one row per stage, for `result.json`, the terminal and the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageSummary:
    """One row of the summary.

    Attributes:
        name: Name of the stage, or "head".
        output_shape: Shape of the output for one image: `(C, H, W)`, or `(num_logits,)` for the head.
        parameters: Number of parameters.
        trainable: Number of parameters that are trained.
        mult_adds: Multiply-adds for one image, including the addition of biases, as torchinfo counts them.
        receptive_field: Width in pixels of the input region that one output unit sees; None: the whole image.
    """

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable: int
    mult_adds: int
    receptive_field: int | None


@dataclass(frozen=True)
class Summary:
    """The rows of a network's stages and head, and their totals.

    Attributes:
        name: Name of the network.
        input_shape: Shape of one image, `(C, H, W)`.
        rows: One per stage, in order; the head is the last or the one before an auxiliary head.
    """

    name: str
    input_shape: tuple[int, int, int]
    rows: tuple[StageSummary, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """Number of parameters that are trained."""
        return sum(row.trainable for row in self.rows)

    @property
    def frozen(self) -> int:
        """Number of parameters that are not trained."""
        return self.parameters - self.trainable

    @property
    def mult_adds(self) -> int:
        """Multiply-adds for one image."""
        return sum(row.mult_adds for row in self.rows)

    @property
    def title(self) -> str:
        """Title of the table."""
        return f"{self.name} for images {_by(self.input_shape)}"

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table as text: the header, one row per stage, and the totals."""
        header = ("stage", "output", "parameters", "trainable", "multiply-adds", "receptive field")
        rows = [
            (
                row.name,
                _by(row.output_shape),
                *_counts(row),
                f"{row.receptive_field} px" if row.receptive_field else "image",
            )
            for row in self.rows
        ]
        return [header, *rows, ("total", "", *_counts(self), "")]


def _counts(row: StageSummary | Summary) -> tuple[str, ...]:
    return tuple(f"{count:,}" for count in (row.parameters, row.trainable, row.mult_adds))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
