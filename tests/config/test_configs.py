"""Every YAML under configs composes, passes the check, and builds its objects."""

import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from opsin.config import CONFIGS, compose
from opsin.config.path_values import WEIGHT_NAMES
from opsin.config.signatures import defaults
from opsin.config.validation import ROOT
from opsin.data.datasets import ArrayImages, Source
from opsin.data.options import DATA_DIR, DataOptions
from opsin.data.shards.storage import StorageOptions
from opsin.errors import UserError
from opsin.models.weights import KINDS
from opsin.runs.directory import OUTPUT_DIR
from opsin.sweeps.checked_sweep import SCHEMA as SWEEP_SCHEMA
from opsin.training import build
from opsin.training.feature_cache import AUTO_EPOCHS, AUTO_VIEWS
from opsin.training.plan import SCHEMA, RunPlan, make_plan
from opsin.training.tuning.batch_size import CUDA_SHARE, MIN_STEPS_PER_EPOCH, TOLERANCE

FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
OF_SWEEPS = [path for path in FILES if path.parts[0] in ("sweep", "launcher")]  # tests/sweeps/test_sweep_files.py
OPTIONS = [path for path in FILES if path.parts[0] not in ("hydra", "train.yaml", "sweep", "launcher")]
SCHEMAS = {**SCHEMA, **SWEEP_SCHEMA}
IN_TRAIN_YAML = ("model", "loss", "distillation", "monitor")  # the options of `model` choose values
STATE_DEFAULTS = [
    path
    for path in FILES
    if path.parts[0] in ("train.yaml", "datamodule", "optimizer", "scheduler", "callbacks", "logger", "launcher")
    or path.as_posix() in ("augmentation/none.yaml", "trainer/auto.yaml", "feature_cache/auto.yaml", "sweep/grid.yaml")
]
CHOSEN_BY_OPTIONS = {"datamodule.base_batch_size", "optimizer.lr", "optimizer.weight_decay"}
MEANT_BY_NULL = {
    "datamodule.storage_options": asdict(StorageOptions()),
    "launcher.options": {},
    "launcher.setup": [],
}
MANDATORY = {
    "image_folder": ["datamodule.path=photos"],
    "hugging_face": ["datamodule.path=me/mine"],
    "streaming": ["datamodule.path=shards"],
    "timm": ["model.name=test_resnet"],
}


def test_every_config_file_is_found() -> None:
    assert len(FILES) == 138
    assert len(OPTIONS) + len(OF_SWEEPS) == len(FILES) - 2  # train.yaml, hydra/job_logging


