"""Typos, wrong types and values out of range, planted at each level; the messages are read."""

import re
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from opsin.config import compose
from opsin.config.search_path import ConfigSource
from opsin.config.target_lookup import Target
from opsin.config.validation import ROOT, SectionSchema, check
from opsin.errors import UserError
from opsin.runs.quoting import override
from opsin.training.plan import make_plan


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(compose(words))
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("+optimizer.lrr=0.1", ["optimizer.lrr is not known: did you mean optimizer.lr?", "command line"]),
        ("+sed=1", ["sed is not known: did you mean seed?", "on the command line (+sed=1)"]),
        ("+trainer.max_epoch=3", ["did you mean trainer.max_epochs?"]),
        ("+datamodule.batchsize=3", ["did you mean datamodule.batch_size?"]),
        ("+model.trainabel=head", ["did you mean model.trainable?"]),
        ("+loss.label_smoting=0.1", ["did you mean loss.label_smoothing?"]),
        ("+monitor.metrik=val/acc", ["did you mean monitor.metric?"]),
        ("+callbacks.early_stopping.patiense=3", ["did you mean callbacks.early_stopping.patience?"]),
        ("+optimizer.batch_size=3", ["optimizer.batch_size is not known: did you mean datamodule.batch_size=3?"]),
        ("+optimizer.seed=3", ["did you mean seed?"]),
        ("+callbacks.progresss={}", ["callbacks.progresss._target_ is missing: did you mean callbacks.progress?"]),
        ("+logger.tensorbord.x=1", ["logger.tensorbord._target_ is missing: did you mean logger.tensorboard?"]),
        ("+callbacks.zzz={}", ["callbacks.zzz._target_ is missing: add the dotted name of a constructor"]),
        ("+model.num_logits=3", ["model.num_logits is computed by Opsin and cannot be set"]),
        ("+model.in_channels=3", ["model.in_channels is computed by Opsin"]),
        ("+callbacks.throughput.x=1", ["callbacks.throughput.x is not known  [set on the command line"]),
        ("trainer.max_steps=0", ["trainer.max_steps=0 trains nothing", "on the command line (trainer.max_steps=0)"]),
        ("trainer.devices=[]", ["chooses no device", "on the command line (trainer.devices=[])"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs should be greater than or equal to 1, not 0"]),
        ("trainer.max_epochs=-1", ["trainer.max_epochs should be greater than or equal to 1, not -1"]),
        ("optimizer.lr=fast", ["optimizer.lr should be a valid number, not 'fast'"]),
        ("optimizer.lr=-1", ["optimizer.lr should be greater than 0, not -1"]),
        ("seed=-1", ["seed should be greater than or equal to 0, not -1"]),
        ("seed=true", ["seed should be a valid integer, not True"]),
        ("datamodule.train_fraction=2", ["datamodule.train_fraction should be less than or equal to 1"]),
        ("datamodule.batch_size=0.5", ["batch_size should be a valid integer or 'auto', not 0.5"]),
        ("datamodule.batch_size=0", ["batch_size should be greater than or equal to 1 or 'auto', not 0"]),
        ("datamodule.resize=squish", ["datamodule.resize should be 'squash', 'crop' or 'letterbox'"]),
        ("callbacks.checkpoints=null", ["callbacks must include opsin.training.callbacks.Checkpoints"]),
        ("trainer.precision=b16", ["trainer.precision should be 'auto', '32', 'bf16', '16', 'bf16-true' or '64', not"]),
        ("model._target_=opsin.models.cnn_gpa", ["opsin.models.cnn_gpa is not accepted here", "opsin.models.cnn_gap?"]),
        ("model._target_=os.system", ["os.system is not accepted here", "OPSIN_TARGETS"]),
        ("model._target_=opsin.modles.mlp", ["opsin.modles.mlp is not accepted here: did you mean opsin.models.mlp?"]),
    ],
)
def test_wrong_overrides_are_refused_by_name(word: str, parts: list[str]) -> None:
    message = refusal(word)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("size", ["inf", "nan", "0", "-1", "1e300"])
def test_a_cache_without_a_size_is_refused(size: str) -> None:
    message = refusal("datamodule=streaming", "datamodule.path=shards", f"datamodule.cache_gb={size}")
    assert "datamodule.cache_gb should be " in message


