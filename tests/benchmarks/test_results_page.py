from collections import Counter
from pathlib import Path

import pytest
from made_records import correct_bits, made_record

from benchmarks.reproduce import command
from benchmarks.reproduce.command import RECORDS, ROWS, pages
from benchmarks.reproduce.mistakes_page import MISTAKE_ROWS, MISTAKES, cost, mistakes_page
from benchmarks.reproduce.records import read_row, write_record
from benchmarks.reproduce.results_page import readme_table, results_page
from benchmarks.reproduce.rows import ROOT, Figure, Row
from benchmarks.reproduce.training_runs import recipe_of
from benchmarks.tables import with_section
from opsin.config import ConfigSource, compose
from opsin.training.plan import make_plan

ROW = Row("own", "own network", "CIFAR-10", "cifar10", figure=Figure("90 %", 0.895, 0.905), gap=True, in_readme=True)
OTHER = Row("other", "other network", "CIFAR-10", "cifar10", against=("own",), seeds=5)
REMOTE = Row("remote", "remote network", "CIFAR-10", "cifar10", downloads=True, counterpart="own")
PENDING = Row("todo", "network to do", "CIFAR-10", "cifar10", in_readme=True)


def some_records():
    return {
        "own": [made_record("own", i, correct_bits(0.9 + i / 1_000)) for i in range(3)],
        "other": [made_record("other", i, correct_bits(0.8), load=3.0, seconds={"total": 75.0}) for i in range(2)],
    }


def test_the_results_page():
    page = results_page([ROW, OTHER, REMOTE, PENDING], some_records())
    lines = page.splitlines()
    assert "| own network (`own`) | 90 % | 90.10 % (89.85 % to 90.35 %) | 3 | 42.0 s | A |" in lines
    assert "| other network (`other`) | none | 80.00 % (80.00 % to 80.00 %) | 2 of 5 | 1 min 15 s\\* | A |" in lines
    assert "| remote network (`remote`) | none | not run here |  |  |  |" in lines
    assert "| network to do (`todo`) | none | not run |  |  |  |" in lines
    assert any(line.startswith("- `own`: Not distinguishable from the stated 90 %") for line in lines)
    assert any("Worse than `own`" in line and "experiment=other data_dir=DATA" in line for line in lines)
    assert any("`own` replaces it" in line for line in lines)
    assert any(line.startswith("- `todo`: Not run. Command: `python train.py experiment=todo") for line in lines)
    assert "Images: 500 train, 200 val, 1,000 test." in lines
    assert "| 3 | 99.0 % | 0.100 | 79.0 % | 0.700 |" in lines
    assert "- **A**: Some CPU, 2 cores (avx2), 24.0 GiB, no GPU; precision 32-true; python 3.11.2, torch 2.14.1" in page


def test_results_at_chance_level_are_explained():
    metrics = {"test/acc": 0.5, "test/auroc": 0.57}
    guesses = [made_record("own", i, correct_bits(0.5), predicted=(990, 10), metrics=metrics) for i in range(2)]
    expected = (
        "Chance is 50 %; 99.0 % of the predictions are the most frequent class; the area under the ROC curve is 0.570."
    )
    assert expected in results_page([ROW], {"own": guesses})


def test_the_table_of_the_readme():
    assert readme_table([ROW, OTHER, PENDING], some_records()).splitlines() == [
        "| experiment | lecture | Opsin, test accuracy | n |",
        "| --- | --- | --- | --- |",
        "| CIFAR-10: own network | 90 % | 90.10 % (89.85 % to 90.35 %) | 3 |",
    ]


def test_a_section_of_a_page_is_replaced_and_other_text_is_kept():
    page = "a\n<!-- results -->\nold\n<!-- /results -->\n\nb\n"
    assert with_section(page, "results", "new\n") == page.replace("old", "new")
    assert with_section("a\n", "results", "new\n") == "a\n\n<!-- results -->\nnew\n<!-- /results -->\n"