def defaults_in_code(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the default values of a signature of Opsin, as YAML writes them."""
    if not call.__module__.startswith("opsin."):
        return {}
    found = defaults(call)
    if is_dataclass(call):
        found |= {item.name: item.default_factory() for item in fields(call) if item.default_factory is not MISSING}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def owners(key: str, section: dict[str, Any]) -> list[Callable[..., Any]]:
    """Return the dataclasses and the constructor that own the keys of a section."""
    schema = SCHEMAS[key]
    called = schema.constructors.resolve(section["_target_"]) if "_target_" in section else schema.call
    return [*schema.options.values(), *([called] if called else [])]


def sections(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the sections of a config file, each with the key of its schema."""
    tree, group = yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8")) or {}, file.parts[0]
    inner = {name: value for name, value in tree.items() if isinstance(value, dict)}
    if group == "train.yaml":
        yield ROOT, tree
        yield from ((name, section) for name, section in inner.items() if name in SCHEMAS)
    elif SCHEMAS[group].many:
        yield from ((group, section) for section in inner.values())
    else:
        yield group, tree


@pytest.mark.parametrize("file", STATE_DEFAULTS, ids=str)
def test_the_default_configs_show_the_defaults_of_the_code(file: Path) -> None:
    """A reference to another key, such as `${data_dir}`, states no value of its own."""
    for name, section in sections(file):
        for key, default in {k: v for call in owners(name, section) for k, v in defaults_in_code(call).items()}.items():
            place, shown = f"{name}.{key}".lstrip("."), section.get(key, default)
            if place not in CHOSEN_BY_OPTIONS and not str(shown).startswith("${"):
                assert shown in (default, *([MEANT_BY_NULL.get(place)] if default is None else [])), place


def test_all_groups_with_defaults_are_compared_with_the_code() -> None:
    assert {file.parts[0] for file in STATE_DEFAULTS} == {"train.yaml", *SCHEMAS} - {ROOT, *IN_TRAIN_YAML}
    assert {*IN_TRAIN_YAML} <= {name for name, _ in sections(Path("train.yaml"))}
    assert sum(len(section) for file in STATE_DEFAULTS for _, section in sections(file)) > 150


def test_the_names_in_configs_are_those_of_the_code() -> None:
    tree = compose([]).tree
    assert (tree["data_dir"], tree["output_dir"]) == (str(Path(DATA_DIR).resolve()), OUTPUT_DIR)
    assert DataOptions().batch_size == DataOptions().base_batch_size
    assert set(WEIGHT_NAMES) == {"none", *KINDS}


def test_the_comments_of_configs_state_the_constants_of_the_code() -> None:
    stated = {
        "feature_cache/auto.yaml": [f"auto: {AUTO_VIEWS} if only the head trains, for {AUTO_EPOCHS} epochs or more"],
        "train.yaml": [
            f"the largest that fits into {100 * CUDA_SHARE:.0f} % of free memory",
            f"the smallest within {100 * TOLERANCE:.0f} % of the best throughput",
            f"at least {MIN_STEPS_PER_EPOCH} steps per epoch",
        ],
    }
    for file, sentences in stated.items():
        text = (CONFIGS / file).read_text(encoding="utf-8")
        assert [sentence for sentence in sentences if sentence not in text] == []


def words_for(file: Path) -> list[str]:
    return [f"{file.parts[0]}={file.stem}", *MANDATORY.get(file.stem, [])]


@pytest.mark.slow
@pytest.mark.parametrize("file", OPTIONS, ids=str)
def test_each_config_file_makes_a_valid_plan(file: Path, tmp_path: Path) -> None:
    group = file.parts[0]
    plan = make_plan(compose(words_for(file), tmp_path / "run"))
    if group == "datamodule" and file.stem != "digits":
        return  # their images are not available here: tests/data builds each source from small files
    if group in ("model", "experiment", "debug", "datamodule"):
        network, _ = build.network(plan, tiny_data(plan), num_logits=1, pretrained=False)
        assert network.frozen_stages == () or plan.fine_tuning.trainable != "all"
    elif group == "trainer" and file.stem in ("gpu", "mps", "ddp", "fsdp"):
        assert plan.trainer.accelerator in ("gpu", "mps")
    else:
        from opsin.runs.directory import RunDirectory

        trainer = build.trainer(plan, RunDirectory(tmp_path / "run"))
        without = 0 if plan.loggers else 1  # the learning-rate monitor has nowhere to write
        assert len(trainer.callbacks) >= len(plan.callbacks) - without
        assert plan.augmentation.build(num_classes=3) is not None


def tiny_data(plan: RunPlan):
    import numpy as np

    from opsin.data import DataOptions, ImageDataModule

    pixels = np.random.default_rng(0).integers(0, 255, (40, 150, 150, 1), dtype=np.uint8)
    images = ArrayImages(pixels, np.arange(40) % 2, "tiny")
    source = Source("tiny", ("a", "b"), 1, (150, 150), None, None, {"train": images})
    options = DataOptions(image_size=plan.data.image_size or build.expected_input(plan).image_size)
    return ImageDataModule(source, options, channels=None if plan.model.takes("in_channels") else 3)


@pytest.mark.parametrize("file", [f for f in OPTIONS if f.parts[0] in ("experiment", "debug")], ids=str)
def test_experiments_begin_with_the_command_that_runs_them(file: Path) -> None:
    lines = (CONFIGS / file).read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1] == f"# opsin train {file.parts[0]}={file.stem}"


@pytest.mark.parametrize(
    "file", [f for f in [*OPTIONS, *OF_SWEEPS] if f.parts[0] not in ("experiment", "debug")], ids=str
)
def test_option_files_begin_with_a_description(file: Path) -> None:
    assert re.match(r"# \S.*[.:]?\S*\n", (CONFIGS / file).read_text())


