"""Find a learning rate by a range test: python scripts/find_lr.py model=cnn_gap datamodule=mnist."""

import argparse
import csv
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from opsin.errors import UserError

if TYPE_CHECKING:
    from opsin.config import RunConfig
    from opsin.training.tuning import RangeTest


def main() -> int:
    """Print the suggestion and the command to use it, or one message that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="The rate rises exponentially; nothing is kept.")
    parser.add_argument("words", nargs="*", help="as for train.py: model=cnn_gap optimizer=sgd datamodule.path=PATH")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps at most, 20 to 1000 (default 150)")
    parser.add_argument("--lowest", type=float, default=1e-7, help="learning rate of the first step")
    parser.add_argument("--highest", type=float, default=10.0, help="learning rate of the last step")
    arguments = parser.parse_intermixed_args()
    if not (20 <= arguments.steps <= 1000 and 0 < arguments.lowest < arguments.highest):
        parser.error("--steps is 20 to 1000, and --lowest above 0 and below --highest")
    try:
        folder = find(arguments.words, arguments.steps, arguments.lowest, arguments.highest)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"curve            {folder}/lr_curve.png, .csv, .json")
    return 0


def find(words: list[str], steps: int, lowest: float, highest: float) -> Path:
    """Test what the words describe; print the suggestion; the folder with the curve."""
    from opsin.config import compose
    from opsin.runs.atomic import check_writable
    from opsin.runs.directory import new_run_path

    composed = compose(words)
    check_writable(Path(composed.tree["output_dir"]), "output_dir")
    test = measure(composed, steps, lowest, highest)
    options = [composed.origin.choices["datamodule"] or "", composed.origin.choices["model"] or ""]
    folder = new_run_path(composed.tree["output_dir"], "find_lr", *options)
    write(test, f"{options[1]} on {options[0]}, batch {test.batch_size}", folder)
    told = [word for word in words if not word.startswith("optimizer.lr=")]
    print(f"valley           {test.valley:.2e}   in the middle of the longest descent: what to begin with")
    print(
        f"steepest         {test.steepest:.2e}   where the loss falls fastest: about the most that a warm-up can take"
    )
    if not test.diverged:
        print("                 the loss did not explode: --highest may be too low, or --steps too few")
    print(f"batch            {test.batch_size} images; a larger batch takes a larger rate")
    print("use it           " + shlex.join(["python", "train.py", *told, f"optimizer.lr={test.valley:.2g}"]))
    return folder


def measure(composed: "RunConfig", steps: int, lowest: float, highest: float) -> "RangeTest":
    """Build what the config describes, as a run would, and test it."""
    import lightning as L

    from opsin.training import build
    from opsin.training.plan import make_plan
    from opsin.training.quiet_logging import quieten
    from opsin.training.tuning import TrialSteps, range_test

    plan = make_plan(composed)
    quieten(True)
    L.seed_everything(plan.run.seed, verbose=False)
    data = build.data(plan)
    data.setup("fit")
    if plan.fine_tuning.teacher:
        raise UserError("model.teacher: find_lr measures the loss on labels alone; set model.teacher=null")
    trials = TrialSteps(plan, data, build.loss(plan, data), composed.run.path)
    return range_test(plan, data, trials, steps=steps, lowest=lowest, highest=highest)


def write(test: "RangeTest", title: str, folder: Path) -> None:
    """Write the curve as a picture, a table and JSON."""
    from opsin.training.tuning import draw_curve

    folder.mkdir(parents=True)
    draw_curve(test, title, folder / "lr_curve.png")
    with (folder / "lr_curve.csv").open("w", newline="", encoding="utf-8") as file:
        rows = zip(test.rates, test.losses, test.smooth, strict=True)
        csv.writer(file).writerows([("lr", "loss", "smoothed_loss"), *rows])
    told = {"valley": test.valley, "steepest": test.steepest, "batch_size": test.batch_size, "diverged": test.diverged}
    curve = {"lr": test.rates, "loss": test.losses, "smoothed_loss": test.smooth}
    (folder / "lr_curve.json").write_text(json.dumps(told | curve, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
