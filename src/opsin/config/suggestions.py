"""Suggest the right override for one that names no option or key, also for the names that other frameworks use.

Names are compared by `opsin.errors.nearest`: the ratio of difflib, in which upper and lower case count as equal.

An option of a group (`model=resnet18`) is matched in this order (`_nearest_options`):

1. The translation of the name, if another framework uses it (`VALUES`).
2. All options that begin with the given name and an underscore.
3. Up to three similar options, from a similarity of 0.5 on (`opsin.errors.CUTOFF`); only the first if its similarity is
   at least `OPTION_CUTOFF`.
4. Otherwise all options are listed, if there are fewer than `MAX_LISTED`.

A key (`optimizer.learning_rate=0.1`) is matched in this order (`_unknown_key`):

1. The translation of its last component, if another framework uses this name (`TRANSLATIONS`).
2. The same key with a plus sign, if it is the `_target_` of a new entry of a section, such as `callbacks`.
3. The same key after the option of its group, if only one option sets the key, and for another class (`_target_`).
4. Up to three keys with the same last component, those of Hydra last and only if they have an effect; if there are
   none, the explanation of this name (`EXPLANATIONS`).
5. The same key with a plus sign, if its section builds a class (`_target_`) and has no key with a similar last
   component, from `LAST_CUTOFF` on: config files do not list every parameter of their class.
6. The most similar key, from `KEY_CUTOFF` on, without those of Hydra.
7. The key with the most similar last component, from `LAST_CUTOFF` on, without those of Hydra.
8. Otherwise there is no suggestion.
"""

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from opsin.config.hydra_keys import has_effect
from opsin.config.hydra_session import load
from opsin.config.overrides import is_override, key_of
from opsin.config.project import PROJECT_FILE
from opsin.config.search_path import ConfigSource
from opsin.errors import nearest
from opsin.runs.directory import OUTPUT_DIR
from opsin.runs.quoting import opsin_command, quote

OPTION_CUTOFF = 0.75
"""Similarity from which an option is suggested alone."""

MAX_LISTED = 10
"""A group with this number of options or more is not listed in a message."""

KEY_CUTOFF = 0.6
"""Smallest similarity of a suggested key."""

LAST_CUTOFF = 0.75
"""Smallest similarity of the last component of a suggested key."""


def config_options(source: ConfigSource | None = None) -> dict[str, list[str]]:
    """Return the options of each config group, from all folders of config files."""
    options: dict[str, set[str]] = {}
    for place in (source or ConfigSource()).folders:
        for folder in place.iterdir() if place.is_dir() else ():
            if folder.is_dir() and folder.name != "hydra":
                options.setdefault(folder.name, set()).update(file.stem for file in folder.glob("*.yaml"))
    return {group: sorted(names) for group, names in sorted(options.items()) if names}


def suggest(arguments: Sequence[str], source: ConfigSource | None = None, tree: Mapping[str, Any] | None = None) -> str:
    """Return a line for each override that names no known option or key; empty if all names are known.

    Args:
        arguments: Arguments of the command line.
        source: Search path and primary config; None for those of Opsin.
        tree: Config that the overrides change; None: the one that they compose.
    """
    options = config_options(source)
    pairs = [
        (key_of(argument), argument.partition("=")[2])
        for argument in arguments
        if is_override(argument) and argument[0] not in "+~"
    ]
    lines, chosen = [], []
    for group, value in pairs:
        if group in options:
            several = [option.strip() for option in value.strip("[]").split(",")]
            wrong = [option for option in several if option not in options[group]]
            lines += [explain_unknown_option(group, option, options[group]) for option in wrong]
            first = value if value.startswith("[") else several[0]
            chosen += [f"{group}={first}"] if not wrong else []
    try:
        tree = tree if tree is not None else cast("dict[str, Any]", OmegaConf.to_container(load(chosen, source)))
        keys = _keys(tree)
    except Exception:  # a chosen file is broken: the keys are unknown, and the error of Hydra names the file
        return "\n".join(lines)
    for key, value in pairs:
        owner, _, name = key.rpartition(".")
        if name == "mode" and (f"{owner}.metric" in keys or f"{owner}.monitor" in keys):
            lines.append(f"{key} cannot be set: whether lower or higher is better follows from the metric. Remove it.")
        elif key not in keys and key not in options and key.split(".")[0] != "hydra":
            only = _only_option_with(key, tree, options, source or ConfigSource())
            lines.append(_unknown_key(key, value, [*keys, *options], only))
    return "\n".join(lines)


def with_listing(advice: str) -> str:
    """Return advice on unknown names with the commands that list all of them; empty advice stays empty."""
    options, keys = opsin_command("train", "--help"), opsin_command("train", "--cfg", "job")
    return f"{advice}\n{options} lists all options, {keys} all keys" if advice else ""


