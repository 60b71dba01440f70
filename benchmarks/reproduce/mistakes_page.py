"""docs/mistakes.md: each mistake of the lectures' code as an experiment, and its measured cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.reproduce.conclusions import between_rows, metric_difference, percent, points
from benchmarks.reproduce.lecture_rows import RESULTS
from benchmarks.reproduce.records import Record
from benchmarks.reproduce.results_page import GENERATED, NOT_RUN, Records
from benchmarks.reproduce.rows import OWN_CONFIGS, DataName, Row
from benchmarks.tables import markdown_table
from opsin.evaluation.confidence_intervals import Interval, interval_over_runs

GROUP = "mistakes"
METRICS = ("val/acc", "test/acc", "test/loss", "test/ece")


@dataclass(frozen=True)
class Mistake:
    """A mistake, with the correct experiment and the one that makes the mistake.

    Attributes:
        title: Title of its section.
        text: Description of the mistake, and of what Opsin does instead.
        correct: The correct experiment.
        mistaken: The same experiment with the mistake.
    """

    title: str
    text: str
    correct: Row
    mistaken: Row


def _own(name: str, data: DataName = "mnist", seeds: int = 5) -> Row:
    """Return the row of an experiment of `OWN_CONFIGS`."""
    return Row(f"mistakes_{name}", name, GROUP, data, f"mistakes/{name}", seeds=seeds)


def _of_results(name: str) -> Row:
    """Return a row of docs/results.md."""
    return next(row for row in RESULTS if row.name == name)


SMALL, HEAD_ROW = _own("small_mnist"), _own("pretrained_head", "cats_vs_dogs", 3)
MISTAKES = (
    Mistake(
        "Validation on the training images",
        "The validation loader reads the training set. Validation accuracy then measures memorization, and the epoch "
        "is selected by it. Opsin splits validation images off the training images.",
        SMALL,
        _own("validation_on_train"),
    ),
    Mistake(
        "Swapped parts of a random split",
        "The code assigns the small part of a random split to training and the large part to testing, so the network "
        "is trained on 468 images. The recipe is the same in both rows. Opsin names the parts by their use "
        "(`datamodule.val_fraction`, `datamodule.test_fraction`), and the log states their sizes before training. "
        "The test images of the two rows differ, so they are not compared image by image.",
        _of_results("cats_vs_dogs_strided"),
        _of_results("cats_vs_dogs_strided_468"),
    ),
    Mistake(
        "Selection on the test images",
        "The epoch with the best result on the test images is selected, and that result is reported. The networks of "
        "both rows are trained in the same way; only the selected epoch differs. In Opsin no test metric can be "
        "monitored, and the test images are read once.",
        _own("small_test_set"),
        _own("selection_on_test"),
    ),
    Mistake(
        "Augmented validation and test images",
        "One transform with augmentation prepares all splits, so validation and test images are augmented too. Opsin "
        "augments only training batches.",
        _own("augmented_training"),
        _own("augmented_validation"),
    ),
    Mistake(
        "Missing normalization",
        "A pretrained network gets pixels in [0, 1] that are not normalized by the mean and standard deviation of its "
        "weights. Opsin normalizes by them.",
        HEAD_ROW,
        _own("missing_normalization", "cats_vs_dogs", 3),
    ),
    Mistake(
        "Frozen network in train mode",
        "The weights of the backbone are frozen, but the network stays in train mode: BatchNorm normalizes by the "
        "batch, and its running statistics change with every batch. In Opsin a frozen stage stays in evaluation mode, "
        "and Opsin checks bit for bit that it has not changed.",
        HEAD_ROW,
        _own("frozen_batchnorm_in_train_mode", "cats_vs_dogs", 3),
    ),
    Mistake(
        "Normalized logits",
        "BatchNorm is the last layer, so it normalizes the logits and limits the confidence of the network. "
        "`model=strided_cnn` has this layer, as in the lecture; the network of the correct row does not have it.",
        _own("plain_logits"),
        _of_results("mnist_strided_cnn"),
    ),
    Mistake(
        "Evaluation in train mode, MNIST",
        "The code never calls `eval()`, so BatchNorm normalizes each test batch by its own statistics. Opsin always "
        "evaluates in evaluation mode.",
        _of_results("mnist_strided_cnn"),
        _of_results("mnist_strided_cnn_train_mode"),
    ),
    Mistake(
        "Evaluation in train mode, 468 cats and dogs",
        "The same mistake in a training of only 20 steps, after which the running statistics lag behind, and with "
        "dropout. See also [the results](results.md).",
        _of_results("cats_vs_dogs_strided_468"),
        _of_results("cats_vs_dogs_strided_468_train_mode"),
    ),
)
"""The mistakes, in the order of the page."""

MISTAKE_ROWS = tuple(
    dict.fromkeys(row for mistake in MISTAKES for row in (mistake.correct, mistake.mistaken) if row.group == GROUP)
)
"""The rows that only this page shows."""

HEAD = f"""# Mistakes of the lectures' code, and their cost

