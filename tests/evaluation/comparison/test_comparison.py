import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import html5lib
import numpy as np
import pytest
import yaml
from made_runs import made_run
from numpy.typing import NDArray

from opsin.commands.compare import main
from opsin.errors import UserError
from opsin.evaluation.comparison.comparison import compare, curve, flips
from opsin.evaluation.comparison.console import print_comparison
from opsin.evaluation.comparison.page import write_comparison
from opsin.runs.directory import RunDirectory
from opsin.runs.predictions import Predictions, read_predictions
from opsin.runs.rich_console import TerminalConsole

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "compare.py"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A classifies images 0 to 89 of 100 correctly, B all but 0 to 19 and 95 to 99."""
    made_run(
        tmp_path / "runs" / "b", [20 <= i < 95 for i in range(100)], overrides=["optimizer.lr=0.5", "model.name=<b>"]
    )
    made_run(tmp_path / "runs" / "a", [i < 90 for i in range(100)], epochs=(0.2, 0.6))
    return tmp_path / "runs"


def test_flips_are_the_images_that_only_one_run_classifies_correctly(two: Path) -> None:
    (result,) = compare([two]).pairwise
    found = flips(result, count=4)
    # The most confident come first, and confidence grows with the position.
    assert [flip.position for flip in found.only_a] == [19, 18, 17, 16]
    assert [flip.position for flip in found.only_b] == [94, 93, 92, 91]
    first = found.only_b[0]
    assert (first.path, first.target, first.predicted) == ("<94>.png", "dog", ("emu", "dog"))
    assert first.probabilities[0] == pytest.approx(np.exp(1.94) / (2 + np.exp(1.94)))


def test_the_page_links_the_report_of_a_run_whose_name_is_not_utf8(tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(b"k\xe4fer 1")
    made_run(run, [True, False])
    (run / "report.html").write_text("a report")
    page = write_comparison(compare([tmp_path]), tmp_path / "c.html").read_text(encoding="utf-8")
    assert 'href="k%E4fer%201/report.html"' in page


def test_only_differing_values_are_listed(two: Path) -> None:
    comparison = compare([two])
    assert {d.key: d.values for d in comparison.config} == {
        "optimizer.lr": ("0.002", "0.5"),
        "model.name": ("", "<b>"),
    }
    assert comparison.environment == ()


def test_curves_are_means_over_seeds(tmp_path: Path) -> None:
    made_run(tmp_path / "0", [True], overrides=["seed=0"], epochs=(0.5, 0.7, 0.9))
    made_run(tmp_path / "1", [True], overrides=["seed=1"], epochs=(0.3, 0.5))
    (row,) = compare([tmp_path]).leaderboard.rows
    epochs, values = curve(row, "val/acc")
    assert epochs == [1, 2, 3]
    assert values == pytest.approx([0.4, 0.6, 0.9])


def test_the_dict_is_valid_json(two: Path) -> None:
    (two / "broken").mkdir()
    (two / "broken" / "error.txt").write_text("no")
    facts = json.loads(json.dumps(compare([two]).as_dict(), allow_nan=False))
    assert [row["metrics"]["test/acc"]["estimate"] for row in facts["rows"]] == [0.9, 0.75]
    assert facts["rows"][0]["metrics"]["test/acc"]["low"] is None
    assert facts["pairwise"][0]["better"] == "A"
    assert facts["pairwise"][0]["run_pairs"][0]["only_a"] == 20
    assert [record["status"] for record in facts["without_result"]] == ["failed"]


def test_the_page_is_valid_and_loads_nothing_from_the_network(two: Path, tmp_path: Path) -> None:
    asked = []

    def thumbnails(run: RunDirectory, split: str, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.append((run.path.name, split, positions.tolist()))
        return np.zeros((len(positions), 8, 8, 1), np.uint8)

    (two / "a" / "report.html").write_text("a report")
    (two / "job").mkdir()
    (two / "job" / "error.txt").write_text("<script>alert(1)</script>")
    page = write_comparison(compare([two]), tmp_path / "pages" / "c.html", thumbnails, "python <x>").read_text()
    assert "A is better than B." in page
    html5lib.HTMLParser(strict=True).parse(page)
    assert page.count('src="data:image/png;base64,') == 13 == len(asked[0][2])  # 8 of 20, and 5
    assert asked == [("a", "test", [19, 18, 17, 16, 15, 14, 13, 12, 94, 93, 92, 91, 90])]
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "http" not in page.replace('http-equiv="', "")
    assert 'href="../runs/a/report.html"' in page


@pytest.mark.parametrize(
    ("better", "sentence"),
    [
        (1, "B classifies more images correctly."),
        (2, "B and C classify more images correctly."),
        (3, "B, C and D classify more images correctly."),
    ],
)
def test_the_summary_uses_singular_and_plural_verbs(tmp_path: Path, better: int, sentence: str) -> None:
    for i in range(better + 1):  # the first by loss is the least accurate
        correct = [j < 60 + 30 * (i > 0) for j in range(100)]
        made_run(tmp_path / str(i), correct, config={"model.of": i}, result={"metrics": {"test/loss": 0.1 * (i + 1)}})
    page = write_comparison(compare([tmp_path], "test/loss"), tmp_path / "c.html").read_text()
    assert sentence in page


def test_the_page_states_the_reason_for_missing_images(two: Path, tmp_path: Path) -> None:
    def thumbnails(run: RunDirectory, split: str, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        raise UserError("the photographs are gone")

    page = write_comparison(compare([two]), tmp_path / "c.html", thumbnails).read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    assert "The images cannot be shown: the photographs are gone" in page
    assert "&lt;94&gt;.png" in page


def test_without_flips_no_image_is_read(tmp_path: Path) -> None:
    for name in "ab":
        made_run(tmp_path / name, [True, False, True], config={"model.of": name})

    def thumbnails(*_: object) -> NDArray[np.uint8]:
        raise AssertionError

    page = write_comparison(compare([tmp_path]), tmp_path / "c.html", thumbnails).read_text()
    assert "both classify the same images correctly" in page


@pytest.mark.parametrize("metric", ["test/acc", "val/acc"])
def test_every_state_of_runs_has_a_table_and_a_page(tmp_path: Path, metric: str) -> None:
    for i in range(9):  # more than the page shows open, the charts draw and the terminal prints
        made_run(tmp_path / f"run{i}", [j > i for j in range(50)], overrides=[f"optimizer.lr={i}"])
    made_run(tmp_path / "old", None, overrides=["optimizer.lr=10"])
    made_run(tmp_path / "other", [True], images="other", overrides=["seed=4", "model.name='[layer4]'"])
    made_run(tmp_path / "failed", result={"status": "failed", "error": "[bold]no[/bold]", "metrics": {}})
    comparison = compare([tmp_path], metric)
    page = write_comparison(comparison, tmp_path / "c.html").read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    for width in (60, 200):
        console = TerminalConsole(width=width, record=True, file=io.StringIO())
        print_comparison(comparison, console)
        printed = console.export_text()
        assert "[bold]no[/bold]" in printed
        assert "[layer4]" in printed or width == 60  # folded
        assert max(len(line) for line in printed.splitlines()) <= width


def test_only_failed_runs_are_listed(tmp_path: Path) -> None:
    made_run(tmp_path / "failed", result={"status": "failed", "error": "no", "metrics": {}})
    comparison = compare([tmp_path])
    assert (comparison.leaderboard.rows, comparison.pairwise) == ((), ())
    page = write_comparison(comparison, tmp_path / "c.html").read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    assert "Runs without a result" in page


@pytest.mark.slow
def test_the_command_compares_without_torch(two: Path) -> None:
    code = f"import sys; sys.argv[1:] = [{str(two)!r}, '--json']; import runpy\ntry: runpy.run_path({str(SCRIPT)!r}, "
    code += "run_name='__main__')\nfinally: assert not {'torch', 'lightning', 'matplotlib.pyplot'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairwise"][0]["conclusion"] == "A is better than B"
    assert not (two / "comparison.html").exists()


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_the_page_shows_the_images_whose_predictions_flip(
    digits_run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = RunDirectory(tmp_path / "other")
    shutil.copytree(digits_run.path, other.path)
    config = yaml.safe_load(digits_run.config.read_text())
    config["optimizer"]["lr"] = 0.5
    other.config.write_text(yaml.safe_dump(config))
    kept = read_predictions(digits_run, "test")
    flipped = np.flatnonzero(kept.correct)[[3, 5]]
    logits = kept.logits.copy()
    logits[flipped] = np.roll(logits[flipped], 1, axis=1)
    Predictions("test", kept.classes, logits, kept.targets, kept.positions, kept.paths, kept.images).write(other)
    assert main([str(digits_run.path), str(other.path), "--out", str(tmp_path / "c.html")]) == 0
    assert "Only A classifies 2 images correctly, only B 0 images" in " ".join(capsys.readouterr().out.split())
    page = html5lib.parse((tmp_path / "c.html").read_text(), namespaceHTMLElements=False)
    assert len(page.findall(".//img")) == 2
    assert {image.get("title") for image in page.findall(".//img")} == {kept.paths[i] for i in flipped}
    assert [image.get("src")[:22] for image in page.findall(".//img")] == ["data:image/png;base64,"] * 2


def test_a_page_that_cannot_be_written_is_an_error(two: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give a file, such as"):
        write_comparison(compare([two]), two)
    with pytest.raises(UserError, match=r"config\.yaml is a file, not a folder; set --out"):
        write_comparison(compare([two]), two / "a" / "config.yaml" / "c.html")


def test_tags_are_shown_and_select_runs(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(two / "c", [True] * 100, overrides=["seed=1"], result={"tags": ("paper", "<b>x")})
    made_run(two / "d", [True] * 100, overrides=["optimizer.lr=0.7"], result={"tags": ("paper", "draft")})
    comparison = compare([two])
    assert {row["name"]: row["tags"] for row in comparison.as_dict()["rows"]}["cnn_gap optimizer.lr=0.7"] == [
        *("paper", "draft")
    ]
    page = write_comparison(comparison, tmp_path / "all.html").read_text()
    assert "paper, &lt;b&gt;x" in page
    assert main([str(two), "--tag", "paper", "--tag", "draft", "--out", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert "paper, draft" in printed
    assert "<b>x" not in printed
    assert len(compare([two], tags=["paper"]).leaderboard.rows) == 2
    for tags, said in (
        (["papper"], r"--tag papper: .* did you mean paper\?"),
        (["<b>x", "draft"], "all of these tags"),
    ):
        with pytest.raises(UserError, match=said):
            compare([two], tags=tags)
    with pytest.raises(UserError, match="None of these runs has tags"):
        compare([two / "a"], tags=["paper"])


def test_runs_without_tags_have_no_column_for_them(two: Path) -> None:
    console = TerminalConsole(file=io.StringIO(), width=200)
    print_comparison(compare([two]), console)
    assert "tags" not in console.file.getvalue()


def test_the_page_names_the_runs_that_do_not_count_and_the_reasons(tmp_path: Path) -> None:
    for name, correct, seed in (("old", [True], 0), ("new", [True], 0), ("untested", None, 1)):
        run = made_run(tmp_path / name, correct, overrides=[f"seed={seed}"], origin="carved")
        os.utime(run.result, (1, 1) if name == "old" else None)
    page = html5lib.parse(write_comparison(compare([tmp_path]), tmp_path / "c.html").read_text())
    text = " ".join(" ".join(page.itertext()).split())
    newest = "only the newest of them with test/acc counts"
    assert f"Ignored, because another run has the same config and seed, and {newest}: {tmp_path / 'old'} ." in text
    assert f"because it has no test/acc, unlike other runs of its recipe: {tmp_path / 'untested'} ." in text
