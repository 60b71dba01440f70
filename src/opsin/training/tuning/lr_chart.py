"""The chart of a learning-rate range test, as a PNG file."""

from pathlib import Path

from opsin.runs.atomic import atomic_open
from opsin.training.tuning.lr_finder import RangeTest

SIZE, DPI = (9.6, 5.6), 100
RAW, SMOOTH, VALLEY, STEEPEST = "#c6d4ec", "#1f5fbf", "#1b7f3b", "#c4501b"


def draw_curve(test: RangeTest, title: str, path: Path) -> None:
    """Draw the loss over the learning rate, on a logarithmic axis, with both suggestions marked.

    Args:
        test: The measured losses.
        title: The trained model and dataset, in one line.
        path: The PNG file to write, atomically.
    """
    from matplotlib.figure import Figure  # takes half a second to import; pyplot is not needed

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="learning rate", ylabel="training loss", xscale="log")
    axes.plot(test.rates, test.losses, color=RAW, label="per step")
    axes.plot(test.rates, test.smooth, color=SMOOTH, linewidth=2, label="smoothed")
    for name, rate, color in (("valley (suggested)", test.suggested, VALLEY), ("steepest", test.steepest, STEEPEST)):
        loss = test.smooth[test.rates.index(rate)]
        axes.axvline(rate, color=color, linestyle="--", linewidth=1)
        axes.plot(rate, loss, "o", color=color, markersize=9, label=f"{name}: {rate:.2e}")
    # The axis ends a little above the first loss, because the high losses at the end would make the rest look flat.
    first, lowest = test.smooth[0], min(test.smooth)
    fall = max(first - lowest, 0.05 * abs(first), 1e-6)
    axes.set_ylim(lowest - 0.25 * fall, first + 1.2 * fall)
    axes.grid(color="#e3e5e8")
    axes.legend(loc="upper left")
    with atomic_open(path) as file:
        figure.savefig(file, format="png")
