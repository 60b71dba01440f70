"""Print the layers of a network, or the table of classic networks: `opsin summary`."""

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsin.commands.command_line import command, command_parser
from opsin.errors import UserError
from opsin.runs.atomic import write_atomically, write_errors
from opsin.runs.home import user_path
from opsin.runs.quoting import opsin_command

if TYPE_CHECKING:
    from opsin.config import CommandLine
    from opsin.runs.result import NetworkSummary

DIGITS = (1, 28, 28)
"""Shape of the images of a network without pretrained weights, unless `--image` is given: those of MNIST."""

LOGITS = 10
"""Default number of outputs of the head: the classes of MNIST."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the stages and layers of a network without data and training."""
    parser = command_parser(
        "summary",
        usage="%(prog)s [OVERRIDE ...] [--image CxHxW] [--logits N] [--against OVERRIDE ...]\n"
        "       %(prog)s --classic [--out FILE]",
        epilog=f"Overrides are those of {opsin_command('train')}; only the section model counts. No data are read and "
        "no weights are loaded.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--image", type=_shape, metavar="CxHxW", help="shape of an image (default: that of the weights, or 1x28x28)"
    )
    parser.add_argument("--logits", type=int, metavar="N", help=f"outputs of the head (default: {LOGITS})")
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="OVERRIDE", help="compare with the network of these overrides too"
    )
    parser.add_argument(
        "--classic", action="store_true", help="print the table of classic networks instead, as Markdown"
    )
    parser.add_argument("--out", type=user_path, metavar="FILE", help="with --classic: write the page to this file")
    options, rest = parser.parse_known_args(arguments)
    if options.classic:
        return _print_classic(options, rest)
    if options.out:
        raise UserError("--out has an effect with --classic only: add --classic, or leave it out")
    options.logits = LOGITS if options.logits is None else options.logits
    if options.logits < 1:
        raise UserError(f"--logits {options.logits}: a network has at least one output")
    from opsin.config import read_command_line, show

    line = read_command_line(rest, "summary")
    if line.shows:
        show(line)
        return 0
    first = _print_network(line, line.overrides, options)
    if options.against:
        second = _print_network(line, (*line.overrides, *options.against), options)
        print(_comparison(first, second))
    return 0


def _shape(text: str) -> tuple[int, int, int]:
    if not (match := re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,4})x([1-9]\d{0,4})", text)):
        raise argparse.ArgumentTypeError(f"{text} is not a shape such as 3x224x224 (channels x height x width)")
    return (int(match[1]), int(match[2]), int(match[3]))


def _print_network(line: "CommandLine", overrides: Sequence[str], options: argparse.Namespace) -> "NetworkSummary":
    """Print the stages and the layers of the network that the overrides describe."""
    from opsin.config import compose
    from opsin.models import layers_text, summarize_layers, summary_text
    from opsin.training.build import expected_input
    from opsin.training.network_building import new_network
    from opsin.training.plan import make_plan

    if line.multirun:
        raise UserError("summary describes one config: leave out --multirun")
    composed = compose(overrides, source=line.source)
    if composed.resumes:
        raise UserError(
            f"summary describes a new network: set resume=null. {composed.run.path}/model.txt describes that of the run"
        )
    plan = make_plan(composed)
    size = expected_input(plan).image_size
    shape = options.image or ((3, *size) if size else DIGITS)
    network = new_network(plan, options.logits, shape[0], shape[1:])
    network.freeze(plan.fine_tuning.freeze_schedule(network).at(0).trainable)
    summary, layers = summarize_layers(network, shape)
    print(summary_text(summary))
    print(layers_text(summary, layers))
    return summary


def _comparison(first: "NetworkSummary", second: "NetworkSummary") -> str:
    """Return the differences between two networks: those of stages of the same name, and those in all."""
    others = {row.name: row for row in second.rows}
    counts = [(row.name, row.parameters, row.mult_adds) for row in first.rows if row.name in others]
    lines = [
        f"{name}: parameters {_change(parameters, others[name].parameters)}, "
        f"multiply-adds {_change(mult_adds, others[name].mult_adds)}"
        for name, parameters, mult_adds in counts
    ]
    total = _change(first.parameters, second.parameters), _change(first.mult_adds, second.mult_adds)
    return "\n".join([*lines, f"in all: parameters {total[0]}, multiply-adds {total[1]}"])


def _change(before: int, after: int) -> str:
    share = f" ({(after - before) / before:+.1%})" if before else ""
    return f"{before:,} against {after:,}{share}"


def _print_classic(options: argparse.Namespace, rest: list[str]) -> int:
    if rest or options.against or options.image or options.logits is not None:
        raise UserError("--classic prints a fixed table: it takes no other argument than --out")
    from opsin.models.summary.classic_networks import classic_page

    page = classic_page(experiments_by_network())
    if options.out:
        with write_errors(options.out, "--out"):
            write_atomically(options.out, page)
        print(options.out)
    else:
        print(page)
    return 0


def experiments_by_network() -> dict[str, list[str]]:
    """Return the names of the experiments of Opsin that train a network, by the name of its function."""
    from opsin.config.locations import CONFIGS

    found: dict[str, list[str]] = {}
    for file in sorted((CONFIGS / "experiment").glob("*.yaml")):
        if model := re.search(r"override /model: (\w+)", file.read_text(encoding="utf-8")):
            config = (CONFIGS / "model" / f"{model[1]}.yaml").read_text(encoding="utf-8")
            network = config.partition("_target_: opsin.models.")[2].partition("\n")[0]
            found.setdefault(network, []).append(file.stem)
    return found
