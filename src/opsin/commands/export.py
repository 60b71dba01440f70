"""Write a trained model to a file for other programs: `opsin export`."""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opsin.commands.command_line import add_checkpoint_option, command, command_parser
from opsin.errors import UserError
from opsin.runs.atomic import check_writable, write_atomically, write_errors
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path
from opsin.runs.quoting import printed_override

if TYPE_CHECKING:
    from opsin.inference.model_export import GraphFormat
    from opsin.inference.trained_model import TrainedModel
    from opsin.models.export_weights import WeightsFormat

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors", "state_dict": ".pt"}
"""File name suffix of each format."""

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages of the extra `export` that a format needs."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Write the file, and print its size and how it compares with PyTorch or is loaded."""
    parser = command_parser(
        "export",
        "onnx and torch_export contain preprocessing, temperature and softmax, and are checked on validation images "
        "of the run before they are written. safetensors and state_dict hold the weights under the key names of "
        "torchvision or timm.",
    )
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="of the config of the run, such as datamodule.path=PATH"
    )
    parser.add_argument("--format", required=True, choices=tuple(SUFFIXES), help="format of the file")
    parser.add_argument("--out", type=user_path, metavar="FILE", help="the file to write (default: RUN/export/model.*)")
    parser.add_argument("--backbone", action="store_true", help="weights without the layers that compute the logits")
    parser.add_argument("--half", action="store_true", help="weights in half precision, half the size")
    add_checkpoint_option(parser)
    options = parser.parse_intermixed_args(arguments)
    require_packages(options.format)
    run = RunDirectory.of(options.run)
    out = _checked_out(options, run)
    if options.format in ("safetensors", "state_dict"):
        chosen = {"backbone": options.backbone, "half": options.half, "checkpoint": options.checkpoint}
        text = export_weights(run, options.format, out, **chosen)
    else:
        text = export_model(run, options.format, out, options.overrides, options.checkpoint)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {text}")
    return 0


def require_packages(kind: str) -> None:
    """Check that the packages of a format are installed, without an import of torch.

    Raises:
        UserError: One is missing.
    """
    for package in PACKAGES.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--format {kind} needs the package {package}: run `pip install 'opsin[export]'`")


def _checked_out(options: argparse.Namespace, run: RunDirectory) -> Path:
    suffix = SUFFIXES[options.format]
    if options.format in ("onnx", "torch_export"):
        for name in ("backbone", "half"):
            if getattr(options, name):
                raise UserError(
                    f"--{name} is for --format safetensors and state_dict: {options.format} is a whole model"
                )
    elif options.overrides:
        raise UserError(
            f"{options.overrides[0]}: --format {options.format} takes no overrides, because it reads no images"
        )
    out: Path = options.out or run.path / "export" / f"model{suffix}"
    if out.suffix != suffix:
        raise UserError(f"--out {out}: the name of a file of --format {options.format} must end in {suffix}")
    check_writable(out.parent, "--out")
    run.check_links(out.parent)
    return out


def export_weights(
    run: RunDirectory,
    kind: "WeightsFormat",
    out: Path,
    *,
    backbone: bool = False,
    half: bool = False,
    checkpoint: str = "best",
) -> str:
    """Write the weights of a run under the key names of its network's library, and return a line about them.

    Args:
        run: The run.
        kind: The format.
        out: The file.
        backbone: Leave out the layers of the logits.
        half: Store float32 tensors in half precision.
        checkpoint: `best`, `last`, or the path of a checkpoint.

    Raises:
        UserError: The checkpoint is missing or damaged, or the file cannot be written.
    """
    from opsin.inference.model_export import facts
    from opsin.inference.trained_model import load_trained_model
    from opsin.models.export_weights import library_state, save_weights

    trained = load_trained_model(str(run.path), checkpoint=checkpoint)
    state = library_state(trained.network, backbone=backbone, half=half)
    with write_errors(out, "--out"):
        save_weights(state, out, kind, facts(trained, run.read_result()))
    return f"{len(state)} tensors; in Opsin: {' '.join(_overrides_for(out, kind, trained))}"


def _overrides_for(out: Path, kind: "WeightsFormat", trained: "TrainedModel") -> list[str]:
    """Return the overrides with which Opsin trains from a file of weights; a state dict does not state its images."""
    images = {
        "image_size": trained.size,
        "mean": trained.mean,
        "std": trained.std,
        "interpolation": trained.interpolation,
    }
    stated = kind == "safetensors"
    return [
        printed_override("model.weights", out),
        *(printed_override(f"datamodule.{key}", value) for key, value in images.items() if not stated),
    ]


def export_model(run: RunDirectory, kind: "GraphFormat", out: Path, overrides: Sequence[str], checkpoint: str) -> str:
    """Write the whole model of a run after it was compared with PyTorch, and return a line about the comparison.

    Args:
        run: The run.
        kind: The format.
        out: The file; it is not touched if the comparison fails.
        overrides: Overrides of the config of the run.
        checkpoint: `best`, `last`, or the path of a checkpoint.

    Raises:
        UserError: The checkpoint is missing or damaged, the network cannot be exported, its predictions differ from
            those of PyTorch, the images are missing, or the file cannot be written.
    """
    from opsin.inference.model_export import compare, export_graph, graph_facts, inference_of
    from opsin.inference.opened_run import open_run
    from opsin.inference.predictor import open_predictor

    on_cpu = [*overrides, "trainer.accelerator=cpu", "trainer.precision=32"]
    predictor = open_predictor(run.path, on_cpu, checkpoint=checkpoint)
    images = open_run(run, on_cpu).data.subset("val")
    trained = predictor.trained
    content = export_graph(trained, kind, graph_facts(trained, run.read_result()))
    found = compare(inference_of(content, kind), predictor, images)
    if not found.sufficient:
        raise UserError(f"{out} is not written, because the exported model differs from PyTorch: {found}")
    with write_errors(out, "--out"):
        write_atomically(out, content)
    return str(found)
