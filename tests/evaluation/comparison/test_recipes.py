"""Recipes: the keys that distinguish them, the images, and the newest of equal runs."""

import os
from pathlib import Path

from made_runs import made_run

from opsin.evaluation.comparison.leaderboard import leaderboard
from opsin.evaluation.comparison.recipes import recipe_values, recipes
from opsin.evaluation.comparison.run_records import RunRecord, read_record
from opsin.runs.directory import RunDirectory
from opsin.runs.result import DataFacts


def names(runs: tuple[RunRecord, ...]) -> list[str]:
    return [record.run.path.name for record in runs]


def grouped(folder: Path, metric: str = "test/acc") -> tuple[list[list[str]], list[str]]:
    """The names of the runs of each recipe, and of the superseded runs."""
    found, superseded = recipes([read_record(RunDirectory(path)) for path in sorted(folder.iterdir())], metric)
    return sorted(map(names, found)), names(tuple(superseded))


def test_only_values_that_affect_training_are_compared(tmp_path: Path) -> None:
    other_values = {"seed": 3, "data_dir": "/elsewhere", "callbacks.progress.bar": False, "logger.tensorboard.flush": 2}
    plain, moved, patient = (
        read_record(made_run(tmp_path / str(i), [True], config=config))
        for i, config in enumerate(({}, other_values, {"callbacks.early_stopping.patience": 2}))
    )
    assert plain.config == moved.config
    assert plain.repetition != moved.repetition
    assert plain.config != patient.config


def test_monitors_of_lightning_do_not_change_the_recipe_but_those_of_other_packages_can() -> None:
    for target, counts in (("lightning.pytorch.callbacks.LearningRateMonitor", False), ("my_package.Monitor", True)):
        key = "callbacks.mine._target_"
        assert (key in recipe_values({key: target})) is counts


def test_the_metric_that_selects_the_tested_epoch_changes_the_recipe() -> None:
    config = {"callbacks.checkpoints._target_": "opsin.training.callbacks.Checkpoints"}
    config |= {"callbacks.checkpoints.monitor": "val/acc", "callbacks.checkpoints.every_n_steps": 5}
    assert recipe_values(config) == {"callbacks.checkpoints.monitor": "val/acc"}


def test_settings_that_do_not_change_the_recipe_do_not_split_its_seeds(tmp_path: Path) -> None:
    for seed in range(3):
        environment = {
            "trainer.threads": seed + 1,
            "datamodule.path": f"/disk{seed}/photos",
            "logger.csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(seed)},
            "output_dir": f"/runs/{seed}",
            "tags": [str(seed)],
            "verify_checkpoints": seed,
        }
        logger = {"logger": ("csv", "none", "tensorboard")[seed]}
        made_run(tmp_path / str(seed), [True], overrides=[f"seed={seed}"], config=environment, choices=logger)
    facts = DataFacts(name="digits", counts={"test": 1}, origin={"test": "given"}, dataset="another folder")
    made_run(tmp_path / "other", [True], overrides=["seed=4"], result={"data": facts})
    assert grouped(tmp_path) == ([["0", "1", "2"], ["other"]], [])


def test_seeds_of_a_recipe_share_given_images_and_may_split_off_different_ones(tmp_path: Path) -> None:
    for origin, expected in (("given", [["0"], ["1"]]), ("carved", [["0", "1"]])):
        for seed in (0, 1):
            words = [f"seed={seed}"]
            made_run(tmp_path / origin / str(seed), [True], overrides=words, images=f"images {seed}", origin=origin)
        assert grouped(tmp_path / origin) == (expected, [])


def test_a_newer_run_of_the_same_seed_replaces_the_older_one(tmp_path: Path) -> None:
    old, new = (made_run(tmp_path / name, [True]) for name in ("old", "new"))
    os.utime(old.result, (1, 1))
    assert grouped(tmp_path) == ([["new"]], ["old"])
    assert names(leaderboard([new, old]).superseded) == ["old"]


def test_a_newer_pruned_run_does_not_replace_a_complete_one(tmp_path: Path) -> None:
    complete = made_run(tmp_path / "complete", [True])
    os.utime(complete.result, (1, 1))
    pruned = made_run(tmp_path / "pruned", [True], result={"pruned": True})
    board = leaderboard([complete, pruned])
    assert [names(row.runs) for row in board.rows] == [["complete"]]
    assert (names(board.superseded), names(board.without_result)) == ([], ["pruned"])


def test_a_newer_run_without_the_metric_does_not_replace_one_that_has_it(tmp_path: Path) -> None:
    for age, name in enumerate(("new_untested", "tested", "old_tested", "older_untested")):
        run = made_run(tmp_path / name, None if "untested" in name else [True], origin="carved")
        os.utime(run.result, (10 - age, 10 - age))
    assert grouped(tmp_path) == ([["tested"]], ["old_tested", "new_untested", "older_untested"])
    assert grouped(tmp_path, "val/acc") == ([["new_untested"]], ["tested", "old_tested", "older_untested"])


def test_a_seed_without_the_metric_does_not_remove_its_recipe_from_the_ranking(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        correct = None if seed == 1 else [True, False]
        made_run(tmp_path / str(seed), correct, overrides=[f"seed={seed}"], origin="carved")
    board = leaderboard([RunDirectory(path) for path in sorted(tmp_path.iterdir())])
    (row,) = board.rows
    assert (names(row.runs), row.rank, row.metrics["test/acc"].estimate) == (["0", "2"], 1, 0.5)
    assert [(record.run.path.name, reason) for record, reason in board.ignored()] == [
        ("1", "it has no test/acc, unlike other runs of its recipe")
    ]


def test_a_key_that_begins_like_a_neutral_one_counts() -> None:
    own = {"datamodule.path_pattern": 1, "datamodule.download_year": 2, "trainer.profiler_steps": 3, "tests": 4}
    neutral = {"datamodule.path": 1, "trainer.profiler": 2, "trainer.profiler.steps": 3, "logger.x.y": 4, "test": True}
    assert recipe_values({**own, **neutral}) == own
