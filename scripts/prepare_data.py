"""Make a dataset ready ahead of time: python scripts/prepare_data.py mnist [key=value ...] [--shards OUT].

Downloaded, verified and decoded into the store that training reads; or, with --shards, written as shards into a folder
or a bucket, for `train.py datamodule=streaming datamodule.path=OUT`. Shards are divided into train, val and test as
training with these words would (seed=..., datamodule.val_fraction=...), and nothing else is written to the disk.
"""

import argparse
import sys
from typing import Any

from opsin.errors import UserError


def main() -> int:
    """Print what the dataset holds, or one line that says what is wrong."""
    arguments = _arguments()
    try:
        from opsin.config import compose
        from opsin.training import build
        from opsin.training.plan import make_plan

        data = build.data(make_plan(compose([f"datamodule={arguments.name}", *arguments.words])))
        if arguments.shards:
            from opsin.data.shard_writer import Form, told, write_shards
            from opsin.data.shards.s3 import StorageOptions

            data.keeps_decoded = False
            form = Form(arguments.encoding, int(arguments.shard_mb * 1e6), arguments.quality)
            written = write_shards(data, arguments.shards, form, StorageOptions(arguments.endpoint_url))
        data.setup()
        facts = data.facts()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    _print(facts)
    if arguments.shards:
        print("\n".join(f"  {line}" for line in told(written)))
        print(f"python train.py datamodule=streaming datamodule.path={arguments.shards}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="an option of configs/datamodule, such as mnist or image_folder")
    parser.add_argument(
        "words",
        nargs="*",
        help="as for train.py: data_dir=PATH datamodule.path=PATH datamodule.image_size=128 model=...",
    )
    shards = parser.add_argument_group("shards")
    shards.add_argument("--shards", metavar="OUT", help="write shards to this folder, or to s3://bucket/prefix")
    shards.add_argument(
        "--encoding",
        choices=["raw", "jpeg", "original"],
        default="raw",
        help="raw: the very pixels of the store; jpeg: of the same size, fewer bytes, nearly the same pixels; "
        "original: the files as they are, resized whenever they are read (default: raw)",
    )
    shards.add_argument("--quality", type=int, choices=range(1, 101), default=90, metavar="1-100", help="of jpeg")
    shards.add_argument("--shard-mb", type=float, default=64.0, help="of a shard, at most (default: 64)")
    shards.add_argument("--endpoint-url", help="of a bucket that is not Amazon's; AWS_ENDPOINT_URL does as well")
    return parser.parse_intermixed_args()


def _print(facts: dict[str, Any]) -> None:
    height, width = facts["image_size"]
    print(f"{facts['name']}: {len(facts['classes'])} classes, {facts['channels']}x{height}x{width}")
    for split, count in facts["counts"].items():
        print(f"  {split:5} {count:7,}  {facts['origin'][split]}")
    print(
        "  images per class of train: "
        + ", ".join(
            f"{name} {count:,}" for name, count in zip(facts["classes"], facts["class_counts"]["train"], strict=True)
        )
    )
    print(f"  mean {_short(facts['mean'])}  std {_short(facts['std'])}")
    print(f"  fingerprint {facts['fingerprint']}")
    if facts["bad_images"]:
        reports = ", ".join(facts["bad_image_reports"])
        print(f"  {facts['bad_images']} images cannot be read{f': {reports}' if reports else ''}")


def _short(values: list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