def translate(key: str, value: str) -> list[str]:
    """Return the overrides of Opsin for a key of another framework; empty if the key is unknown.

    Only the last component of the key counts: `trainer.gpus=2` is the same as `gpus=2`. `name` in a section is not the
    name of a run.

    Args:
        key: A dotted key, such as `lr` or `model.pretrained`.
        value: As on the command line.
    """
    section, _, last = key.lower().rpartition(".")
    found = "" if section and last == "name" else TRANSLATIONS.get(last, "")
    if not found or found == key:
        return []
    if callable(found):
        return found(value)
    value = VALUES.get(found, {}).get(value, value)
    known = config_options().get(found, [value])
    if value not in known:
        value = next(iter(_nearest_options(value, known)), "OPTION")
    return [f"{found}={value}"]


def translation(key: str, value: Any) -> str:
    """Return the end of a sentence on a key of a composed config: overrides of Opsin, an explanation, or nothing."""
    found = [] if isinstance(value, Mapping) else translate(key, quote(value))
    reason = EXPLANATIONS.get(key.rsplit(".", 1)[-1].lower())
    return f": did you mean {shlex.join(found)}?" if found else f": {reason}" if reason else ""


def value_translation(key: str, value: Any) -> str:
    """Return the end of a sentence with the value of Opsin for one of another framework; empty if it is unknown.

    Args:
        key: The dotted key, such as `trainer.precision`.
        value: The value that the key does not take.
    """
    found = VALUES.get(key, {}).get(str(value).lower())
    return f": did you mean {key}={found}?" if found else ""


def _device(value: str) -> list[str]:
    """Return the trainer for a device as Ultralytics and PyTorch name it: `cuda:0`, `cpu`, `0`."""
    name = value.lower().strip("[]\"'").split(":")[0]
    return [f"trainer={name}"] if name in ("cpu", "mps", "auto") else ["trainer=gpu"]


def _gpus(value: str) -> list[str]:
    if value in ("0", "null", "false"):
        return ["trainer=cpu"]
    return ["trainer=gpu" if value == "1" else "trainer=ddp", f"trainer.devices={value}"]


def _pretrained(value: str) -> list[str]:
    weights = {"true": "imagenet", "1": "imagenet", "false": "none", "0": "none", "null": "none", "value": "imagenet"}
    return [f"model.weights={weights.get(value.lower(), value)}"]


def _freeze(value: str) -> list[str]:
    return [f"model.trainable={'all' if value.lower() in ('false', '0', 'null') else 'head'}"]


def _mixed_precision(value: str) -> list[str]:
    return [f"trainer.precision={32 if value.lower() in ('false', '0', 'null') else 'bf16'}"]


def _dataset(value: str) -> list[str]:
    """Return the dataset of this name, or the folder at this path."""
    return [f"datamodule={value}"] if value in config_options()["datamodule"] else _folder(value)


def _folder(value: str) -> list[str]:
    return ["datamodule=image_folder", f"datamodule.path={value}"]


def _names(names: str, translation: str | Callable[[str], list[str]]) -> dict[str, str | Callable[[str], list[str]]]:
    return dict.fromkeys(names.split(), translation)


