"""The table of all commands: module, summary and example of each."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandEntry:
    """A command, such as `opsin predict`.

    Attributes:
        module: Its module in `opsin.commands`, with the function `main(arguments) -> int`.
        summary: What it does, in one line.
        example: Arguments of an example.
    """

    module: str
    summary: str
    example: str


COMMANDS: Mapping[str, CommandEntry] = {
    "train": CommandEntry(
        "train_cli", "Train and test an image classifier, or run a sweep.", "datamodule=mnist model=cnn_gap"
    ),
    "evaluate": CommandEntry("evaluate", "Evaluate the best checkpoint of a finished run again.", "outputs/latest"),
    "predict": CommandEntry("predict", "Classify images.", "outputs/latest photo.jpg FOLDER 'photos/**/*.png' --top 3"),
    "interpret": CommandEntry(
        "interpret", "Visualize what a network has learned.", "outputs/latest --what gradcam --images photo.jpg"
    ),
    "compare": CommandEntry("compare", "Rank runs and test the differences.", "outputs"),
    "verify": CommandEntry(
        "verify", "Verify a finished run: its files, its predictions and, if possible, its training.", "outputs/latest"
    ),
    "report": CommandEntry("report", "Write the report of a run again, with its images.", "outputs/latest"),
    "embed": CommandEntry("embed", "Write the embeddings of images.", "outputs/latest FOLDER"),
    "convolve": CommandEntry(
        "convolve", "Draw convolutions by hand; no network is needed.", "--image coins --kernel vertical blur"
    ),
    "export": CommandEntry(
        "export", "Write a trained model to a file for other programs.", "outputs/latest --format onnx"
    ),
    "find-lr": CommandEntry(
        "find_lr", "Find a learning rate with a range test.", "model=cnn_gap datamodule=mnist --steps 100"
    ),
    "summary": CommandEntry(
        "summary",
        "Print the layers of a network: parameters, multiply-adds, memory; or the table of classic networks.",
        "model=resnet18_partial",
    ),
    "prepare-data": CommandEntry(
        "prepare_data", "Download, verify and decode a dataset before training.", "mnist data_dir=PATH"
    ),
    "explore": CommandEntry(
        "explore", "Open a page to try convolutions and the trained models of runs.", "--port 7860"
    ),
    "dashboard": CommandEntry("dashboard", "Open TensorBoard on runs.", "outputs --port 6006"),
    "new": CommandEntry(
        "new", "Write a small project of your own, with a network, a dataset and a test.", "my_project"
    ),
    "completion": CommandEntry(
        "completion", 'Complete commands in a shell: eval "$(opsin completion bash)" in ~/.bashrc.', "zsh"
    ),
}
"""All commands, in the order in which `opsin --help` lists them."""