@pytest.mark.parametrize("key", ["data_dir", "datamodule.path", "tags"])
def test_bytes_that_are_not_utf8_are_named(key: str) -> None:
    value = ["k\udce4fer"] if key == "tags" else "k\udce4fer"
    message = refusal("datamodule=image_folder", "datamodule.path=images", override(key, value))
    assert f"{key} holds bytes that are not UTF-8: " in message
    assert r"k\udce4fer" in message


def test_all_problems_are_reported_at_once() -> None:
    message = refusal("+optimizer.lrr=1", "seed=-1", "+trainer.max_epoch=2")
    assert message.count("\n  - ") == 3


def test_a_missing_mandatory_value_is_named() -> None:
    with pytest.raises(UserError, match=r"datamodule\.path must be given: datamodule\.path=VALUE"):
        compose(["datamodule=image_folder"])


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match="model=cnn_gpa is not known: did you mean model=cnn_gap"):
        compose(["model=cnn_gpa"])


@pytest.mark.parametrize("text", ["defaults:\n  - override /model: mpl\n", "trainer: [\n"])
def test_a_broken_experiment_file_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from opsin import config

    shutil.copytree(config.CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text(text)
    monkeypatch.setattr("opsin.config.locations.CONFIGS", tmp_path / "configs")
    with pytest.raises(UserError):
        compose(["experiment=mine"])


def test_a_typo_in_an_experiment_file_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from opsin import config

    configs = tmp_path / "configs"
    shutil.copytree(config.CONFIGS, configs)
    (configs / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ntrainer:\n  max_epocs: 3\noptimizer:\n  lr: -1\n"
    )
    (configs / "model" / "mine.yaml").write_text("_target_: opsin.models.mlp\nhiden: 3\n")
    monkeypatch.setattr("opsin.config.locations.CONFIGS", configs)
    message = refusal("experiment=mine", "model=mine")
    assert "did you mean trainer.max_epochs?  [set in configs/experiment/mine.yaml]" in message
    assert "optimizer.lr should be greater than 0, not -1  [set in configs/experiment/mine.yaml]" in message
    assert "model.hiden is not known: did you mean model.hidden?  [set in configs/model/mine.yaml]" in message


def call(
    size: tuple[int, int] = (1, 1), rate: Annotated[float, Field(ge=0, lt=1)] = 0.5, way: Literal["a", "b"] = "a"
) -> Any:
    return size, rate, way


@dataclass(frozen=True)
class Root:
    seed: int = 0


@dataclass(frozen=True)
class Extra:
    extra: str = ""


@dataclass(frozen=True)
class Overlapping:
    rate: float = 0.0


ONE = {ROOT: SectionSchema({"root": Root}), "part": SectionSchema(target="part", call=call)}


def test_values_have_the_types_of_the_signature() -> None:
    fields = check({"seed": 3, "part": {"size": [2, 3], "way": "b"}}, ONE)
    assert fields["part"].build() == ((2, 3), 0.5, "b")
    assert fields["root"] == Root(seed=3)


def test_each_key_goes_to_its_owner() -> None:
    schema = {"part": SectionSchema({"more": Extra}, target="part", call=call)}
    fields = check({"part": {"rate": 0.25, "extra": "x"}}, schema)
    assert fields == {"more": Extra("x"), "part": Target(call, {"rate": 0.25})}


def test_a_key_with_two_owners_is_refused() -> None:
    schema = {"part": SectionSchema({"more": Overlapping}, target="part", call=call)}
    with pytest.raises(UserError, match=r"part\.rate belongs to Overlapping and to call: rename one"):
        check({"part": {}}, schema)


def test_named_targets_may_be_null() -> None:
    schema = {"parts": SectionSchema(target="parts", call=call, many=True)}
    fields = check({"parts": {"one": {"way": "b"}, "two": None}}, schema)
    assert fields == {"parts": {"one": Target(call, {"way": "b"})}}


@pytest.mark.parametrize(
    ("word", "hinted"),
    [
        ("optimizer.lr=${oc.env:RATE}", True),
        ("optimizer.lr='1e-3'", True),
        ("trainer.max_epochs='3'", True),
        ("report='False'", True),
        ("trainer.max_epochs='3.5'", False),
        ("report='yes'", False),
        ("optimizer.lr=fast", False),
    ],
)
def test_text_that_reads_as_a_number_gets_a_hint(word: str, hinted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE", "0.05")
    assert ("${oc.decode:${oc.env:NAME}}" in refusal(word)) == hinted


def test_a_decoded_variable_of_the_environment_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE", "0.05")
    assert make_plan(compose(['optimizer.lr="${oc.decode:${oc.env:RATE}}"'])).groups.lr == 0.05


def folder_of_configs(tmp_path: Path, **files: str) -> str:
    for name, text in files.items():
        file = tmp_path / "configs" / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\n{text}")
    return str(tmp_path / "configs")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("callbacks: {early_stoping: null}", "did you mean callbacks.early_stopping?  [set in configs/experiment/x"),
        ("callbacks: {Model_Summary: ~}", "no config file defines callbacks.Model_Summary"),
        ("logger: {tensorbord: null}", "did you mean logger.tensorboard?"),
        ("logger:\n  zzz:\n", "no config file defines logger.zzz: leave it out"),
    ],
)
def test_a_null_that_removes_nothing_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    source = ConfigSource.of([folder_of_configs(tmp_path, experiment__x=text)])
    with pytest.raises(UserError, match=re.escape(problem)):
        make_plan(compose(["experiment=x"], source=source))