TRANSLATIONS = {
    **_names("lr learning_rate base_lr lr0 max_lr lr_max", "optimizer.lr"),
    **_names("weight_decay wd", "optimizer.weight_decay"),
    **_names("momentum", lambda value: ["optimizer=sgd", f"optimizer.momentum={value}"]),
    **_names("optimizer optim opt optimizer_name", "optimizer"),
    **_names("scheduler sched lr_scheduler lr_schedule schedule", "scheduler"),
    **_names("cos_lr", lambda _: ["scheduler=cosine"]),
    **_names("step_size decay_epochs", lambda value: ["scheduler=step", f"scheduler.every_epochs={value}"]),
    **_names("gamma decay_rate", lambda value: ["scheduler=step", f"scheduler.factor={value}"]),
    **_names("warmup warmup_epochs lr_warmup_epochs", "scheduler.warmup_epochs"),
    **_names("epochs epoch max_epochs num_epochs n_epochs n_epoch", "trainer.max_epochs"),
    **_names("max_steps num_steps steps", "trainer.max_steps"),
    **_names("log_interval log_freq print_freq logging_steps", "trainer.log_every_n_steps"),
    **_names("val_interval eval_interval val_freq eval_freq", "trainer.check_val_every_n_epoch"),
    **_names("fast_dev_run dry_run", lambda _: ["debug=fast"]),
    **_names("overfit_batches overfit", lambda _: ["debug=overfit"]),
    **_names("torchcompile", lambda _: ["trainer.compile=true"]),
    **_names("device accelerator", _device),
    **_names("gpus gpu num_gpus ngpus n_gpus", _gpus),
    **_names("devices num_devices nproc_per_node", "trainer.devices"),
    **_names("workers num_workers num_threads threads", "trainer.threads"),
    **_names("amp amp_dtype half fp16 mixed_precision use_amp", _mixed_precision),
    **_names("sync_bn syncbn", lambda _: ["trainer.sync_batchnorm=true"]),
    **_names("precision", "trainer.precision"),
    **_names("clip_grad gradient_clip_val grad_clip clip_grad_norm", "trainer.gradient_clip_norm"),
    **_names("accumulate accum grad_accum_steps accumulate_grad_batches", "trainer.accumulate_grad_batches"),
    **_names("batch_size batch b bs train_batch_size batch_size_per_gpu", "datamodule.batch_size"),
    **_names("eval_batch_size validation_batch_size test_batch_size", "datamodule.eval_batch_size"),
    **_names("image_size img_size imgsz input_size img imsize resolution", "datamodule.image_size"),
    **_names("path data_path data_root root train_dir folder", _folder),
    **_names("data dataset dataset_name", _dataset),
    **_names("fraction", "datamodule.train_fraction"),
    **_names("val_fraction valid_pct val_split val_ratio", "datamodule.val_fraction"),
    **_names("num_folds n_folds k_folds kfold", "datamodule.num_folds"),
    **_names("model arch architecture net network backbone encoder model_name", "model"),
    **_names("pretrained", _pretrained),
    **_names("weights pretrained_weights initial_checkpoint pretrained_path", "model.weights"),
    **_names("freeze freeze_backbone freeze_encoder", _freeze),
    **_names("ckpt_path checkpoint ckpt resume_from resume_from_checkpoint", "resume"),
    **_names("smoothing label_smoothing", "loss.label_smoothing"),
    **_names("class_weights class_weight", "loss.class_weights"),
    **_names("augmentation aug augment augmentations transforms transform aa", "augmentation"),
    **_names("hflip fliplr flip", lambda _: ["augmentation=flip"]),
    **_names("vflip flipud", lambda value: [f"+augmentation.vertical_flip={value}"]),
    **_names("degrees rotate", lambda value: [f"+augmentation.rotation={value}"]),
    **_names("translate", lambda value: [f"+augmentation.translation={value}"]),
    **_names("reprob", lambda value: [f"+augmentation.erasing={value}"]),
    **_names("scale", lambda _: ["augmentation=random_resized_crop"]),
    **_names("mixup cutmix", lambda _: ["augmentation=mixup_cutmix"]),
    **_names("patience early_stopping_patience", "callbacks.early_stopping.patience"),
    **_names("ema model_ema", lambda _: ["callbacks=ema"]),
    **_names("project output out out_dir output_folder save_dir log_dir default_root_dir", "output_dir"),
    **_names("name run_name exp_name experiment_name task_name", lambda value: [f"hydra.run.dir={OUTPUT_DIR}/{value}"]),
    **_names("hparams_search", "sweep"),
    **_names("random_seed random_state manual_seed seed_everything", "seed"),
}
"""Overrides of Opsin by the names of other frameworks (timm, Ultralytics, fastai, lightning-hydra-template)."""

VALUES: Mapping[str, Mapping[str, str]] = {
    "trainer": {"cuda": "gpu"},
    "trainer.accelerator": {"cuda": "gpu"},
    "trainer.precision": {
        **dict.fromkeys(("bf16-mixed", "bfloat16", "amp", "mixed"), "bf16"),
        **dict.fromkeys(("16-mixed", "fp16", "float16", "half"), "16"),
        **dict.fromkeys(("32-true", "fp32", "float32", "float", "full"), "32"),
        **dict.fromkeys(("64-true", "fp64", "float64", "double"), "64"),
    },
    "experiment": {"example": "quickstart"},
    "debug": {"fdr": "fast"},
    "sweep": {"optuna": "search"},
}
"""Options and values of Opsin by those of other frameworks, for the key or the group that takes them."""

EXPLANATIONS = {
    **dict.fromkeys(
        ("num_classes", "nc", "n_classes", "nb_classes", "num_labels", "n_labels"),
        "the dataset determines the number of classes",
    ),
    **dict.fromkeys(
        ("save_top_k", "checkpoint_hist", "save_period", "save_freq", "save_total_limit", "save_last"),
        "a run keeps its best and its last checkpoint",
    ),
    **dict.fromkeys(
        ("pin_memory", "pin_mem", "persistent_workers", "prefetch_factor"),
        "images are read without worker processes; trainer.threads sets the number of threads",
    ),
    **dict.fromkeys(
        ("dropout", "drop", "drop_rate", "dropout_rate"),
        "this network has no dropout; networks that have it take model.dropout or model.head_dropout",
    ),
    **dict.fromkeys(
        ("config", "config_file", "conf", "cfg_file", "yaml"),
        "a config file of your own is configs/experiment/NAME.yaml of your project, chosen with experiment=NAME",
    ),
    **dict.fromkeys(("local_rank", "rank", "world_size"), "trainer.devices and trainer.num_nodes set the processes"),
}
"""Reasons why a name of another framework needs no key of Opsin."""


