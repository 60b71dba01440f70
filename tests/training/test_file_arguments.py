"""Callbacks and loggers of libraries write into the run directory and nowhere else."""

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from opsin.config import RunConfig, compose
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory
from opsin.training.file_arguments import ADDRESSES, FOLDERS, PARTS
from opsin.training.lightning_patches import AtomicCheckpointIO
from opsin.training.permitted_targets import CALLBACKS, LOGGERS
from opsin.training.plan import SCHEMA, RunPlan, make_plan

LIGHTNING = "lightning.pytorch"
NO_FILES = {
    *(
        "run_name",
        "experiment_name",
        "checkpoint_name",
        "parameter_names",
        "batch_arg_name",
        "attr_name",
        "log_rank_zero",
    ),
    *(
        "add_file_policy",
        "auto_insert_metric_name",
        "train_time_interval",
        "enable_version_counter",
        "on_save_checkpoint",
        "on_load_checkpoint",
    ),
    *("save_dir",),  # computed by Opsin
}
"""Parameters that sound like files and are none."""


@pytest.fixture
def composed(in_tmp: Path) -> RunConfig:
    return compose(["hydra.run.dir=run"])


def plan_with(composed: RunConfig, section: str, values: dict[str, Any]) -> RunPlan:
    kept = {"checkpoints": composed.tree["callbacks"]["checkpoints"]} if section == "callbacks" else {}
    return make_plan(replace(composed, tree={**composed.tree, section: {**kept, "mine": values}}))


@pytest.mark.slow
@pytest.mark.parametrize("value", ["/etc", "..", "a/../../b", "~/../../../x", "../run2"])
@pytest.mark.parametrize(
    ("section", "target", "key"),
    [
        ("callbacks", "callbacks.ModelCheckpoint", "dirpath"),
        ("callbacks", "callbacks.ModelCheckpoint", "filename"),
        ("callbacks", "callbacks.OnExceptionCheckpoint", "dirpath"),
        ("callbacks", "callbacks.SpikeDetection", "exclude_batches_path"),
        ("logger", "loggers.CSVLogger", "name"),
        ("logger", "loggers.CSVLogger", "version"),
        ("logger", "loggers.TensorBoardLogger", "sub_dir"),
        ("logger", "loggers.WandbLogger", "dir"),
    ],
)
def test_a_path_outside_the_run_directory_is_refused(
    section: str, target: str, key: str, value: str, composed: RunConfig
) -> None:
    with pytest.raises(UserError, match=rf"{section}\.mine\.{key}=\S+ lies outside the run directory"):
        plan_with(composed, section, {"_target_": f"{LIGHTNING}.{target}", key: value})


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(ADDRESSES))
@pytest.mark.parametrize("value", ["/home/victim", "file:///home/victim", "mlruns"])
def test_a_local_folder_as_server_address_is_refused(key: str, value: str, composed: RunConfig) -> None:
    with pytest.raises(UserError, match=rf"logger\.mine\.{key}=\S+ names a local folder"):
        plan_with(composed, "logger", {"_target_": f"{LIGHTNING}.loggers.MLFlowLogger", key: value})


def test_the_address_of_a_server_may_be_a_reference(composed: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"_target_": f"{LIGHTNING}.loggers.MLFlowLogger", "tracking_uri": "${oc.env:MLFLOW_SECRET}"}
    monkeypatch.setenv("MLFLOW_SECRET", "https://me:hunter22@mlflow.example.com")
    target = plan_with(composed, "logger", values).loggers["mine"]
    assert target.arguments["tracking_uri"] == "${oc.env:MLFLOW_SECRET}"
    monkeypatch.setenv("MLFLOW_SECRET", "/home/victim")
    with pytest.raises(UserError, match=r"tracking_uri=\$\{oc\.env:MLFLOW_SECRET\} names a local folder"):
        plan_with(composed, "logger", values)


def test_a_relative_folder_is_inside_the_run_directory(composed: RunConfig, in_tmp: Path) -> None:
    values = {"_target_": f"{LIGHTNING}.callbacks.ModelCheckpoint", "dirpath": "more", "filename": "{epoch}-{val/loss}"}
    built: Any = plan_with(composed, "callbacks", values).callbacks["mine"].build()
    assert Path(built.dirpath) == in_tmp / "run" / "more"


def test_each_parameter_of_lightning_that_names_a_file_is_known() -> None:
    """A new version of Lightning may add one."""
    found = set()
    for section, constructors in (("callbacks", CALLBACKS), ("logger", LOGGERS)):
        for name, kind in constructors.by_name.items():
            for key, parameter in inspect.signature(kind).parameters.items():
                text = f"{key} {parameter.annotation}"
                if name.startswith(LIGHTNING) and re.search(
                    r"(?i)path|dir|file|folder|name|version|location|uri", text
                ):
                    found.add(key) if key not in SCHEMA[section].computed else None
    assert found - NO_FILES - FOLDERS - PARTS - ADDRESSES == set()
    assert found >= FOLDERS | PARTS | ADDRESSES


@pytest.mark.parametrize("kind", ["file", "folder", "link", "above"])
def test_a_checkpoint_that_names_a_foreign_file_as_its_predecessor_deletes_nothing(kind: str, in_tmp: Path) -> None:
    """Lightning's ModelCheckpoint deletes the paths that its state in a checkpoint names."""
    run = RunDirectory(in_tmp / "run")
    victim = in_tmp / "victim"
    (run.path / "inside").mkdir(parents=True)
    if kind == "folder":
        victim.mkdir()
    else:
        victim.touch()
    (run.path / "link").symlink_to(in_tmp)
    paths = {"link": run.path / "link" / "victim", "above": run.path / "inside" / ".." / ".." / "victim"}
    checkpoints = AtomicCheckpointIO(run.path)
    with pytest.raises(UserError, match="is not deleted"):
        checkpoints.remove_checkpoint(paths.get(kind, victim))
    assert victim.exists()
    own = run.path / "inside" / "old.ckpt"
    checkpoints.save_checkpoint({"x": torch.ones(1)}, own)
    checkpoints.remove_checkpoint(own)
    assert not own.exists()
