"""Records of finished runs: small JSON files that are committed, one per row and seed."""

import base64
import json
import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from benchmarks.reproduce.rows import Row
from opsin.errors import UserError
from opsin.evaluation.comparison.run_records import read_record
from opsin.runs.atomic import write_atomically
from opsin.runs.digests import digest_of
from opsin.runs.directory import RunDirectory
from opsin.runs.flat_keys import Scalar
from opsin.runs.result import Hardware

CURVES = ("train/acc", "train/loss", "val/acc", "val/loss")
"""Metrics of each epoch that a record keeps."""

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "fma", "asimd", "sve", "bf16")
"""Flags of a CPU that decide how fast it multiplies matrices."""

SAMPLE_SEED = "datamodule.subset_seed"
"""Key of the seed with which a dataset samples its images; rows can set it to the seed of the run."""

EpochMetrics = dict[str, list[float | None]]


@dataclass(frozen=True)
class Record:
    """What is kept of one finished run.

    Attributes:
        row: Name of the row.
        seed: Seed.
        command: Command of the run.
        config: Every value that affects the trained network, by dotted key.
        config_digest: Digest of `config`.
        metrics: Metrics of the best epoch, and of the test with its checkpoint.
        best_epoch: Number of epochs after which the tested checkpoint was written.
        curves: Metrics of each epoch (`CURVES`); None where a metric was not measured.
        counts: Number of images per split.
        dataset: Digest of the dataset.
        images: Digest of the test images.
        correct: Whether each test image is classified correctly: packed bits, compressed, in base 64.
        predicted: Number of test images that each class was predicted for.
        parameters: Number of parameters, and how many of them train.
        seconds: Wall time of setup, fit, test and total.
        load: Mean number of cores that other programs used during the run, or None if unknown. Records of commits up to
            4804d6cc have the load average of the minute before the run.
        hardware: The machine.
        cpu_flags: Those of `FLAGS` that its CPU has.
        settings: Precision, number of threads and the like.
        versions: Versions of Python and of packages.
        commit: Commit of Opsin.
    """

    row: str
    seed: int
    command: str
    config: dict[str, Scalar]
    config_digest: str
    metrics: dict[str, float]
    best_epoch: float | None
    curves: EpochMetrics
    counts: dict[str, int]
    dataset: str
    images: str
    correct: str
    predicted: tuple[int, ...]
    parameters: dict[str, int]
    seconds: dict[str, float]
    load: float | None
    hardware: Hardware
    cpu_flags: tuple[str, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str | None

    @property
    def test_correct(self) -> NDArray[np.bool_]:
        """Whether each test image is classified correctly `(N,)`."""
        packed = np.frombuffer(zlib.decompress(base64.b64decode(self.correct)), np.uint8)
        return np.unpackbits(packed, count=self.counts["test"]).astype(bool)

    def is_of(self, config: Mapping[str, Scalar]) -> bool:
        """Return whether the run had a config."""
        return agree(self.config, config)


def agree(config: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> bool:
    """Return whether two configs agree; a key that only one of them has is new or gone, and does not count."""
    return all(other[key] == value for key, value in config.items() if key in other)


def pack(correct: NDArray[np.bool_]) -> str:
    """Return bits as compressed text."""
    return base64.b64encode(zlib.compress(np.packbits(correct).tobytes(), 9)).decode()


def config_digest(config: Mapping[str, Scalar]) -> str:
    """Return the digest of a config."""
    return digest_of(json.dumps(dict(sorted(config.items()))).encode())


def record_of(row: Row, seed: int, run: RunDirectory, load: float | None) -> Record:
    """Return the record of a finished run.

    Raises:
        UserError: The run has not finished, or has no predictions of its test images.
    """
    found = read_record(run)
    result, predictions = found.result, found.predictions("test")
    if found.status != "finished" or result.data is None or predictions is None:
        raise UserError(f"{run.path} is not a finished run with test predictions: {found.reason or found.status}")
    counts = result.parameters
    return Record(
        row=row.name,
        seed=seed,
        command=row.command.replace("seed=0", f"seed={seed}"),
        config=dict(found.config),
        config_digest=config_digest(found.config),
        metrics=result.metrics,
        best_epoch=result.best_epoch,
        curves={name: [_short(epoch.get(name)) for epoch in found.history] for name in CURVES},
        counts=result.data.counts,
        dataset=result.data.dataset,
        images=str(found.images_digest("test")),
        correct=pack(predictions.correct),
        predicted=tuple(np.bincount(predictions.predicted, minlength=len(predictions.classes)).tolist()),
        parameters={"total": counts.total, "trainable": counts.trainable} if counts else {},
        seconds=result.seconds,
        load=load,
        hardware=result.hardware or Hardware(),
        cpu_flags=cpu_flags(),
        settings=result.settings.known() if result.settings else {},
        versions=result.versions,
        commit=result.commit,
    )


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def cpu_flags() -> tuple[str, ...]:
    """Return those of `FLAGS` that the CPU of this machine has; none if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return (platform.machine(),)
    own = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(flag for flag in FLAGS if flag in own)


def file_of(folder: Path, row: str, seed: int) -> Path:
    """Return the path of a record."""
    return folder / row / f"seed{seed}.json"


def write_record(folder: Path, record: Record) -> None:
    """Write a record; an interrupted write leaves no file, or the one before."""
    text = json.dumps(asdict(record), separators=(",", ":")).replace('],"', '],\n"').replace('},"', '},\n"')
    write_atomically(file_of(folder, record.row, record.seed), text + "\n")


def read_seed(folder: Path, row: str, seed: int) -> Record | None:
    """Return the record of a row and a seed; None if it is missing or damaged, so that the run is done again."""
    file = file_of(folder, row, seed)
    try:
        record = TypeAdapter(Record).validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    intact = record.config_digest == config_digest(record.config) and (record.row, record.seed) == (row, seed)
    return record if intact else None


def read_row(folder: Path, row: Row) -> list[Record]:
    """Return the records of a row by seed.

    Raises:
        UserError: They are of different datasets. Samples of a dataset (`SAMPLE_SEED`) may differ between seeds.
    """
    files = (folder / row.name).glob("seed*.json")
    seeds = sorted(int(file.stem[4:]) for file in files if file.stem[4:].isdigit())
    found = [record for seed in seeds if (record := read_seed(folder, row.name, seed)) is not None]
    datasets = {(record.config.get(SAMPLE_SEED), record.dataset) for record in found}
    if len(datasets) > len({sample for sample, _ in datasets}):
        raise UserError(f"{folder / row.name}: the seeds were run on different datasets; delete the records of one")
    return found


def read_rows(folder: Path, rows: Sequence[Row]) -> tuple[dict[str, list[Record]], list[str]]:
    """Return the records of each row by name, and a message for each row whose records cannot be used together."""
    found: dict[str, list[Record]] = {}
    problems = []
    for row in rows:
        try:
            found[row.name] = read_row(folder, row)
        except UserError as error:
            found[row.name] = []
            problems.append(str(error))
    return found, problems
