"""The comparison of runs as a table."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_runs import made_run
from omegaconf import OmegaConf

import opsin

RNG = np.random.default_rng(0)


def test_the_table_ranks_recipes(tmp_path: Path) -> None:
    good = [made_run(tmp_path / f"good{seed}", RNG.random(300) < 0.95, config={"seed": seed}) for seed in (0, 1)]
    bad = made_run(tmp_path / "bad", RNG.random(300) < 0.6, overrides=["optimizer.lr=0.5"])
    found = opsin.compare([good[0].path, SimpleNamespace(path=good[1].path), str(bad.path)])
    table = found.table
    assert list(table.index) == ["A", "B"]
    assert list(table["rank"]) == [1, 2]
    assert list(table["runs"]) == [2, 1]
    accuracies = [run.read_result().metrics["test/acc"] for run in (*good, bad)]
    assert table["test/acc"]["A"] == pytest.approx(sum(accuracies[:2]) / 2)
    assert table["test/acc"]["B"] == accuracies[2]
    assert {"recipe", "val/acc", "test/loss", "parameters", "images_per_second", "seconds"} < set(table.columns)
    assert table["paths"]["B"] == [bad.path]
    assert any("A is better than B" in sentence or "better" in sentence for sentence in found.conclusions)
    assert repr(found) == "<RunComparison of 2 recipes by test/acc>"
    assert found.conclusions[0] in str(found)
    assert "optimizer.lr=0.5" in str(found)
    assert str(bad.path) not in str(found)
    html = found._repr_html_()
    assert all(text in html for text in ("<table>", "optimizer.lr=0.5", f"{accuracies[2]:.2%}".replace("%", " %")))
    page = found.write(tmp_path / "page.html")
    assert "optimizer.lr=0.5" in page.read_text(encoding="utf-8")
    by_loss = opsin.compare(tmp_path, metric="test/loss")  # a folder of runs
    assert by_loss.table.columns[2] == "test/loss"
    assert by_loss.table["test/loss"].is_monotonic_increasing


def test_invalid_runs_and_metrics_are_refused(tmp_path: Path) -> None:
    for runs in ([], [tmp_path / "nowhere"], tmp_path):
        with pytest.raises(opsin.UserError):
            opsin.compare(runs)
    for mistake in (3, [3], b"runs", [None]):
        with pytest.raises(opsin.UserError, match="is not a run: give a run directory"):
            opsin.compare(mistake)  # type: ignore[arg-type]
    run = made_run(tmp_path / "run", [True, False])
    with pytest.raises(opsin.UserError, match=r"^metric test/accuracy: .*did you mean test/acc\?"):
        opsin.compare(run.path, metric="test/accuracy")
    with pytest.raises(opsin.UserError, match=r"is a folder; give a file, such as .*run/comparison\.html$"):
        opsin.compare(run.path).write(run.path)
    untested = made_run(tmp_path / "untested", config={"model.of": 1})
    [conclusion] = opsin.compare([run.path, untested.path]).conclusions
    assert conclusion.endswith("which it has: --metric val/acc (in Python, metric='val/acc').")


@pytest.mark.parametrize("kind", [str, Path])
def test_the_page_is_written_below_the_home_of_the_user(
    kind: type, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(in_tmp / "home"))
    run = made_run(in_tmp / "home" / "run", [True, False])
    page = opsin.compare(kind("~/run")).write(kind("~/pages/all.html"))
    assert page == in_tmp / "home" / "pages" / "all.html"
    assert page.is_file()
    assert run.path.is_dir()
    assert not (in_tmp / "~").exists()


@pytest.mark.slow
def test_a_comparison_loads_no_torch(tmp_path: Path) -> None:
    made_run(tmp_path / "run", [True, False])
    code = f"import opsin, sys; opsin.compare({str(tmp_path)!r}).table; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_resolvers_of_the_caller_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "abc")
    paths = [made_run(tmp_path / name, [True, False]).path for name in "ab"]
    value = lambda: OmegaConf.create({"a": "${oc.env:MY_TOKEN}"}).a  # noqa: E731
    found = opsin.compare(paths)
    assert value() == "abc"
    with pytest.raises(opsin.UserError):
        opsin.compare(paths, "test/nothing")
    assert value() == "abc"
    found.write(tmp_path / "page.html")
    assert value() == "abc"
