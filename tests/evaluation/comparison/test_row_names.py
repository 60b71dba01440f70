from pathlib import Path

from made_runs import made_run

from opsin.evaluation.comparison.row_names import letter, names
from opsin.evaluation.comparison.run_records import read_record


def test_names_are_what_sets_runs_apart(tmp_path: Path) -> None:
    shared = ["trainer.max_epochs=3", "seed=1"]
    runs = [
        made_run(tmp_path / "a", words=shared),
        made_run(tmp_path / "b", words=[*shared, "optimizer.lr=0.1", "data_dir=/d"]),
        made_run(tmp_path / "c", words=shared, choices={"model": "mlp", "optimizer": "sgd", "logger": "none"}),
    ]
    found = names([read_record(run) for run in runs])
    assert found == ["cnn_gap optimizer=adam", "cnn_gap optimizer=adam optimizer.lr=0.1", "mlp optimizer=sgd"]


def test_the_same_words_with_other_values_are_told_apart(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / str(rate), config={"optimizer.lr": rate}) for rate in (0.1, 0.2)]
    assert names([read_record(run) for run in runs]) == ["cnn_gap optimizer.lr=0.1", "cnn_gap optimizer.lr=0.2"]


def test_letters() -> None:
    assert [letter(i) for i in (0, 25, 26, 27, 52, 701, 702)] == ["A", "Z", "AA", "AB", "BA", "ZZ", "AAA"]
