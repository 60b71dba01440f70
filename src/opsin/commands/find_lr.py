"""Find a learning rate with a range test: `opsin find-lr`."""

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from opsin.commands.command_line import command, command_parser
from opsin.errors import UserError
from opsin.runs.atomic import atomic_open, check_writable, write_atomically
from opsin.runs.garbage_collection import resume_collection
from opsin.runs.quoting import opsin_command

if TYPE_CHECKING:
    from opsin.config import CommandLine, RunConfig
    from opsin.training.tuning import RangeTest


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the suggested learning rate and the command that uses it, and write the curve."""
    parser = command_parser(
        "find-lr",
        usage="%(prog)s [OVERRIDE ...] [--config-dir FOLDER] [--steps N] [--lowest LR] [--highest LR]",
        epilog=f"Overrides and config flags are those of {opsin_command('train')}: model=cnn_gap optimizer=sgd "
        "datamodule.path=PATH. The learning rate rises exponentially. No weights are saved.",
        allow_abbrev=False,
    )
    number = parser.add_argument
    number(
        "--steps", type=int, default=150, metavar="N", help="maximum optimizer steps, 20 to 1000 (default: %(default)s)"
    )
    number(
        "--lowest",
        type=float,
        default=1e-7,
        metavar="LR",
        help="learning rate of the first step (default: %(default)s)",
    )
    number(
        "--highest",
        type=float,
        default=10.0,
        metavar="LR",
        help="learning rate of the last step (default: %(default)s)",
    )
    options, rest = parser.parse_known_args(arguments)
    if not (20 <= options.steps <= 1000 and 0 < options.lowest < options.highest < math.inf):
        raise UserError("--steps must be 20 to 1000, and --lowest above 0 and below --highest, which must be finite")
    from opsin.config import read_command_line, show

    line = read_command_line(rest, "find-lr", ("--steps", "--lowest", "--highest"))
    if line.shows:
        show(line)
        return 0
    folder = find(line, options.steps, options.lowest, options.highest)
    print(f"curve            {folder}/lr_curve.png, .csv, .json")
    return 0


def find(line: "CommandLine", steps: int, lowest: float, highest: float) -> Path:
    """Test the model and data that the overrides describe, print the suggestion, and return the folder of the curve."""
    from opsin.config import compose
    from opsin.config.overrides import key_of
    from opsin.runs.directory import new_run_path

    if line.multirun:
        raise UserError("find-lr tests one config: leave out --multirun")
    composed = compose(line.overrides, source=line.source)
    if composed.resumes:
        raise UserError(f"find-lr tests a new run, and resume names {composed.run.path}: set resume=null")
    check_writable(Path(composed.tree["output_dir"]), "output_dir")
    test = measure(composed, steps, lowest, highest)
    choices = composed.origin.choices
    options = [choices[group] or "" for group in ("datamodule", "model")]
    folder = new_run_path(composed.tree["output_dir"], "find_lr", *options)
    write(test, f"{choices['model']} on {choices['datamodule']}, batch {test.batch_size}", folder)
    others = [override for override in line.overrides if key_of(override) != "optimizer.lr"]
    command = opsin_command("train", *line.source.flags, *others, f"optimizer.lr={test.suggested:.2g}")
    print(f"valley           {test.valley:.2e}   middle of the longest descent: a good first choice")
    print(f"steepest         {test.steepest:.2e}   the loss falls fastest here: an upper limit, with warm-up")
    if not test.diverged:
        print("                 the loss did not diverge: raise --highest or --steps")
    print(f"batch            {test.batch_size} images; a larger batch allows a higher learning rate")
    print(f"use it           {command}")
    return folder


def measure(composed: "RunConfig", steps: int, lowest: float, highest: float) -> "RangeTest":
    """Build data, network and loss as for a run, and run the range test."""
    import lightning as L

    from opsin.training import build
    from opsin.training.plan import check_trainable, make_plan
    from opsin.training.tuning import TrialSteps, range_test

    resume_collection()
    plan = make_plan(composed)
    check_trainable(plan)
    L.seed_everything(plan.run.seed, verbose=False)
    data = build.data(plan)
    data.setup("fit")
    if plan.fine_tuning.teacher:
        raise UserError("model.teacher: find-lr measures the loss on labels alone; set model.teacher=null")
    trials = TrialSteps(plan, data, build.loss(plan, data), composed.run.path)
    return range_test(plan, data, trials, steps=steps, lowest=lowest, highest=highest)


def write(test: "RangeTest", title: str, folder: Path) -> None:
    """Write the curve as PNG, CSV and JSON, each atomically."""
    from opsin.training.tuning import draw_curve

    folder.mkdir(parents=True)
    draw_curve(test, title, folder / "lr_curve.png")
    with atomic_open(folder / "lr_curve.csv", "w", newline="") as file:
        rows = zip(test.rates, test.losses, test.smooth, strict=True)
        csv.writer(file).writerows([("lr", "loss", "smoothed_loss"), *rows])
    facts = {"valley": test.valley, "steepest": test.steepest, "batch_size": test.batch_size, "diverged": test.diverged}
    curve = {"lr": test.rates, "loss": test.losses, "smoothed_loss": test.smooth}
    write_atomically(folder / "lr_curve.json", json.dumps(facts | curve, indent=2) + "\n")
