"""Download, verify and decode a dataset ahead of time: python scripts/prepare_data.py mnist [key=value ...]."""

import argparse
import sys

from opsin.errors import UserError


def main() -> int:
    """Print what the dataset holds, or one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="an option of configs/datamodule, such as mnist or image_folder")
    parser.add_argument(
        "words",
        nargs="*",
        help="as for train.py: data_dir=PATH datamodule.path=PATH datamodule.image_size=128 model=...",
    )
    arguments = parser.parse_args()
    try:
        from opsin import build
        from opsin.config import compose

        data = build.data(build.plan(compose([f"datamodule={arguments.name}", *arguments.words])))
        data.setup()
        facts = data.facts()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
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
        print(f"  {facts['bad_images']} images cannot be read: {', '.join(facts['bad_image_reports'])}")
    return 0


def _short(values: list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
