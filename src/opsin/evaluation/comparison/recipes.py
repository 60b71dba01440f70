"""Recipes: the runs that a comparison treats as repetitions of one config.

Two runs are repetitions of one recipe if all of this holds:

1. Their configs have the same values, apart from `REPEATS` and from these neutral keys
   (`opsin.runs.neutral_keys`):

   - of the top level: `data_dir`, `output_dir`, `resume`, `report`, `test`, `tags`, `verify_checkpoints`;
   - of `datamodule`: `data_dir`, `path`, `download`, `eval_batch_size`, `on_device`;
   - of `trainer`: `threads`, `log_every_n_steps`, `profiler`, `detect_anomaly`;
   - all keys of `logger`;
   - the keys of Opsin's callbacks except `EarlyStopping`, `EMA` and `monitor` of `Checkpoints`;
   - the keys of the monitors of Lightning.

   Precision, accelerator and `trainer.compile` do count.

2. Their datasets have the same content.
3. They are measured on the same images. This is not required if the images were split off the training images, because
   each seed then has different images.

Of several runs with the same values of `REPEATS`, only the newest that has the metric of the comparison counts.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from opsin.runs import neutral_keys
from opsin.runs.metric_registry import split_of

if TYPE_CHECKING:
    from opsin.evaluation.comparison.run_records import RunRecord

REPEATS = ("seed", "datamodule.fold")
"""Keys that distinguish the repetitions of a recipe."""

_NOT_RECIPE = {
    *neutral_keys.SECTIONS,
    *neutral_keys.TOP_LEVEL,
    *(f"datamodule.{name}" for name in neutral_keys.DATAMODULE),
    *(f"trainer.{name}" for name in neutral_keys.TRAINER),
}
"""Keys that define no recipe, with all keys below them. The dataset counts by its content, not by its path."""


def recipe_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return only the config values that define the recipe. Input and output use dotted keys."""
    return {key: value for key, value in values.items() if key not in REPEATS and _is_recipe_key(key, values)}


def repetition(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of `REPEATS`; None for a key that the config does not have."""
    return tuple(values.get(key) for key in REPEATS)


def recipes(records: Sequence["RunRecord"], metric: str) -> tuple[list[tuple["RunRecord", ...]], list["RunRecord"]]:
    """Return the runs of each recipe, and the runs that another run of the same recipe, seed and fold supersedes.

    The images of the dataset must be the same too: files can change between two runs, and two folders can differ.

    Args:
        records: Finished runs.
        metric: Metric that ranks the runs. The newest run that has it counts.
    """
    split = split_of(metric)

    def order(record: "RunRecord") -> tuple[bool, float]:
        return metric in record.metrics, record.run.result.stat().st_mtime

    found: dict[Any, dict[tuple[Any, ...], RunRecord]] = {}
    superseded = []
    for record in sorted(records, key=order, reverse=True):
        images = None if is_carved(record, split) else record.images_digest(split)
        dataset = record.result.data.dataset if record.result.data else ""
        runs = found.setdefault((frozenset(record.config.items()), images, dataset), {})
        if runs.setdefault(record.repetition, record) is not record:
            superseded.append(record)
    return [tuple(runs[key] for key in sorted(runs, key=_repetition_order)) for runs in found.values()], superseded


def is_carved(run: "RunRecord", split: str) -> bool:
    """Return whether the images of a split were split off the training images, rather than given by the dataset."""
    return run.result.data is not None and run.result.data.origin.get(split) == "carved"


def _repetition_order(repetition: tuple[Any, ...]) -> tuple[float, ...]:
    return tuple(-1.0 if value is None else float(value) for value in repetition)


def _is_recipe_key(key: str, values: Mapping[str, Any]) -> bool:
    """Return whether a key defines the recipe."""
    if key.startswith("callbacks."):
        target = str(values.get(".".join(key.split(".")[:2]) + "._target_", ""))
        selects = target.endswith("Checkpoints") and key.endswith(".monitor")
        reports = target.startswith("opsin.") and not (selects or target.endswith(neutral_keys.TRAINING_CALLBACKS))
        is_monitor = target.startswith("lightning.") and target.endswith("Monitor")
        return not (reports or is_monitor)
    return _NOT_RECIPE.isdisjoint(accumulate(key.split("."), "{}.{}".format))
