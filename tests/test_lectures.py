"""docs/lectures.md: a row for each element of the lectures, with a command and a test that exist."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml
from document_blocks import ROOT, commands
from document_commands import check_flags, check_overrides

from opsin.commands.command_table import COMMANDS
from opsin.config.locations import CONFIGS

PAGE = ROOT / "docs" / "lectures.md"
LIST = ROOT.parent / "shared" / "lectures.md"
ELEMENTS = 93

RECIPES = {
    "experiment/mnist_sgd_mlp": {
        "optimizer": "sgd",
        "optimizer.lr": 0.06,
        "optimizer.momentum": 0,
        "datamodule.base_batch_size": 512,
        "trainer.max_epochs": 10,
    },
    "experiment/mnist_strided_cnn": {
        "model": "strided_cnn",
        "optimizer": "sgd",
        "optimizer.lr": 0.06,
        "optimizer.momentum": 0,
        "datamodule.base_batch_size": 512,
        "trainer.max_epochs": 10,
    },
    "experiment/cifar10_cnn_batchnorm": {
        "model": "cnn_batchnorm",
        "augmentation": "cifar10_exercise",
        "datamodule.base_batch_size": 32,
        "trainer.max_epochs": 10,
    },
    # L2 1e-4 of Keras adds 1e-4 w^2 to the loss: its gradient is 2e-4 w, the weight decay of torch.
    "experiment/cifar10_cnn_deep": {"model": "cnn_deep", "optimizer": "adam", "optimizer.weight_decay": 0.0002},
    "experiment/cats_vs_dogs_cnn": {
        "model": "cats_dogs_cnn",
        "optimizer": "adam",
        "optimizer.lr": 0.001,
        "datamodule.base_batch_size": 20,
        "datamodule.mean": 0,
        "datamodule.std": 1,
        "trainer.max_epochs": 20,
        "seed": 42,
    },
    "experiment/cats_vs_dogs_cnn_augmented": {
        "augmentation": "cats_dogs",
        "datamodule.mean": 0.5,
        "datamodule.std": 0.5,
        "model.dropout": 0.5,
        "optimizer.weight_decay": 0.0001,
        "trainer.max_epochs": 30,
    },
    "experiment/cats_vs_dogs_strided_468": {
        "model": "strided_cats_dogs",
        "augmentation": "strided_cats_dogs",
        "datamodule.channels": 1,
        "datamodule.image_size": 128,
        "datamodule.base_batch_size": 512,
        "optimizer": "sgd",
        "optimizer.lr": 0.06,
        "trainer.max_epochs": 20,
    },
    "experiment/cats_vs_dogs_resnet18_468": {
        "datamodule.channels": 1,
        "loss.function": "cross_entropy",
        "optimizer": "sgd",
        "optimizer.lr": 0.06,
        "scheduler": "step",
        "scheduler.every_epochs": 5,
        "scheduler.factor": 0.1,
        "trainer.max_epochs": 25,
    },
    "experiment/cats_vs_dogs_resnet50_two_phase": {"optimizer.lr": 0.001, "trainer.max_epochs": 15},
    "experiment/cats_vs_dogs_efficientnet_b0_pipeline": {
        "augmentation": "efficientnet_pipeline",
        "datamodule.base_batch_size": 32,
        "datamodule.val_fraction": 0.2,
        "monitor.metric": "val/acc",
        "scheduler": "plateau",
        "scheduler.monitor": "val/loss",
        "scheduler.factor": 0.2,
        "callbacks.early_stopping.monitor": "val/loss",
        "callbacks.early_stopping.patience": 5,
        "trainer.max_epochs": 20,
    },
    "model/resnet50_two_phase": {"head": "dense", "head_units": 256, "trainable": "head"},
    "augmentation/cifar10_exercise": {
        "horizontal_flip": 0.5,
        "rotation": 10,
        "translation": 0.1,
        "brightness": 0.2,
        "contrast": 0.2,
    },
    "augmentation/cats_dogs": {
        "horizontal_flip": 0.5,
        "rotation": 40,
        "shear": 20,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
    },
    "augmentation/efficientnet_pipeline": {
        "horizontal_flip": 0.5,
        "rotation": 20,
        "translation": 0.2,
        "scale": [0.85, 1.15],
        "fill": "border",
    },
    "augmentation/strided_cats_dogs": {
        "horizontal_flip": 0.5,
        "rotation": 10,
        "brightness": 0.1,
        "contrast": 0.1,
    },
}
"""Config files with recipes of the lectures, and the values that the lectures state."""


@dataclass(frozen=True)
class Row:
    """A row of the page: number, element, commands as words, and the names of its tests."""

    number: int
    element: str
    commands: tuple[tuple[str, ...], ...]
    tests: tuple[str, ...]


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0].isdigit():
            spans = [commands(span)[0] for span in re.findall(r"`([^`]*)`", cells[2])]
            tests = tuple(re.findall(r"`([^`]*)`", cells[3]))
            found.append(Row(int(cells[0]), cells[1], tuple(map(tuple, spans)), tests))
    return found


def trainings() -> list[tuple[str, ...]]:
    """Return the overrides of all commands with overrides, each once."""
    lines = {
        words for row in rows() for words in row.commands if words[:2] in (("opsin", "train"), ("opsin", "summary"))
    }
    found = set()
    for line in lines:
        overrides = [word for word in line if "=" in word and not word.startswith("--")]
        found.add(("-m", *overrides) if "-m" in line else tuple(overrides))
    return sorted(found)


def test_each_element_has_a_row_with_a_command_and_a_test() -> None:
    assert [row.number for row in rows()] == list(range(1, ELEMENTS + 1))
    assert len({row.element for row in rows()}) == ELEMENTS
    assert [row.number for row in rows() if not (row.commands and row.tests)] == []
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"\b(?:missing|partly|TODO)\b", text) == []


@pytest.mark.skipif(not LIST.exists(), reason="the list of elements is not on this machine")
def test_the_elements_are_those_of_the_list() -> None:
    text = LIST.read_text(encoding="utf-8").replace("factorised", "factorized").replace(" grey,", " gray,")
    listed = re.findall(r"^\| (\d+) \| (.*?) \| ", text, re.MULTILINE)
    assert [(str(row.number), row.element) for row in rows()] == listed


def test_each_test_exists() -> None:
    @cache
    def names(file: str) -> set[str]:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

    named = {test for row in rows() for test in row.tests}
    assert [test for test in sorted(named) if test.partition("::")[2] not in names(test.partition("::")[0])] == []


def test_the_command_of_each_row_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    for program, name, *rest in (words for row in rows() for words in row.commands):
        if program == "opsin":
            assert name in COMMANDS
            for word in rest:
                group, _, options = word.partition("=")
                if group in groups:
                    assert [o for o in options.split(",") if not (CONFIGS / group / f"{o}.yaml").exists()] == [], word
        elif program == "make":
            assert name in targets
        else:
            assert (program, (ROOT / rest[0]).exists()) == ("jupyter", True)


def test_commands_have_their_flags() -> None:
    flags: dict[str, set[str]] = {}
    for program, name, *rest in (words for row in rows() for words in row.commands):
        if (program, name) != ("opsin", "train") and program == "opsin":
            flags.setdefault(name, set()).update(word for word in rest if word.startswith("--"))
    for name, used in flags.items():
        check_flags([name, *sorted(used)])


@pytest.mark.parametrize("file", RECIPES)
def test_recipes_have_the_values_of_the_lectures(file: str) -> None:
    settings = yaml.safe_load((CONFIGS / f"{file}.yaml").read_text(encoding="utf-8"))
    found = flat(settings)
    for choice in settings.get("defaults", []):
        found |= {group.removeprefix("override /"): option for group, option in choice.items()}
    assert {key: found.get(key) for key in RECIPES[file]} == RECIPES[file]


def flat(settings: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Return the values of nested settings by their dotted keys."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("overrides", trainings(), ids=" ".join)
def test_overrides_of_the_commands_compose(overrides: tuple[str, ...], in_tmp: Path) -> None:
    (in_tmp / "PHOTOS").mkdir()
    check_overrides(list(overrides))
