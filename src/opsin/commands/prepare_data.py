"""Prepare a dataset before training: `opsin prepare-data`."""

import argparse
from typing import Any

from opsin.commands.command_line import command, command_parser
from opsin.errors import UserError
from opsin.runs.home import user_path
from opsin.runs.quoting import opsin_command, override

DETAILS = """\
The dataset is downloaded, verified and decoded into the store that training reads. With --shards, it is written as
shards to a folder or a bucket instead, for `{train} datamodule=streaming datamodule.path=OUT`. The shards are divided
into train, val and test as training with the same overrides would (seed=..., datamodule.val_fraction=...)."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Prepare the dataset and print a summary."""
    options, rest = _parser().parse_known_args(arguments)
    _check_shards(options)
    from opsin.config import compose, read_command_line
    from opsin.config.suggestions import config_options
    from opsin.training import build
    from opsin.training.plan import make_plan

    line = read_command_line(rest, "prepare-data")
    if not line.overrides or "=" in (name := line.overrides[0]) or line.multirun or line.shows:
        raise UserError(f"Name one dataset, then overrides: {opsin_command('prepare-data', 'mnist', 'data_dir=PATH')}")
    if user_path(name).is_dir() and name not in config_options(line.source)["datamodule"]:
        shown = opsin_command("prepare-data", "image_folder", override("datamodule.path", name))
        raise UserError(f"{name} is a folder: {shown} prepares its images")
    composed = compose([override("datamodule", name), *line.overrides[1:]], source=line.source)
    data = build.data(make_plan(composed))
    lines = []
    if options.shards:
        from opsin.data.shard_writer import ShardOptions, summary_lines, write_shards
        from opsin.data.shards.storage import StorageOptions

        data.splits.keeps_decoded = False
        given = {"encoding": options.encoding, "shard_bytes": options.shard_bytes, "quality": options.quality}
        form = ShardOptions(**{name: value for name, value in given.items() if value is not None})
        written = write_shards(data, options.shards, form, StorageOptions(options.endpoint_url))
        lines = [*(f"  {line}" for line in summary_lines(written)), _training(options)]
    data.setup()
    print("\n".join([*_summary(data.facts()), *lines]))
    return 0


def _check_shards(options: argparse.Namespace) -> None:
    """Check that each option of shards has an effect.

    Raises:
        UserError: An option has no effect.
    """
    values = {
        "--encoding": options.encoding,
        "--quality": options.quality,
        "--shard-mb": options.shard_bytes,
        "--endpoint-url": options.endpoint_url,
    }
    given = [flag for flag, value in values.items() if value is not None]
    if given and not options.shards:
        raise UserError(f"{given[0]} has an effect on shards only: add --shards OUT, or leave it out")
    if options.quality is not None and options.encoding != "jpeg":
        raise UserError("--quality is that of JPEG files: add --encoding jpeg, or leave it out")


def _training(options: argparse.Namespace) -> str:
    """Return the command that trains on the shards."""
    overrides = [override("datamodule.path", options.shards)]
    if options.endpoint_url:
        overrides.append(override("datamodule.storage_options.endpoint_url", options.endpoint_url))
    return opsin_command("train", "datamodule=streaming", *overrides)


def _bytes(text: str) -> int:
    """Return a size in MB as bytes."""
    try:
        size = int(float(text) * 1e6)
    except (ValueError, OverflowError):  # no number, nan or inf
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a size in MB, such as 64")
    return size


def _not_empty(text: str) -> str:
    """Return the value of an option; an empty one mostly comes from a variable of the shell that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


def _parser() -> argparse.ArgumentParser:
    train = opsin_command("train")
    parser = command_parser(
        "prepare-data",
        DETAILS.format(train=train),
        usage="%(prog)s NAME [OVERRIDE ...] [--config-dir FOLDER] [--shards OUT ...]",
        epilog="NAME is an option of configs/datamodule, such as mnist or image_folder. Overrides and config flags are "
        f"those of {train}: data_dir=PATH datamodule.path=PATH datamodule.image_size=128 model=...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    shards = parser.add_argument_group("shards")
    shards.add_argument(
        "--shards", type=_not_empty, metavar="OUT", help="write shards to this folder, or to s3://bucket/prefix"
    )
    shards.add_argument(
        "--encoding",
        choices=["raw", "jpeg", "original"],
        help="raw: the exact pixels of the store; jpeg: the same size in pixels, fewer bytes, nearly the same values; "
        "original: the unchanged files, resized at each read (default: raw)",
    )
    shards.add_argument(
        "--quality", type=int, choices=range(1, 101), metavar="1-100", help="JPEG quality (default: 90)"
    )
    shards.add_argument(
        "--shard-mb",
        dest="shard_bytes",
        type=_bytes,
        metavar="MB",
        help="maximum size of a shard, at most 2000 (default: 64)",
    )
    shards.add_argument(
        "--endpoint-url", type=_not_empty, help="the server of a bucket outside Amazon; or set AWS_ENDPOINT_URL"
    )
    return parser


def _summary(facts: dict[str, Any]) -> list[str]:
    height, width = facts["image_size"]
    per_class = zip(facts["classes"], facts["class_counts"]["train"], strict=True)
    lines = [
        f"{facts['name']}: {len(facts['classes'])} classes, {facts['channels']}x{height}x{width}",
        *(f"  {split:5} {count:7,}  {facts['origin'][split]}" for split, count in facts["counts"].items()),
        "  images per class of train: " + ", ".join(f"{name} {count:,}" for name, count in per_class),
        f"  mean {_short(facts['mean'])}  std {_short(facts['std'])}",
        f"  fingerprint {facts['fingerprint']}",
    ]
    if facts["bad_images"]:
        reports = ", ".join(facts["bad_image_reports"])
        plural = "s" * (facts["bad_images"] > 1)
        lines.append(f"  {facts['bad_images']} image{plural} cannot be read{f': {reports}' if reports else ''}")
    return lines


def _short(values: list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
