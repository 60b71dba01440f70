"""The curve of a learning-rate range test as an image."""

from pathlib import Path

from opsin.training.tuning.lr_finder import RangeTest


def draw_curve(test: RangeTest, title: str, path: Path) -> None:
    """Draw loss over learning rate on a logarithmic axis, with the suggested and the steepest rate marked.

    Args:
        test: The measured rates and losses.
        title: Title above the chart.
        path: The PNG file to write; overwritten.
    """
    from matplotlib.figure import Figure  # without pyplot, which keeps global state

    figure = Figure(figsize=(9.6, 5.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.semilogx(test.rates, test.losses, color="#c6d4ec", label="loss")
    axes.semilogx(test.rates, test.smooth, color="#1f5fbf", linewidth=2, label="smoothed loss")
    marks = (("valley (suggested)", test.valley, "#1b7f3b"), ("steepest", test.steepest, "#c4501b"))
    for name, rate, color in marks:
        axes.axvline(rate, color=color, linestyle=":")
        loss = test.smooth[test.rates.index(rate)]
        axes.semilogx(
            [rate], [loss], "o", color=color, markeredgecolor="white", markersize=9, label=f"{name}: {rate:.2e}"
        )
    # The loss explodes at the end. The axis shows twice the fall, so that the part before stays readable.
    start, lowest = test.smooth[0], min(test.smooth)
    fall = max(start - lowest, 0.05 * abs(start), 1e-6)
    axes.set(xlabel="learning rate", ylabel="training loss", title=title)
    axes.set_xlim(test.rates[0], test.rates[-1])
    axes.set_ylim(lowest - 0.25 * fall, start + 1.2 * fall)
    axes.grid(alpha=0.4)
    axes.legend(loc="upper left")
    figure.savefig(path)
