"""Training in a Jupyter kernel: plain lines of progress, errors of one line, and a stop button that saves the run."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

CELLS = (
    """
import os, signal, threading, time
from pathlib import Path
import opsin

def stop():
    while not list(Path("outputs").glob("*/*/checkpoints/last.ckpt")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)  # as the stop button does

threading.Thread(target=stop, daemon=True).start()
words = ["model=mlp", "datamodule.train_fraction=0.2", "trainer=cpu", "report=false", "logger=none"]
opsin.train(*words, trainer={"max_epochs": 100_000}, callbacks={"early_stopping": None})
""",
    """
run = Path("outputs", "latest")
epochs = len(opsin.load(run).run.history)
opsin.train(resume=run, trainer={"max_epochs": epochs + 1})
""",
    'opsin.train("model=mpl")',
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own packages
def test_training_in_a_kernel_prints_plain_lines_and_can_be_stopped_and_resumed(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(book, timeout=300, allow_errors=True).execute(cwd=str(in_tmp))
    stopped, resumed, mistaken = (cell.outputs for cell in book.cells)

    printed = "".join(output.text for output in (*stopped, *resumed) if output.output_type == "stream")
    assert "epoch 1/100000  train/loss" in printed
    assert "\x1b" not in printed
    assert "\r" not in printed
    assert not [output for output in (*stopped, *resumed) if output.get("name") == "stderr"]

    [error] = [output for output in stopped if output.output_type == "error"]
    assert error.ename == "KeyboardInterrupt"
    assert "resume with opsin.train(resume=" in error.evalue
    assert not [output for output in resumed if output.output_type == "error"]
    *_, table = [output.data["text/html"] for output in resumed if "text/html" in output.get("data", {})]
    assert "finished" in table

    [error] = [output for output in mistaken if output.output_type == "error"]
    assert "did you mean model=mlp" in error.traceback[0]
    assert len(error.traceback) == 1
    assert "File" not in error.traceback[0]
