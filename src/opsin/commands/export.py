"""Write the backbone of a run to a file for `model.weights`: `opsin export`."""

from pathlib import Path

from opsin.commands.command_line import command, command_parser
from opsin.errors import UserError
from opsin.runs.atomic import check_writable, write_errors
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import printed_override


@command
def main(arguments: list[str] | None = None) -> int:
    """Write the file, and print its size and the override that uses it."""
    parser = command_parser("export")
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to write, *.safetensors")
    parser.add_argument("--float32", action="store_true", help="full precision, twice the size")
    options = parser.parse_intermixed_args(arguments)
    run = RunDirectory.of(options.run)
    if options.file.suffix != ".safetensors":
        raise UserError(f"{options.file}: the name of the file must end in .safetensors")
    check_writable(options.file.parent, "FILE")
    from opsin.inference.trained_model import load_trained_model
    from opsin.models.export_weights import save_backbone

    result = run.read_result()
    facts = {"commit": str(result.commit), "seed": str(result.seed)}
    network = load_trained_model(str(run.path)).network
    with write_errors(options.file, "FILE"):
        count = save_backbone(network, options.file, facts, half=not options.float32)
    size = options.file.stat().st_size / 1e6
    print(f"{count} tensors, {size:.1f} MB: {printed_override('model.weights', options.file)}")
    return 0