def explain_unknown_option(group: str, option: str, known: Sequence[str]) -> str:
    """Return a line for an option that its group does not have, with the options that could be meant."""
    if "/" in option or option.endswith((".yaml", ".yml")):
        return f"{group}={option} is not known: {group}=NAME chooses the file configs/{group}/NAME.yaml"
    if any(file.stem == option for file in Path("configs", group).glob("*.yaml")):
        return (
            f"{group}={option} is not known: configs/{group}/{option}.yaml is read only if the {PROJECT_FILE} beside "
            "configs has the table [tool.opsin], or with --config-dir configs"
        )
    translated = VALUES.get(group, {}).get(option)
    near = [f"{group}={name}" for name in ([translated] if translated else _nearest_options(option, known))]
    if near:
        advice = f"did you mean {', '.join(near[:-1])}{' or ' if near[1:] else ''}{near[-1]}?"
    elif len(known) < MAX_LISTED:
        advice = f"{group} is one of {', '.join(known)}"
    else:
        advice = f"{group} has {len(known)} options"
    return f"{group}={option} is not known: {advice}"


def _nearest_options(option: str, known: Sequence[str]) -> list[str]:
    """Return the options that begin with a name (`resnet18`), else those of nearly the same name, the nearest first."""
    begins = [name for name in known if option and name.startswith(f"{option}_")]
    return begins or nearest(option, known, cutoff=OPTION_CUTOFF) or nearest(option, known, count=3)


def _only_option_with(
    key: str, tree: Mapping[str, Any], options: Mapping[str, Sequence[str]], source: ConfigSource
) -> str:
    """Return the option of a group, such as `model=timm`, if its file alone sets a key of the group; else "".

    Options of the class that the config has are left out: the key can be added to the config as it is.
    """
    group, _, name = key.partition(".")
    section = tree.get(group)
    chosen = section.get("_target_") if isinstance(section, Mapping) else None
    found = []
    for option in options.get(group, ()) if name else ():
        files = [folder / group / f"{option}.yaml" for folder in source.folders]
        with contextlib.suppress(Exception):  # a broken file
            file: Any = OmegaConf.to_container(OmegaConf.load(next(file for file in files if file.is_file())))
            found += [f"{group}={option}"] if name in file and file.get("_target_") != chosen else []
    return found[0] if len(found) == 1 else ""


def _unknown_key(key: str, value: str, known: Sequence[str], only: str = "") -> str:
    line = f"{key}={value} is not known"
    if translated := translate(key, value):
        return f"{line}: did you mean {shlex.join(translated)}?"
    if only:
        return f"{line}: did you mean {shlex.join([only, f'{key}={value}'])}?"
    section, _, last = key.rpartition(".")
    if last == "_target_" and section.rpartition(".")[0] in known:  # a new callback or logger
        return f"{line}: {shlex.quote(f'+{key}={value}')} adds it"
    same = [name for name in known if name.rsplit(".", 1)[-1] == last and has_effect(name)]
    if not same and (reason := EXPLANATIONS.get(last.lower())):
        return f"{line}: {reason}"
    known = [name for name in known if not name.startswith("hydra.")]  # whose names are similar to many others
    same.sort(key=lambda name: name not in known)
    siblings = [name.rsplit(".", 1)[-1] for name in known if name.rpartition(".")[0] == section]
    if "_target_" in siblings and not same and not nearest(last, siblings, cutoff=LAST_CUTOFF):
        return f"{line}: {shlex.quote(f'+{key}={value}')} adds it, if the class of {section} takes it"
    near = same[:3] or nearest(key, known, cutoff=KEY_CUTOFF) or _nearest_last(last, known)
    return f"{line}: did you mean {' or '.join(shlex.quote(f'{name}={value}') for name in near)}?" if near else line


def _nearest_last(last: str, known: Sequence[str]) -> list[str]:
    """Return the key whose last component is nearest to `last`."""
    by_last = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    return [by_last[name] for name in nearest(last, by_last, cutoff=LAST_CUTOFF)]


def _keys(tree: Any, above: str = "") -> list[str]:
    """Return every dotted key of a tree, of sections and of values."""
    found = []
    for key, value in tree.items():
        found += [f"{above}{key}", *(_keys(value, f"{above}{key}.") if isinstance(value, Mapping) else [])]
    return found
