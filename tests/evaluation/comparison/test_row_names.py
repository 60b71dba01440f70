from pathlib import Path

from made_runs import made_run

from opsin.evaluation.comparison.row_names import letter, row_names, shortened_names
from opsin.evaluation.comparison.run_records import read_record


def test_names_distinguish_runs(tmp_path: Path) -> None:
    shared = ["trainer.max_epochs=3", "seed=1"]
    runs = [
        made_run(tmp_path / "a", overrides=shared),
        made_run(tmp_path / "b", overrides=[*shared, "optimizer.lr=0.1", "data_dir=/d"]),
        made_run(tmp_path / "c", overrides=shared, choices={"model": "mlp", "optimizer": "sgd", "logger": "none"}),
    ]
    found = row_names([read_record(run) for run in runs])
    assert found == ["cnn_gap optimizer=adam", "cnn_gap optimizer=adam optimizer.lr=0.1", "mlp optimizer=sgd"]


def test_equal_overrides_are_distinguished_by_config_values(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / str(rate), config={"optimizer.lr": rate}) for rate in (0.1, 0.2)]
    assert row_names([read_record(run) for run in runs]) == ["cnn_gap optimizer.lr=0.1", "cnn_gap optimizer.lr=0.2"]


def test_letters_after_z_are_pairs() -> None:
    assert [letter(i) for i in (0, 25, 26, 27, 52, 701, 702)] == ["A", "Z", "AA", "AB", "BA", "ZZ", "AAA"]


def test_shortened_names_keep_the_differing_overrides() -> None:
    same = ["cnn_gap optimizer.lr=0.1", "cnn_gap optimizer.lr=0.2", "cnn_gap"]
    assert shortened_names(same) == ["lr=0.1", "lr=0.2", "cnn_gap"]
    assert shortened_names(["mlp model.width=3", "cnn_gap"]) == ["mlp width=3", "cnn_gap"]
    assert shortened_names(["cnn_gap"]) == ["cnn_gap"]
    ambiguous = ["a trainer.max=1", "a sweep.max=1"]
    assert shortened_names(ambiguous) == ambiguous
    (long, _) = shortened_names([f"a model.weights=/{'x' * 200}/best.pth", "a"])
    assert long.startswith("weights=/xxx")
    assert long.endswith("best.pth")
    assert len(long) <= 61
