"""Write a run's backbone as a file for model.weights: python scripts/export.py outputs/latest cats.safetensors."""

import argparse
import sys
from pathlib import Path

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory


def main() -> int:
    """Print what was written, or one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument("file", type=Path, help="the file to write, *.safetensors")
    parser.add_argument("--float32", action="store_true", help="full precision, twice the size")
    arguments = parser.parse_args()
    try:
        run = RunDirectory.of(arguments.run)
        if arguments.file.suffix != ".safetensors":
            raise UserError(f"{arguments.file}: the file of weights must end in .safetensors")
        from opsin.inference.trained_model import load_trained_model
        from opsin.models.export_weights import save_backbone

        result = run.read_result()
        facts = {"commit": str(result.commit), "seed": str(result.seed)}
        count = save_backbone(
            load_trained_model(str(run.path)).network, arguments.file, facts, half=not arguments.float32
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} tensors, {arguments.file.stat().st_size / 1e6:.1f} MB: model.weights={arguments.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
