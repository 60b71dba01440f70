"""The result of a run, `result.json`: its schema, its only writer and its only reader."""

import functools
import importlib.metadata
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.metric_registry import Metric
from opsin.runs.regular_file import read_text

SCHEMA_VERSION = 1
"""Version of the schema below; increase it for a change that older readers cannot read."""

WAY_OUT = "replace it with an intact copy, or train the run again"
"""Advice for a damaged file without which a run cannot be read."""

Status = Literal["not started", "interrupted", "failed", "finished"]


@dataclass(frozen=True)
class ImageFormat:
    """The images that a network was trained on.

    Attributes:
        image_size: (height, width) in pixels.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
        channels: Number of input channels of the network.
        resize: Resize method: `squash`, `crop` or `letterbox`.
        interpolation: `bilinear`, `bicubic` or `nearest`.
    """

    image_size: tuple[int, int] = (0, 0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: int = 0
    resize: str = "squash"
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class DataFacts(ImageFormat):
    """Facts about the data of a run.

    Attributes:
        name: Name of the dataset.
        classes: Names of the classes.
        counts: Number of images per split.
        class_counts: Number of images per split and class.
        origin: Per split `given` (by the dataset) or `carved` (split off the training images).
        bad_images: Number of images that cannot be decoded and are left out.
        bad_image_reports: Files that list them.
        fingerprint: Digest of all images and labels, and of how they are resized and split.
        dataset: Digest of all images and labels of the dataset, independent of size and split.
        source_channels: Number of channels that files are decoded to; 0 means the same as `channels`.
    """

    name: str = ""
    classes: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    class_counts: dict[str, list[int]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    bad_images: int = 0
    bad_image_reports: tuple[str, ...] = ()
    fingerprint: str = ""
    dataset: str = ""
    source_channels: int = 0

    @property
    def image_format(self) -> ImageFormat:
        """The images that the network of the run expects."""
        return ImageFormat(self.image_size, self.mean, self.std, self.channels, self.resize, self.interpolation)


@dataclass(frozen=True)
class PhaseCounts:
    """Number of trained and frozen parameters in one phase, which begins at an epoch.

    Attributes:
        epoch: Number of epochs after which the phase begins.
        stages: Stages that train in addition to the head.
        lr_factor: Factor of all learning rates.
        trainable: Number of parameters that are trained.
        frozen: Number of parameters that are not trained.
    """

    epoch: int
    stages: tuple[str, ...]
    lr_factor: float
    trainable: int
    frozen: int


@dataclass(frozen=True)
class ParameterCounts:
    """Number of parameters when training begins, and in each phase if there is more than one."""

    total: int = 0
    trainable: int = 0
    frozen: int = 0
    phases: tuple[PhaseCounts, ...] = ()


ROUNDING_SETTINGS = ("accelerator", "devices", "precision", "channels_last", "compile", "threads")
"""Attributes of `Settings` that change how values are rounded."""


@dataclass(frozen=True)
class Settings:
    """Settings that affect speed and numerical results, with every `auto` resolved.

    Attributes:
        accelerator: Type of the device: `cpu`, `cuda` or `mps`.
        devices: Number of devices, each with one process, over all machines.
        precision: Precision of Lightning, such as `32-true` or `bf16-mixed`.
        channels_last: Whether images and weights are in the memory format `torch.channels_last`.
        gradient_checkpointing: Whether activations are computed again in the backward pass to save memory.
        compile: Whether the network is compiled by `torch.compile`.
        deterministic: Value of `trainer.deterministic`.
        threads: Number of CPU threads of each process.
        wait_policy: OMP_WAIT_POLICY, which determines how threads wait for each other; it affects speed only.
        batch_size: Number of images per batch, over all devices.
        max_epochs: Value of `trainer.max_epochs`.
        augmentation: The active operations with their settings, or `none`.
        feature_cache: The decision for or against the feature cache, and its reason.
        teacher: The teacher and the weights of its losses; None if there is no teacher.
    """

    accelerator: str = ""
    devices: int = 1
    precision: str = ""
    channels_last: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    deterministic: str = "off"
    threads: int = 0
    wait_policy: str | None = None
    batch_size: int = 0
    max_epochs: int | None = None
    augmentation: str = ""
    feature_cache: str = ""
    teacher: str | None = None

    def known(self) -> dict[str, Any]:
        """Return the settings by name, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class BatchSizeResult:
    """The result of the search of `datamodule.batch_size=auto`.

    Attributes:
        batch_size: Number of images per step, over all devices.
        base_batch_size: Batch size for which the configured learning rate was chosen.
        lr_before: Configured learning rate.
        lr: Learning rate scaled to the batch size.
        rule: Rule of the scaling: `linear` or `square root`.
        tried: Images per second (CPU) or whether a step fits into memory (GPU), by batch size on one device.
    """

    batch_size: int
    base_batch_size: int
    lr_before: float
    lr: float
    rule: str
    tried: dict[int, float | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class PrecisionResult:
    """The decision of `trainer.precision=auto`.

    Attributes:
        precision: The precision, as a value of `trainer.precision`.
        reason: Why it was chosen.
        speedup: Measured speed in bfloat16 as a multiple of that in float32; None without a measurement.
    """

    precision: str
    reason: str
    speedup: float | None = None


@dataclass(frozen=True)
class Hardware:
    """The machine that a run was trained on.

    Attributes:
        cpu: Name of the CPU.
        cores: Number of logical CPU cores; None if it is not known.
        memory_gib: Size of the main memory in GiB; None if it is not known.
        gpus: Name of each GPU.
        platform: Operating system, its version and the architecture.
    """

    cpu: str = ""
    cores: int | None = None
    memory_gib: float | None = None
    gpus: tuple[str, ...] = ()
    platform: str = ""


@dataclass(frozen=True)
class MonitoredMetric:
    """The metric that selects the best epoch, and its best value."""

    metric: str
    best: float | None = None


@dataclass(frozen=True)
class Calibration:
    """The temperature of a run: probabilities are softmax(logits / temperature).

    Attributes:
        temperature: Divisor of the logits, fitted on the predictions of val; 1 changes nothing.
        reason: Why the temperature is 1; None if it was fitted.
        images: Number of images it was fitted on.
        nll: Cross-entropy on val in nats, without and with the temperature; empty if it was not fitted.
    """

    temperature: float = 1.0
    reason: str | None = None
    images: int = 0
    nll: tuple[float, ...] = ()

    def __str__(self) -> str:
        if self.reason:
            return f"1 ({self.reason})"
        return f"{self.temperature:.3f} (fitted on {self.images:,} validation images)"


@dataclass(frozen=True)
class FrozenStages:
    """Stages that were never trained, and whether it was verified that they did not change."""

    stages: tuple[str, ...] = ()
    verified: bool = False


@dataclass(frozen=True)
class StageSummary:
    """One row of the summary.

    Attributes:
        name: Name of the stage, or "head".
        output_shape: Shape of the output for one image: `(C, H, W)`, or `(num_logits,)` for the head.
        parameters: Number of parameters.
        trainable: Number of parameters that are trained.
        mult_adds: Multiply-adds for one image, including the addition of biases. Convolutions and dense layers count
            at each position of their output, other layers as in torchinfo. Operations that are not layers, such as
            the products of queries, keys and values of attention, do not count.
        receptive_field: Width in pixels of the input region that one output unit sees; None: the whole image.
    """

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable: int
    mult_adds: int
    receptive_field: int | None


@dataclass(frozen=True)
class NetworkSummary:
    """The rows of a network's stages and head, and their totals.

    Attributes:
        name: Name of the network.
        input_shape: Shape of one image, `(C, H, W)`.
        rows: One per stage, in order; the head is the last or the one before an auxiliary head.
    """

    name: str
    input_shape: tuple[int, int, int]
    rows: tuple[StageSummary, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """Number of parameters that are trained."""
        return sum(row.trainable for row in self.rows)

    @property
    def frozen(self) -> int:
        """Number of parameters that are not trained."""
        return self.parameters - self.trainable

    @property
    def mult_adds(self) -> int:
        """Multiply-adds for one image."""
        return sum(row.mult_adds for row in self.rows)


@dataclass
class RunResult:
    """The content of `result.json`. A run fills it step by step, so every field has a default.

    Tables that grow with the square of the number of classes are in separate files, see `opsin.runs.per_class`.

    Attributes:
        schema_version: Version of this schema.
        status: `not started` if there is no file; `interrupted` also while the run is in progress.
        error: Type and message of the exception of a failed run.
        metrics: Values by `<split>/<metric>`. Train and val metrics are those of the best epoch; test metrics are
            measured with the checkpoint of that epoch.
        undefined_metrics: Metrics of a measured split that its images do not define, such as the area under the ROC
            curve of images of one class; null among the metrics in the file.
        best_epoch: Number of epochs after which the best checkpoint was written; not a whole number if it was
            written within an epoch.
        epochs: Number of trained epochs.
        stopped: Why training ended before `trainer.max_epochs`; None if it did not.
        pruned: Whether a sweep ended the run early.
        monitor: The metric that selected the best epoch.
        custom_metrics: Metrics that the user registered, see `opsin.runs.metric_registry`.
        warnings: Warnings that were logged, each once, in the order of their first appearance.
        calibration: Temperature of predictions and exported files; the metrics are measured without it.
        throughput: Training images per second.
        seconds: Wall time of setup, fit, test, and total, in seconds, over all processes that resumed the run.
        parameters: Number of parameters.
        frozen: Stages that were never trained.
        weights: Description of the initial weights.
        choices: Chosen option of each config group.
        seed: Seed of the run.
        tags: Tags that the user assigned to the run.
        settings: Settings with every `auto` resolved.
        batch_size_auto: Search result of `datamodule.batch_size=auto`.
        precision_auto: Decision of `trainer.precision=auto`; a resume keeps it.
        out_of_memory: The step and the changed values of each time that `trainer.on_oom=halve` made batches smaller.
        data: Facts about the data.
        network: Summary of the network.
        hardware: The machine.
        versions: Versions of Python and of packages.
        commit: Commit of Opsin's checkout.
    """

    schema_version: int = SCHEMA_VERSION
    status: Status = "not started"
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    undefined_metrics: tuple[str, ...] = ()
    best_epoch: int | float | None = None
    epochs: int | float | None = None
    stopped: str | None = None
    pruned: bool = False
    monitor: MonitoredMetric | None = None
    custom_metrics: tuple[Metric, ...] = ()
    warnings: list[str] = field(default_factory=list)
    calibration: Calibration | None = None
    throughput: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    parameters: ParameterCounts | None = None
    frozen: FrozenStages | None = None
    weights: str | None = None
    choices: dict[str, str | None] = field(default_factory=dict)
    seed: int | None = None
    tags: tuple[str, ...] = ()
    settings: Settings | None = None
    batch_size_auto: BatchSizeResult | None = None
    precision_auto: PrecisionResult | None = None
    out_of_memory: tuple[dict[str, Any], ...] = ()
    data: DataFacts | None = None
    network: NetworkSummary | None = None
    hardware: Hardware | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None

    def without_outcome(self) -> "RunResult":
        """Return a copy without the fields that training and testing produce again after a resume."""
        measured = ("metrics", "undefined_metrics", "best_epoch", "epochs", "monitor")
        outcome = ("error", "stopped", "pruned", "calibration", *measured)
        return replace(self, **{name: getattr(RunResult(), name) for name in outcome})

    @property
    def tested(self) -> bool:
        """Whether the run has measured the test images, which a run with `test=false` does not read."""
        return any(name.startswith("test/") for name in (*self.metrics, *self.undefined_metrics))

    @property
    def temperature(self) -> float:
        """Divisor of the logits for the probabilities of predictions; 1 if the run has not recorded one."""
        return self.calibration.temperature if self.calibration else 1.0


def read_result(file: Path) -> RunResult:
    """Return the content of a `result.json`; its status is `not started` if there is no file.

    Raises:
        UserError: The file is damaged, or another version of the schema wrote it.
    """
    try:
        content = json.loads(read_text(file, WAY_OUT))
    except FileNotFoundError:
        return RunResult()
    except RecursionError:
        raise _damaged(file, "its values are nested too deeply") from None
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(content, dict):
        raise _damaged(file, f"it holds {json.dumps(content)[:40]} instead of an object")
    _check_version(file, content)
    if isinstance(metrics := content.get("metrics"), dict):
        content["undefined_metrics"] = [name for name, value in metrics.items() if value is None]
        content["metrics"] = {name: value for name, value in metrics.items() if value is not None}
    return _parsed(file, content)


def write_result(file: Path, result: RunResult) -> None:
    """Write a `result.json`."""
    write_atomically(file, result_text(result))


def result_text(result: RunResult) -> str:
    """Return the content of a `result.json`, without the fields of `RunResult` that are None or an empty collection."""
    content = {name: value for name, value in asdict(result).items() if value not in (None, {}, [], ())}
    if undefined := content.pop("undefined_metrics", None):
        content["metrics"] = {**result.metrics, **dict.fromkeys(undefined)}
    return json.dumps(content, indent=2) + "\n"


def _check_version(file: Path, content: dict[str, Any]) -> None:
    version = content.get("schema_version")
    if version == SCHEMA_VERSION:
        return
    versions = content.get("versions")
    writer = versions.get("opsin") if isinstance(versions, dict) else None
    raise UserError(
        f"{file.parent} was written by {f'Opsin {writer}' if writer else 'another version of Opsin'} with "
        f"{f'schema version {version}' if version is not None else 'no schema version'} in {file.name}; this version, "
        f"{importlib.metadata.version('opsin')}, reads schema version {SCHEMA_VERSION}: train the run again, or open "
        "it with the version of Opsin that wrote it"
    )


def _parsed(file: Path, content: dict[str, Any]) -> RunResult:
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(content)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _damaged(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@functools.cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(RunResult)


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file} is damaged ({reason}): {WAY_OUT}")