@pytest.mark.parametrize("file", OPTIONS, ids=str)
def test_recipes_do_not_set_batch_size(file: Path) -> None:
    """`batch_size` follows `base_batch_size`; `batch_size=auto` scales the learning rate from `base_batch_size`."""
    assert not re.search(r"^\s*batch_size:", (CONFIGS / file).read_text(), re.MULTILINE)


def stated(comments: str) -> dict[str, int]:
    """Return the batch size and the total of the epochs that comments state, such as `batch 32, 5 epochs`."""
    sizes, epochs = re.findall(r"\bbatch (?:of )?(\d+)", comments), re.findall(r"\b(\d+) epochs", comments)
    found = {"batch_size": int(sizes[0])} if sizes else {}
    return {**found, "max_epochs": sum(map(int, epochs))} if epochs else found


@pytest.mark.slow
def test_the_comments_of_recipes_state_the_composed_values() -> None:
    recipes = {}
    for path in (CONFIGS / "experiment").glob("*.yaml"):
        comments = " ".join(re.findall(r"# ?(.*)", path.read_text(encoding="utf-8")))
        if values := stated(comments):
            recipes[path.stem] = values
    assert len(recipes) > 15
    for name, values in recipes.items():
        tree = compose([f"experiment={name}", "datamodule.path=photos"]).tree
        composed = {"batch_size": tree["datamodule"]["batch_size"], "max_epochs": tree["trainer"]["max_epochs"]}
        assert values == {key: composed[key] for key in values}, name


def test_batch_size_equals_base_batch_size_unless_it_is_overridden() -> None:
    def sizes(*words: str) -> tuple[int, int]:
        tree = compose(["experiment=mnist_sgd_mlp", *words]).tree["datamodule"]
        return tree["base_batch_size"], tree["batch_size"]

    assert sizes() == (512, 512)
    assert sizes("datamodule.batch_size=32") == (512, 32)
    assert sizes("datamodule.batch_size=auto") == (512, "auto")


def test_the_monitored_metric_is_stated_once() -> None:
    """One override of the metric changes it for checkpoints, early stopping and the plateau schedule."""
    tree = compose(["monitor.metric=val/acc", "scheduler=plateau"]).tree
    for part in (tree["callbacks"]["checkpoints"], tree["callbacks"]["early_stopping"], tree["scheduler"]):
        assert part["monitor"] == "val/acc"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "side", "mean"),
    [
        (["model=resnet18_partial"], 224, 0.485),
        (["model=resnet18_partial", "model.weights=opsin"], 64, 0.4914),
        (["model=inception_v3_full"], 299, 0.5),
        (["model=timm", "model.name=test_vit"], 160, 0.5),
        (["model=resnet18_partial", "model.weights=opsin", "datamodule.image_size=96"], 96, 0.4914),
        (["model=resnet18_partial", "model.weights=none"], 28, None),
    ],
)
def test_image_size_and_mean_are_those_of_the_named_weights(words: list[str], side: int, mean: float | None) -> None:
    plan = make_plan(compose(["datamodule=digits", *words], Path("run")))
    data = build.data(plan)
    assert data.image_size == (side, side)
    expected = build.expected_input(plan).mean
    assert (expected[0] if expected else None) == mean


@pytest.mark.parametrize(
    ("words", "chosen"), [("last:2", "last:2"), ("{last: 2}", {"last": 2}), ("[layer4]", ["layer4"])]
)
def test_trainable_accepts_a_count_or_names_on_the_command_line(words: str, chosen: object) -> None:
    plan = make_plan(compose(["model=resnet18_full", f"model.trainable={words}"], Path("run")))
    assert plan.fine_tuning.trainable == chosen


@pytest.mark.parametrize("words", ["last", "layer4", "{last: 0}", "{first: 2}"])
def test_values_of_trainable_without_stages_are_refused(words: str) -> None:
    with pytest.raises(UserError, match=r"model\.trainable"):
        make_plan(compose(["model=resnet18_full", f"model.trainable={words}"], Path("run")))