{GENERATED}

Each mistake is an experiment beside its correct counterpart. The experiments and their code are in
`benchmarks/mistakes`, outside of the package: an ordinary run cannot make these mistakes. `OPSIN_TARGETS=benchmarks`
permits the code, and `--config-dir {OWN_CONFIGS}` adds the experiments:

    OPSIN_TARGETS=benchmarks python train.py --config-dir {OWN_CONFIGS} experiment=mistakes/validation_on_train

Values are means over n seeds with 95 % intervals by Student's t. [Results](results.md) explains the tests.
"""


UNTRAINED = """## Mistakes that need no training

- **Reporting the validation images that selected the epoch.** Of many epochs, the best one by validation accuracy is
  partly best by chance, as the section on test images shows. Opsin reports the test images, which select nothing.
- **A dense layer of the wrong size.** The network with BatchNorm pools twice, but its dense layer has the inputs of one
  pooling, so it cannot run on 32 x 32 pixels. Opsin computes the size:
  `python scripts/summary.py model=cnn_batchnorm --image 3x32x32`.
- **"512 trainable parameters."** A head with one logit on 512 features has 513, because of the bias:
  `python scripts/summary.py model=resnet18_feature_extract --logits 1`.
- **A resized crop with a scale above 1.** It has no effect, because no crop is larger than the image. Opsin refuses it:
  `augmentation.resized_crop_scale` must lie in (0, 1].
- **A receptive field that grows by n + 2 per layer.** Each 3 x 3 convolution widens it by 2. Three have 7 pixels:
  `python scripts/summary.py model=cnn_kernels 'model.kernels=[3,3,3]'`.
- **A dilated convolution that downsamples.** It does not; only the stride does. 28 pixels stay 28:
  `python scripts/convolve.py --sizes 28 3 --padding same --dilation 2`.
"""


def mistakes_page(records: Records) -> str:
    """Return docs/mistakes.md."""
    return "\n".join([HEAD, *(_section(mistake, records) for mistake in MISTAKES), UNTRAINED])


def _section(mistake: Mistake, records: Records) -> str:
    pair = (mistake.correct, mistake.mistaken)
    correct, mistaken = (records.get(row.name, ()) for row in pair)
    body = [
        (label, *(_value(found, metric) for metric in METRICS), str(len(found)))
        for label, found in (("correct", correct), ("with the mistake", mistaken))
    ]
    table = "\n".join(markdown_table(("", "val accuracy", "test accuracy", "test loss", "test ECE", "n"), body))
    commands = "\n".join(f"- {label}: `{row.command}`" for label, row in zip(("correct", "mistake"), pair, strict=True))
    verdict = "\n".join(f"- {sentence}" for sentence in cost(mistake, correct, mistaken))
    return f"## {mistake.title}\n\n{mistake.text}\n\n{table}\n\n{verdict}\n{commands}\n"


def cost(mistake: Mistake, correct: Sequence[Record], mistaken: Sequence[Record]) -> list[str]:
    """Return what a mistake costs, as sentences."""
    if not correct or not mistaken:
        return ["Not run."]
    accuracy = between_rows(mistaken, mistake.correct.name, correct)
    found = [f"Test accuracy with the mistake: {accuracy[0].lower()}{accuracy[1:]}"] if accuracy else []
    for metric, title, unit in (("test/loss", "test loss", 1), ("val/acc", "validation accuracy", 100)):
        difference = metric_difference(metric, mistaken, correct)
        if difference is not None:
            found.append(f"The mistake changes the {title} by {_change(*difference, unit)}.")
    optimism = [record.metrics["val/acc"] - record.metrics["test/acc"] for record in mistaken]
    if len(optimism) > 1:
        over = interval_over_runs(optimism)
        found.append(
            f"With the mistake, validation accuracy minus test accuracy is {100 * over.estimate:+z.2f} points "
            f"(95 % interval {points(over)})."
        )
    return found


def _change(difference: Interval, seeds: int, unit: int) -> str:
    value, low, high = (unit * end for end in (difference.estimate, difference.low, difference.high))
    distinguishable = "" if low > 0 or high < 0 else "; not distinguishable from 0"
    places, kind = (2, " points") if unit == 100 else (3, "")
    interval = f"{low:+z.{places}f} to {high:+z.{places}f}"
    return f"{value:+z.{places}f}{kind} (95 % interval over {seeds} seeds {interval}{distinguishable})"


def _value(records: Sequence[Record], metric: str) -> str:
    values = [record.metrics[metric] for record in records if metric in record.metrics]
    if not values:
        return NOT_RUN
    interval = interval_over_runs(values)
    if metric.endswith("loss"):
        margin = f" ± {interval.margin:.3f}" if len(values) > 1 else ""
        return f"{interval.estimate:.3f}{margin}"
    margin = f" ± {100 * interval.margin:.2f}" if len(values) > 1 else ""
    return f"{percent(interval.estimate)}{margin}"