def test_the_cost_of_a_mistake():
    mistake = MISTAKES[0]
    metrics = {"test/acc": 0.9, "test/loss": 0.5, "test/ece": 0.02, "val/acc": 1.0}
    correct = [made_record(mistake.correct, i, correct_bits(0.95 + i / 1_000)) for i in range(3)]
    mistaken = [made_record(mistake.mistaken, i, correct_bits(0.9 + i / 1_000), metrics=metrics) for i in range(3)]
    found = "\n".join(cost(mistake, correct, mistaken))
    assert "worse than `mistakes_small_mnist` by 5.00 points" in found
    assert "changes the test loss by +0.000 (95 % interval over 3 seeds +0.000 to +0.000; not distinguishable" in found
    assert "validation accuracy minus test accuracy is +10.00 points" in found
    page = mistakes_page({mistake.correct.name: correct, mistake.mistaken.name: mistaken})
    assert page.count("\n- Not run.\n") == len(MISTAKES) - 1
    assert page.count("\n## ") == len(MISTAKES) + 1  # and those without training
    assert "| with the mistake | 100.00 % ± 0.00 | 90.00 % ± 0.00 | 0.500 ± 0.000 | 2.00 % ± 0.00 | 3 |" in page


def test_the_committed_pages_are_those_of_the_committed_records():
    for path, text in pages({row.name: read_row(RECORDS, row) for row in ROWS}).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: make reproduce ARGS='--no-run --write'"


def test_rows_name_each_other_and_their_records():
    names = Counter(row.name for row in ROWS)
    assert max(names.values()) == 1
    for row in ROWS:
        assert {*row.against, *([row.counterpart] if row.counterpart else [])} <= set(names)
        assert (row.counterpart is not None) == row.downloads
    assert {folder.name for folder in RECORDS.iterdir()} <= set(names)


@pytest.mark.slow
def test_every_row_is_a_valid_config_and_every_record_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("OPSIN_TARGETS", "benchmarks")
    for row in ROWS:
        source = ConfigSource.of([str(ROOT / row.flags[1])] if row.is_own else [])
        make_plan(compose(row.settings(0, tmp_path), source=source))
        for record in read_row(RECORDS, row):
            composed = compose(row.settings(record.seed, tmp_path), source=source)
            assert record.is_of(recipe_of(composed)), f"{row.name}: its experiment changed after it was run"


def test_every_experiment_of_a_mistake_is_a_row():
    files = (ROOT / "benchmarks/mistakes/configs/experiment/mistakes").glob("*.yaml")
    assert {f"mistakes/{file.stem}" for file in files} == {row.experiment for row in ROWS if row.is_own}
    assert len(MISTAKE_ROWS) > 8
    for file in ROOT.glob("benchmarks/mistakes/configs/experiment/mistakes/*.yaml"):
        lines = file.read_text(encoding="utf-8").splitlines()
        assert lines[:2] == ["# @package _global_", f"# opsin train experiment=mistakes/{file.stem}"]
        assert lines[2].startswith(("# Correct: ", "# Mistake: "))


def test_the_command_prints_and_writes_the_records(tmp_path, monkeypatch, capsys):
    write_record(tmp_path, made_record("mnist_mlp", 0, correct_bits(0.9)))
    written = {}
    monkeypatch.setattr(command, "write_atomically", lambda path, text: written.setdefault(Path(path).name, text))
    assert command.main(["--records", str(tmp_path), "--no-run", "--write", "--only", "mnist"]) == 0
    assert "mnist_mlp" in capsys.readouterr().out
    assert set(written) == {"results.md", "mistakes.md", "README.md"}
    assert "(`mnist_mlp`) | 97.8 % | 90.00 %" in written["results.md"]
    assert command.main(["--only", "nothing"]) == 1
    assert "there is no such row" in capsys.readouterr().err


def test_a_row_of_different_datasets_does_not_hide_the_others(tmp_path, monkeypatch, capsys):
    write_record(tmp_path, made_record("mnist_mlp", 0, correct_bits(0.9)))
    write_record(tmp_path, made_record("mnist_lenet5", 0, correct_bits(0.8)))
    write_record(tmp_path, made_record("mnist_lenet5", 1, correct_bits(0.8), dataset="another"))
    written = []
    monkeypatch.setattr(command, "write_atomically", lambda path, text: written.append(path))
    assert command.main(["--records", str(tmp_path), "--no-run", "--write", "--only", "mnist"]) == 1
    shown = capsys.readouterr()
    assert "90.00 %" in shown.out
    assert "mnist_lenet5: the seeds were run on different datasets" in shown.err
    assert "No page was written" in shown.err
    assert not written
