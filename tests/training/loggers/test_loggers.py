"""A run that is interrupted and resumed, in all loggers at once, with their real libraries and without a network."""

import csv
import json
import os
import socket
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import Interrupted
from opsin.runs.directory import RunDirectory
from opsin.training.loggers import Trackio
from opsin.training.loggers.base import RunFacts

pytestmark = pytest.mark.slow

SECRET = "0123456789abcdef" * 2 + "fedcba98"
TAGS = ["baseline", "7"]


@dataclass
class Network:
    """Connections that a run opens: to a proxy that every HTTP client of any process uses, and from this process."""

    proxied: list[str] = field(default_factory=list)
    direct: list[Any] = field(default_factory=list)

    def listen(self) -> int:
        server = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            while True:
                connection, _ = server.accept()
                self.proxied.append(connection.recv(200).decode(errors="replace"))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        return int(server.getsockname()[1])


@dataclass
class Logged:
    run: RunDirectory
    folder: Path
    network: Network


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    for library in ("wandb", "mlflow", "trackio"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("loggers")
    network = Network()
    proxy = f"http://127.0.0.1:{network.listen()}"
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            network.direct.append(address)
        return connect(self, address)

    run = folder / "outputs" / "run"
    run.mkdir(parents=True)
    words = (
        *(
            "model=cnn_gap",
            "datamodule.train_fraction=0.2",
            "datamodule.batch_size=54",
            "trainer.max_epochs=3",
            "trainer=cpu",
            "report=false",
        ),
        *("callbacks=no_pictures", "callbacks.progress.bar=false", "trainer.log_every_n_steps=2"),
        *(
            "logger=[tensorboard,csv,wandb,mlflow,trackio]",
            "logger.wandb.mode=offline",
            "logger.trackio.project=resumed",
            f"tags=[{','.join(TAGS)}]",
        ),
        *(f"data_dir={folder / 'data'}", f"output_dir={folder / 'outputs'}"),
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        patch.setattr(socket.socket, "connect", watched)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
            patch.setenv(name, proxy)
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("WANDB_API_KEY", SECRET)
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("OPSIN_TARGETS", "interruptions")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        stop = "+callbacks.stop={_target_: interruptions.StopAt, step: 8}"
        with pytest.raises(Interrupted):
            train(compose([*words, stop], run))
        train(from_saved(RunDirectory(run), ["callbacks.stop=null", "trainer.max_epochs=4"]))
        assert "MLFLOW_TRACKING_URI" not in os.environ
        yield Logged(RunDirectory(run), folder, network)


def test_no_logger_uses_the_network(logged: Logged) -> None:
    assert logged.network.proxied == []
    assert logged.network.direct == []


def test_secrets_are_written_nowhere(logged: Logged) -> None:
    files = [file for file in logged.folder.rglob("*") if file.is_file() and "data" not in file.parts]
    assert len(files) > 15
    assert [str(file) for file in files if SECRET.encode() in file.read_bytes()] == []


def test_no_file_is_written_outside_the_output_folders(logged: Logged) -> None:
    assert {file.name for file in logged.folder.iterdir()} <= {"outputs", "data", "home"}
    assert {file.name for file in (logged.folder / "outputs").iterdir()} == {"run", "latest", "mlflow.db"}


def test_csv_continues_without_repeating_a_step(logged: Logged) -> None:
    with (logged.run.path / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss_step"]] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [4, 9, 14, 19]
    text = (logged.run.path / "csv" / "hparams.yaml").read_text()
    assert "tags: baseline, 7" in text
    assert f"run_dir: {logged.run.path}" in text


def test_wandb_continues_its_run(logged: Logged) -> None:
    """The second process has a folder of its own, with the id of the first: `wandb sync` joins them."""
    (identifier,) = [v for k, v in json.loads((logged.run.path / "loggers.json").read_text()).items() if "wandb" in k]
    folders = sorted((logged.run.path / "wandb").glob("offline-run-*"))
    assert [folder.name.rpartition("-")[2] for folder in folders] == [identifier] * 2
    first, second = (records(next(folder.glob("*.wandb"))) for folder in folders)
    assert [run.run_id for run in first["run"]] == [identifier]
    assert list(second["run"][0].tags) == TAGS
    assert second["run"][0].project == "opsin"
    steps = [history.step.num for found in (first, second) for history in found["history"]]
    assert steps == sorted(set(steps)), "a step is repeated"
    assert max(steps) == 20
    keys = {item.key or item.nested_key[0] for history in first["history"] for item in history.item}
    assert {"train/loss_step", "lr/head", "val/acc", "trainer/global_step"} <= keys
    written = {item.key or item.nested_key[0] for summary in second["summary"] for item in summary.update}
    assert "final/test/acc" in written
    items = [item for config in first["config"] for item in config.update]
    values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
    assert values["run_dir"] == str(logged.run.path)
    assert values["optimizer.lr"] == 0.002


def records(file: Path) -> dict[str, list[Any]]:
    """The records of a file of wandb by their kind."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, list[Any]] = {name: [] for name in ("run", "history", "summary", "config")}
    for content in chunks(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind in found:
            found[kind].append(getattr(record, kind))
    return found


def chunks(data: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB after a header of seven bytes: blocks of 32 KiB, records split into parts."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a complete record or its last part
            yield parts
            parts = b""


def test_mlflow_continues_its_run(logged: Logged) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{logged.folder / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("opsin")
    (run,) = client.search_runs([experiment.experiment_id], "tags.baseline = 'true'")
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.tags["run_dir"] == str(logged.run.path)
    assert run.data.params["optimizer.lr"] == "0.002"
    assert run.data.params["model"] == "cnn_gap"
    result = logged.run.read_result()
    assert run.data.metrics["final/test/acc"] == pytest.approx(result.metrics["test/acc"])
    for name, steps in (("val/loss", [4, 9, 14, 19]), ("train/loss_step", list(range(1, 20, 2)))):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == steps


def test_trackio_continues_its_run(logged: Logged) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    [name] = SQLiteStorage.get_runs("resumed")
    assert name.startswith("run_")
    logs = SQLiteStorage.get_logs("resumed", name)
    assert [entry["step"] for entry in logs if "train/loss_step" in entry] == list(range(1, 20, 2))
    assert [entry["step"] for entry in logs if "val/loss" in entry] == [4, 9, 14, 19]
    assert logs[-1]["final/test/acc"] == pytest.approx(logged.run.read_result().metrics["test/acc"])
    config = SQLiteStorage.get_run_config("resumed", name)
    assert config["run_dir"] == str(logged.run.path)
    assert config["tags"] == "baseline, 7"


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize("first", ["a", "b"])
def test_trackio_continues_the_run_of_the_directory_and_not_another_of_the_same_name(
    first: str, tmp_path: Path
) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    project, second = f"same_name_{first}", {"a": "b", "b": "a"}[first]

    def log(folder: str, steps: Sequence[int]) -> str:
        run = RunDirectory(tmp_path / folder / "baseline")
        run.path.mkdir(parents=True, exist_ok=True)
        logger = Trackio(run, project)
        logger.log_start(RunFacts(run, {"of": folder}))
        for step in steps:
            logger.log_metrics({f"val/{folder}": step / 8}, step)
        logger.finalize("failed")
        return logger.version

    names = {folder: log(folder, [0, 1]) for folder in (first, second)}
    assert log(first, [2, 3]) == names[first]
    for folder, steps in ((first, [0, 1, 2, 3]), (second, [0, 1])):
        logs = SQLiteStorage.get_logs(project, names[folder])
        assert [(entry["step"], entry[f"val/{folder}"]) for entry in logs] == [(step, step / 8) for step in steps]