def test_a_null_may_remove_what_any_config_file_defines(tmp_path: Path) -> None:
    files = {
        "experiment__x": "defaults: [y]\ncallbacks: {early_stopping: null, swa: null, ema: null}",
        "experiment__y": "callbacks: {swa: {_target_: lightning.pytorch.callbacks.DeviceStatsMonitor}}",
        "experiment__damaged": "callbacks: [swa: {",
    }
    source = ConfigSource.of([folder_of_configs(tmp_path, **files)])
    plan = make_plan(compose(["experiment=x"], source=source))
    assert not {"early_stopping", "swa", "ema"} & set(plan.callbacks)
    assert "checkpoints" in plan.callbacks


def test_a_key_of_no_section_is_refused() -> None:
    with pytest.raises(UserError, match=r"parrt is not known: did you mean part\?"):
        check({"part": {}, "parrt": {}}, {"part": SectionSchema(target="part", call=call)})


class Shape:
    """A class that YAML has no values of."""


def test_a_missing_item_of_a_list_is_named() -> None:
    def build(size: int | tuple[int, int, int]) -> Any:
        return size

    with pytest.raises(UserError) as caught:
        check({"part": {"size": [1]}}, {"part": SectionSchema(target="part", call=build)})
    assert "part.size[1] is missing" in str(caught.value)
    assert "part.size[2] is missing" in str(caught.value)
    assert "part.size is missing" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "listed"),
    [
        (Literal[1, "1"], "'1'"),
        (Literal["a", 2, "2", 3] | None, "'a', '2' or 3"),
        (Literal["x, y", "x or y"], "'x, y' or 'x or y'"),
    ],
)
def test_a_number_that_is_listed_as_text_too_is_named_once(kind: Any, listed: str) -> None:
    def build(way: Any) -> Any:
        return way

    build.__annotations__["way"] = kind
    with pytest.raises(UserError) as caught:
        check({"part": {"way": "other"}}, {"part": SectionSchema(target="part", call=build)})
    assert str(caught.value).endswith(f"part.way should be {listed}, not 'other'")


def with_objects(
    act: type[Sized] = list,
    function: Callable[[int], int] = abs,
    share: Shape | None = None,
    shares: list[Shape] | None = None,
    name: Shape | Literal["half"] = "half",
) -> Any:
    return act, function, share, shares, name


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"act": "torch.nn.GELU"}, "part.act takes a Python object, which a config cannot hold, not 'torch.nn.GELU'"),
        ({"act": 3}, "part.act takes a Python object, which a config cannot hold, not 3"),
        ({"function": "abs"}, "part.function takes a Python object, which a config cannot hold, not 'abs'"),
        ({"share": 0.5}, "part.share takes a Python object, which a config cannot hold, not 0.5"),
        ({"shares": ["1/2"]}, "part.shares[0] takes a Python object, which a config cannot hold, not '1/2'"),
        ({"name": "third"}, "part.name should be 'half', not 'third'"),
    ],
)
def test_a_value_for_a_python_object_is_refused_in_one_message(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        check({"part": values}, {"part": SectionSchema(target="part", call=with_objects)})
    way_out = "" if "name" in values else ": leave it out, or let with_objects take a name and look the object up"
    assert str(caught.value) == f"The config cannot be used:\n  - {problem}{way_out}"
