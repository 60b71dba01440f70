"""Suggestions for unknown names: nearest names, last components, and the names of other frameworks."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from opsin.config import CONFIGS, ConfigSource, compose, read_command_line, show
from opsin.config.hydra_keys import has_effect
from opsin.config.suggestions import TRANSLATIONS, config_options, suggest, translate
from opsin.errors import UserError
from opsin.training.plan import make_plan

ROOT = CONFIGS.parent

VALUES = {"arch": "resnet18", "data": "mnist", "device": "cpu", "pretrained": "true", "momentum": "0.9", "wd": "0.1"}


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("lr=0.1", "optimizer.lr=0.1"),
        ("trainer.lr=0.1", "optimizer.lr=0.1"),
        ("model.optimizer.lr=0.1", "optimizer.lr=0.1"),
        ("optimizer.lrr=0.1", "optimizer.lr=0.1"),
        ("optimizer.momentum=0.9", "optimizer=sgd optimizer.momentum=0.9"),
        ("pretrained=true", "model.weights=imagenet"),
        ("model.pretrained=False", "model.weights=none"),
        ("trainer.gpus=1", "trainer=gpu trainer.devices=1"),
        ("gpus=4", "trainer=ddp trainer.devices=4"),
        ("gpus=0", "trainer=cpu"),
        ("device=cuda", "trainer=gpu"),
        ("device=cuda:1", "trainer=gpu"),
        ("device=cpu", "trainer=cpu"),
        ("epochs=5", "trainer.max_epochs=5"),
        ("batch_size=64", "datamodule.batch_size=64"),
        ("data.batch_size=64", "datamodule.batch_size=64"),
        ("batch=64", "datamodule.batch_size=64"),
        ("num_workers=4", "trainer.threads=4"),
        ("imgsz=64", "datamodule.image_size=64"),
        ("img_size=[64,32]", "'datamodule.image_size=[64,32]'"),
        ("data=mnist", "datamodule=mnist"),
        ("data=photos", "datamodule=image_folder datamodule.path=photos"),
        ("datamodule.path=photos", "datamodule=image_folder datamodule.path=photos"),
        ('path="my photos"', "datamodule=image_folder 'datamodule.path=\"my photos\"'"),
        ("model=resnet18", "model=resnet18_feature_extract, model=resnet18_full or model=resnet18_partial?"),
        ("model=resnet99", "model=mini_resnet, "),
        ("arch=resnet34", "model=resnet34_feature_extract"),
        ("optim=adam", "optimizer=adam"),
        ("optimiser=sgd", "optimizer=sgd"),
        ("trainer.precison=32", "trainer.precision=32"),
        ("mixed_precision=true", "trainer.precision=bf16"),
        ("ckpt_path=outputs/latest", "resume=outputs/latest"),
        ("freeze=true", "model.trainable=head"),
        ("augmentation.flip=0.5", "augmentation=flip?"),
        ("augmentation.rotate=10", "+augmentation.rotation=10?"),
        ("share=0.1", "callbacks.confusion_matrix.share=0.1"),
        ("dir=x", "hydra.run.dir=x or hydra.sweep.dir=x"),
        ("model.name=resnet26", "model=timm model.name=resnet26?"),
        ("scheduler.every_epochs=3", "scheduler=step scheduler.every_epochs=3?"),
        ("name=first", "hydra.run.dir=outputs/first?"),
        ("exp_name=first", "hydra.run.dir=outputs/first?"),
        ("trainer=cuda", "trainer=gpu?"),
        ("debug=fdr", "debug=fast?"),
        ("sweep=optuna", "sweep=search?"),
        ("precision=16-mixed", "trainer.precision=16?"),
    ],
)
def test_an_unknown_key_gets_the_override_to_type(typed: str, right: str) -> None:
    line = suggest([typed])
    assert line.startswith(f"{typed} is not known: did you mean {right}")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("chosen", "typed"),
    [
        ("augmentation=mixup_cutmix", "augmentation.erasing=1"),
        ("augmentation=flip", "augmentation.saturation=0.5"),
        ("model=resnet18_full", "model.head_units=64"),
        ("optimizer=adamw", "optimizer.amsgrad=true"),
        ("augmentation=flip", "augmentation.crop_padding=4"),  # only crop_flip sets it, with the same class
        ("scheduler=cosine", "scheduler.T_max=[10, 20]"),
    ],
)
def test_a_parameter_that_the_file_of_a_class_omits_is_added_with_a_plus(chosen: str, typed: str) -> None:
    section, plus = typed.split(".")[0], shlex.quote(f"+{typed}")
    assert suggest([chosen, typed]) == f"{typed} is not known: {plus} adds it, if the class of {section} takes it"


@pytest.mark.parametrize("typed", ["callbacks.norm._target_=mine.Norm", "logger.second._target_=mine.Logger"])
def test_a_new_callback_or_logger_is_added_with_a_plus(typed: str) -> None:
    assert suggest([typed]) == f"{typed} is not known: +{typed} adds it"


@pytest.mark.parametrize(
    "typed", ["configs_dir=x", "search_paths=x", "job.names=x", "modle._target_=a.B", "sweep_dir.name=x", "num=1"]
)
def test_keys_of_hydra_are_not_suggested_for_their_similarity(typed: str) -> None:
    assert "hydra" not in suggest([typed])


FOREIGN = (
    "data.batch_size=64 ckpt_path=FILE model.lr=0.1 hparams_search=NAME --initial-checkpoint=FILE "
    "--img-size=224 --mean=0.5 -b=128 --epochs=30 --opt=adamw --lr=1e-3 --weight-decay=0.05 "
    "--layer-decay=0.7 --sched=cosine --warmup-epochs=3 --clip-grad=1 --hflip=0.5 --vflip=0.5 --scale=0.5 "
    "--reprob=0.25 --mixup=0.2 --cutmix=1 --smoothing=0.1 --model-ema --amp --amp-dtype=bfloat16 --sync-bn "
    "--resume=FILE epochs=100 patience=20 imgsz=224 batch=16 batch=-1 device=0 device=cpu device=mps "
    "pretrained=False freeze=10 optimizer=AdamW lr0=0.001 cos_lr=True warmup_epochs=3 degrees=10 translate=0.1 "
    "fliplr=0.5 fraction=0.1 amp=False project=RUNS data=PATH valid_pct=0.2"
)


@pytest.mark.parametrize("typed", FOREIGN.split())
def test_the_names_in_the_tables_for_other_frameworks_are_translated_as_there(typed: str) -> None:
    page = (ROOT / "docs" / "coming_from.md").read_text("utf-8")
    name = typed.split("=")[0]
    rows = [line.split("|")[2] for line in page.splitlines() if re.search(rf"\| .*(?<![\w-]){name}\b.* \|", line)]
    if typed.startswith("-"):
        with pytest.raises(UserError, match="did you mean") as caught:
            read_command_line([typed])
        said = str(caught.value)
    else:
        said = suggest([typed])
    first = shlex.split(said.partition("did you mean ")[2].rstrip("?"))[0]
    assert any(first.split("=")[0] in row for row in rows), said


@pytest.mark.slow
def test_unknown_options_and_keys_of_chosen_options_get_suggestions() -> None:
    assert suggest(["model=mlp,cnn_gpa"]) == "model=cnn_gpa is not known: did you mean model=cnn_gap?"
    assert suggest(["model=xyzzy", "trainer=xyzzy"]).splitlines() == [
        f"model=xyzzy is not known: model has {len(config_options()['model'])} options",
        "trainer=xyzzy is not known: trainer is one of auto, cpu, ddp, ddp_cpu, fsdp, gpu, mps",
    ]
    assert suggest(["datamodule=image_folder", "model=mlp", "model.hiden=3"]) == (
        "model.hiden=3 is not known: did you mean model.hidden=3?"
    )


@pytest.mark.parametrize(
    ("typed", "explanation"),
    [
        ("nc=3", "the dataset determines the number of classes"),
        ("model.num_classes=3", "the dataset determines the number of classes"),
        ("checkpoint_hist=3", "a run keeps its best and its last checkpoint"),
        ("pin_memory=true", "images are read without worker processes"),
        ("dropout=0.3", "this network has no dropout; networks that have it take model.dropout or model.head_dropout"),
        ("config=my.yaml", "a config file of your own is configs/experiment/NAME.yaml of your project"),
    ],
)
def test_a_name_that_needs_no_key_is_explained(typed: str, explanation: str) -> None:
    assert suggest([typed]).startswith(f"{typed} is not known: {explanation}")


def test_a_key_of_the_same_name_precedes_an_explanation() -> None:
    assert suggest(["model=simple_cnn", "dropout=0.3"]).endswith("did you mean model.dropout=0.3?")


@pytest.mark.parametrize("option", ["mine.yml", "mine.yaml", "configs/experiment/mine.yaml", "/tmp/mine.yaml"])
def test_the_path_of_a_config_file_is_no_option(option: str) -> None:
    assert suggest([f"experiment={option}"]) == (
        f"experiment={option} is not known: experiment=NAME chooses the file configs/experiment/NAME.yaml"
    )


def test_a_config_file_outside_of_a_project_is_named_with_the_ways_to_read_it(in_tmp: Path) -> None:
    (in_tmp / "configs" / "model").mkdir(parents=True)
    (in_tmp / "configs" / "model" / "mine.yaml").write_text("_target_: opsin.models.mlp\nhidden: 8\n")
    with pytest.raises(UserError, match=re.escape("model=mine is not known: configs/model/mine.yaml is read only if")):
        compose(["model=mine"])
    with pytest.raises(UserError, match=r"model=mini is not known: did you mean"):
        compose(["model=mini"])
    with pytest.raises(UserError, match=r"model=m{300} is not known: model has"):
        compose([f"model={'m' * 300}"])  # too long for the name of a file
    assert compose(["model=mine"], source=ConfigSource.of(["configs"])).tree["model"]["hidden"] == 8
    (in_tmp / "pyproject.toml").write_text("[tool.opsin]\n")
    assert compose(["model=mine"]).tree["model"]["hidden"] == 8


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("trainer.precision=bf16-mixed", "trainer.precision=bf16"),
        ("trainer.precision=32-true", "trainer.precision=32"),
        ("trainer.precision=fp16", "trainer.precision=16"),
        ("trainer.accelerator=cuda", "trainer.accelerator=gpu"),
    ],
)
def test_a_value_of_another_framework_gets_the_value_to_type(typed: str, right: str) -> None:
    with pytest.raises(UserError, match=re.escape(f": did you mean {right}?  [set on")):
        make_plan(compose([typed]))
    make_plan(compose([right]))


@pytest.mark.parametrize(
    ("typed", "right"), [("monitor=val/acc", "monitor.metric=val/acc"), ("loss=mse", "loss.function=mse")]
)
def test_a_value_for_a_whole_section_gets_the_key_to_type(typed: str, right: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"instead of a section. Did you mean {right}, or in a file")):
        compose([typed])


def test_a_misspelled_flag_of_a_command_gets_its_nearest_flag() -> None:
    with pytest.raises(UserError, match="--step is not a flag: did you mean --steps"):
        read_command_line(["--step", "20"], "find-lr", ("--steps", "--lowest"))


def test_known_names_get_no_suggestion() -> None:
    assert suggest(["model=mlp", "optimizer.lr=1", "hydra.run.dir=x", "-m", "+a.b=1", "~logger.tensorboard"]) == ""


@pytest.mark.slow
def test_every_translation_names_options_and_keys_that_exist() -> None:
    options, keys = config_options(), set(compose(["resume=null"]).tree) | _keys_of_default_options()
    for name in TRANSLATIONS:
        for translated in translate(f"other.{name}", VALUES.get(name, "1")):
            key, _, value = translated.partition("=")
            if key.startswith("+"):
                make_plan(compose([f"{key}=0.5"]))
            elif key.startswith("hydra."):
                assert has_effect(key)
            else:
                assert key in keys or value in [*options[key], "OPTION"], translated


def _keys_of_default_options() -> set[str]:
    tree = compose(["datamodule=image_folder", "datamodule.path=x", "optimizer=sgd", "scheduler=step"]).tree

    def dotted(node: object, above: str = "") -> set[str]:
        pairs = node.items() if isinstance(node, dict) else ()
        return {f"{above}{key}" for key, _ in pairs}.union(*(dotted(value, f"{above}{key}.") for key, value in pairs))

    return dotted(tree)


@pytest.mark.parametrize(
    ("typed", "right"), [("+lr=0.1", "optimizer.lr=0.1"), ("+trainer.gpus=1", "trainer=gpu trainer.devices=1")]
)
def test_a_key_that_is_appended_gets_the_same_suggestion(typed: str, right: str) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(compose([typed]))
    assert f"is not known: did you mean {right}?  [set on the command line ({typed})]" in str(caught.value)


def test_an_experiment_file_gets_the_same_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text("# @package _global_\nbatch_size: 64\n")
    monkeypatch.setattr("opsin.config.locations.CONFIGS", tmp_path / "configs")
    with pytest.raises(UserError, match=r"did you mean datamodule\.batch_size=64\?  \[set in .*mine\.yaml"):
        make_plan(compose(["experiment=mine"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["train.py epochs=5", "train.py -m epochs=5,6", "scripts/find_lr.py epochs=5", "train.py -m epochs=5 seed=1,2"],
)
def test_the_suggestion_is_the_first_line_that_is_printed(command: str, tmp_path: Path) -> None:
    script, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert re.fullmatch(r"epochs=(\d) is not known: did you mean trainer\.max_epochs=\1\?", first)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.json"))


LISTING = "opsin train --help lists all options, opsin train --cfg job all keys"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("model=cnn_gpa", f"model=cnn_gpa is not known: did you mean model=cnn_gap?\n{LISTING}"),
        ("trainer.max_epoch=2", f"trainer.max_epoch=2 is not known: did you mean trainer.max_epochs=2?\n{LISTING}"),
        (
            "+experiment=quick",
            f"In 'train': experiment=quick is not known: did you mean experiment=quickstart?\n{LISTING}",
        ),
    ],
)
def test_messages_omit_the_option_lists_of_hydra(typed: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([typed])
    assert str(caught.value) == message


def test_a_primary_config_that_does_not_exist_is_named_without_the_search_path() -> None:
    with pytest.raises(UserError) as caught:
        compose([], source=ConfigSource.of([], "absent"))
    assert str(caught.value) == "Cannot find primary config 'absent'. Check that it's in your config search path."


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--epochs 2", "--epochs 2 is not a flag: did you mean trainer.max_epochs=2?"),
        ("--learning-rate=0.1", "--learning-rate=0.1 is not a flag: did you mean optimizer.lr=0.1?"),
        ("--seed 3 model=mlp", "--seed 3 is not a flag: did you mean seed=3?"),
        ("model=mlp --epochs", "--epochs is not a flag: did you mean trainer.max_epochs=VALUE?"),
        ("--xyzzy 3", "Unrecognized arguments: --xyzzy; opsin"),
        ("--config_dir x", "--config_dir is not a flag: did you mean --config-dir?"),
        ("--multrun seed=0,1", "--multrun is not a flag: did you mean --multirun?"),
        ("--config_name=x", "--config_name is not a flag: did you mean --config-name?"),
        ("--resume=x", "--resume=x is not a flag: did you mean resume=x?"),
        ("--num-classes 3", "--num-classes 3 is not a flag: the dataset determines the number of classes"),
        ("--out x", "--out x is not a flag: did you mean output_dir=x?"),
        (
            "--config my.yaml",
            "--config my.yaml is not a flag: a config file of your own is configs/experiment/NAME.yaml",
        ),
    ],
)
def test_a_flag_of_another_framework_gets_the_override_to_type(typed: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_command_line(typed.split())
    assert str(caught.value).startswith(message)


def test_a_printed_config_has_no_unknown_section() -> None:
    with pytest.raises(UserError, match=r"epochs=2 is not known: did you mean trainer\.max_epochs=2"):
        show(read_command_line(["--cfg", "job", "+epochs=2"]))
