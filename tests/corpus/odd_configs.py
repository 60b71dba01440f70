"""Config files and overrides that are wrong, unusual or malicious."""

from collections.abc import Callable, Iterator
from pathlib import Path

from corpus.case import Case, Ending
from opsin.config import ConfigSource, compose, refuse_broken_files
from opsin.training.plan import make_plan

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "b0: &b0 {x: 1}\n" + "".join(
    f"b{i}: &b{i} {{l: *b{i - 1}, r: *b{i - 1}, m: *b{i - 1}}}\n" for i in range(1, 22)
)

FILES: dict[str, tuple[str | bytes, Ending]] = {
    "empty": ("", "answer"),
    "comment": ("# nothing\n", "answer"),
    "null": ("null\n", "either"),
    "list": ("- a\n- b\n", "refusal"),
    "number": ("5\n", "refusal"),
    "text": ("hello\n", "refusal"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "refusal"),
    "document that ends": ("seed: 1\n...\n", "answer"),
    "tab": ("model:\n\tweights: none\n", "refusal"),
    "open bracket": ("tags: [a, b\n", "refusal"),
    "open quote": ("tags: ['a, b]\n", "refusal"),
    "byte order mark": (b"\xef\xbb\xbfseed: 1\n", "refusal"),
    "utf-16": ("seed: 1\n".encode("utf-16"), "refusal"),
    "latin-1": ("tags: [k\u00e4fer]\n".encode("latin-1"), "refusal"),
    "zero bytes": (b"\0" * 500, "refusal"),
    "binary": (bytes(range(256)) * 4, "refusal"),
    "control characters": ("tags: ['\x1b[2J']\n", "refusal"),
    "escaped control characters": ('tags: ["\\e[2J"]\n', "either"),
    "anchors that expand to 9^9": (BOMB, "refusal"),
    "merges that expand to 3^20": (MERGES, "refusal"),
    "anchor within itself": ("tags: &a [*a]\n", "refusal"),
    "dict within itself": ("+x: &a {b: *a}\n", "refusal"),
    "unknown anchor": ("tags: *nowhere\n", "refusal"),
    "deep": ("tags: " + "[" * 2000 + "]" * 2000 + "\n", "refusal"),
    "deep open": ("[" * 100_000, "refusal"),
    "deep dicts": ("".join("  " * i + "a:\n" for i in range(400)), "refusal"),
    "wide": ("tags: [" + "a, " * 50_000 + "a]\n", "either"),
    "long line": ("tags: ['" + "x" * 10**6 + "']\n", "either"),
    "python object": ("seed: !!python/object/apply:os.system ['false']\n", "refusal"),
    "python name": ("seed: !!python/name:os.system\n", "refusal"),
    "python module": ("seed: !!python/module:os\n", "refusal"),
    "unknown tag": ("seed: !mine 3\n", "refusal"),
    "binary tag": ("tags: [!!binary aGVsbG8=]\n", "either"),
    "set": ("tags: !!set {a, b}\n", "refusal"),
    "ordered map": ("tags: !!omap [a: 1]\n", "refusal"),
    "pairs": ("tags: !!pairs [a: 1]\n", "refusal"),
    "timestamp": ("tags: [2026-01-01]\n", "either"),
    "duplicate key": ("seed: 1\nseed: 2\n", "refusal"),
    "duplicate inner key": ("optimizer:\n  lr: 1\n  lr: 2\n", "refusal"),
    "merge key": ("optimizer:\n  <<: {lr: 0.5}\n", "either"),
    "merge of a number": ("optimizer:\n  <<: 5\n", "refusal"),
    "number as key": ("1: 2\n", "refusal"),
    "null as key": ("null: 2\n", "refusal"),
    "true as key": ("true: 2\n", "refusal"),
    "list as key": ("[a, b]: 2\n", "refusal"),
    "dict as key": ("{a: b}: 2\n", "refusal"),
    "empty key": ("'': 2\n", "refusal"),
    "key with dots": ("optimizer.lr: 2\n", "refusal"),
    "unknown interpolation": ("seed: ${nowhere}\n", "refusal"),
    "open interpolation": ("seed: ${a\n", "refusal"),
    "empty interpolation": ("seed: ${}\n", "refusal"),
    "interpolation of itself": ("seed: ${seed}\n", "refusal"),
    "two interpolations of each other": ("seed: ${data_dir}\ndata_dir: ${seed}\n", "refusal"),
    "interpolation of a section": ("seed: ${optimizer}\n", "refusal"),
    "unknown resolver": ("seed: ${eval:1+1}\n", "refusal"),
    "resolver with a wrong argument": ("seed: ${oc.decode:'['}\n", "refusal"),
    "resolver of a missing variable": ("tags: ['${oc.env:NO_SUCH_VARIABLE_HERE}']\n", "refusal"),
    "resolver of hydra": ("tags: ['${hydra:nowhere}']\n", "refusal"),
    "mandatory value": ("seed: ???\n", "answer"),  # keeps the value of the file before
    "mandatory value of a new key": ("+x: ???\n", "refusal"),
    "defaults as a number": ("defaults: 5\n", "refusal"),
    "defaults as a dict": ("defaults: {model: mlp}\n", "either"),
    "defaults of a missing file": ("defaults: [nowhere]\n", "refusal"),
    "defaults of itself": ("defaults: [odd]\n", "refusal"),
    "defaults as a list of lists": ("defaults: [[model]]\n", "refusal"),
    "defaults outside": ("defaults: [../../../etc/passwd]\n", "refusal"),
    "section as null": ("optimizer: null\n", "refusal"),
    "section as a list": ("optimizer: [1, 2]\n", "refusal"),
    "section as a number": ("model: 5\n", "refusal"),
    "callbacks as a list": ("callbacks: [a]\n", "refusal"),
    "callback as a number": ("callbacks: {early_stopping: 5}\n", "refusal"),
    "monitor as a list": ("monitor: [val/acc]\n", "refusal"),
    "monitor as a dict": ("monitor: {metric: {a: 1}}\n", "refusal"),
    "hydra as a list": ("hydra: [1]\n", "refusal"),
    "hydra run as a number": ("hydra: {run: 5}\n", "refusal"),
    "huge integer": ("seed: " + "9" * 5000 + "\n", "refusal"),
    "large integer": ("seed: " + "9" * 30 + "\n", "refusal"),
    "huge hexadecimal": ("seed: 0x" + "f" * 20_000 + "\n", "refusal"),
}

TARGETS = (
    "5",
    "[a]",
    "{a: 1}",
    "''",
    "'.'",
    "'..'",
    "os.system",
    "opsin",
    "opsin.models",
    "opsin.models.",
    "'a b'",
    "\u00e4.\u00f6",
    "builtins.eval",
    "opsin.models.cnn_gap.__globals__",
    "opsin.models.nowhere",
    "x" + ".x" * 300,
)

KEYS = (
    "trainer.max_epochs",
    "optimizer.lr",
    "seed",
    "datamodule.image_size",
    "datamodule.batch_size",
    "model.trainable",
    "datamodule.val_fraction",
    "tags",
    "trainer.devices",
    "data_dir",
    "datamodule._target_",
)
VALUES = ("[1, [2]]", "{a: {b: 1}}", "word", "-1", "0", ".nan", ".inf", "1e999", "true", "null", "9" * 40, "''")

OVERRIDES = (
    "",
    "=",
    "a",
    "a=",
    "=b",
    "+",
    "~",
    "++",
    "~~a",
    "a=b=c",
    "model=",
    "model=../../etc/passwd",
    "model=/etc/passwd",
    "model=cnn_gap,mlp",
    "model=[cnn_gap,mlp]",
    "model={a:1}",
    "model=cnn_gap.yaml",
    "model=\u732b",
    "optimizer.lr=1e999",
    "seed=99999999999999999999999",
    "seed=-1",
    "seed=nan",
    "seed=0x10",
    "seed=1_0",
    "a=${a}",
    "seed=${seed}",
    "seed=${",
    "seed=[",
    "seed={",
    "seed='",
    'seed="',
    "seed=(",
    "key with space=1",
    "\x00=1",
    "seed=\x00",
    "seed=\x1b[31m",
    "\u00e4=1",
    "datamodule.image_size=[1,2,3]",
    "datamodule.image_size=[]",
    "datamodule.image_size=[0,0]",
    "datamodule.image_size=99999999999",
    "tags=" + "[" * 300 + "]" * 300,
    "tags=" + "[" * 300,
    "+a.b.c.d.e=1",
    "~model",
    "~trainer",
    "~seed",
    "~optimizer.lr",
    "~nowhere",
    "hydra.run.dir=[1]",
    "hydra=null",
    "trainer=null",
    "+hydra.x=1",
    "hydra.job.name=[]",
    "hydra.searchpath=5",
    "hydra.searchpath=[pkg://x]",
    "hydra.searchpath=[file:///nowhere]",
    "resume=/nowhere",
    "resume=5",
    "resume=[]",
    "resume=''",
    "experiment=[]",
    "experiment=nowhere",
    "experiment=[quickstart,nowhere]",
    "model@x=mlp",
    "model@=mlp",
    "@=x",
    "/model=mlp",
    "model/x=mlp",
    "model:a=mlp",
    "seed=glob(*)",
    "seed=range(1,9)",
    "seed=choice(1,2)",
    "seed=sort(3,1)",
    "seed=shuffle(1,2)",
    "seed=int(a)",
    "seed=str(",
    "model.trainable=last:x",
    "model.trainable=last:99999999999",
    "model.weights=/dev/null",
    "model.weights=.",
    "model.phases=5",
    "model.phases=[{}]",
    "model.phases=[5]",
    "model.phases=[{epoch:-1,trainable:[a]}]",
    "callbacks.early_stopping=5",
    "callbacks.x=null",
    "+callbacks.x=null",
    "+callbacks.x={}",
    "+callbacks.x={_target_:5}",
    "+callbacks.x={_target_:os.system}",
    "+callbacks={}",
    "logger={}",
    "logger=5",
    "optimizer={lr:1}",
    "optimizer.betas=[1]",
    "optimizer.betas=x",
    "+optimizer.params=[]",
    "datamodule.num_folds=-1",
    "datamodule.fold=9",
    "datamodule.train_fraction=0",
    "datamodule.train_fraction=2",
    "datamodule.mean=[nan,nan,nan]",
    "datamodule.std=[0]",
    "datamodule.split_seed=x",
    "trainer.precision=5",
    "trainer.max_epochs=999999999999999999999",
    "trainer.devices=[0,0]",
    "trainer.accelerator=",
    "loss.label_smoothing=nan",
    "monitor.metric=test/acc",
    "monitor.metric=x",
    "monitor.metric=''",
    "monitor.metric=[a]",
    "a" * 100_000 + "=1",
    "seed=" + "1" * 100_000,
    "tags=['" + "x" * 100_000 + "']",
    "output_dir=\x00",
    "data_dir=[1]",
    "data_dir={a:1}",
    "data_dir=~nobody/x",
)


def odd_config_cases() -> Iterator[Case]:
    """Yield config files, values of every type for many keys, targets, and overrides."""
    for name, (content, ends) in FILES.items():
        yield Case(f"config/file/{name}", _composes(content), ends)
    for key in KEYS:
        *sections, last = key.split(".")
        for value in VALUES:
            text = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
            yield Case(f"config/value/{key}={value[:12]}", _composes(f"{text}{'  ' * len(sections)}{last}: {value}\n"))
    for target in TARGETS:
        yield Case(f"config/target/{target[:20]}", _composes(f"model:\n  _target_: {target}\n"), "refusal")
    for number, override in enumerate(OVERRIDES):
        yield Case(f"config/override/{number} {override[:30]!r}", lambda folder, override=override: _plan([override]))


def _composes(content: str | bytes) -> Callable[[Path], None]:
    """Return an action that composes a run with an experiment of this content."""

    def act(folder: Path) -> None:
        (folder / "experiment").mkdir()
        data = content.encode() if isinstance(content, str) else content
        (folder / "experiment" / "odd.yaml").write_bytes(
            b"# @package _global_\n" + data if data[:3] != b"\xef\xbb\xbf" else data
        )
        _plan(["experiment=odd"], ConfigSource.of([str(folder)]))

    return act


def _plan(overrides: list[str], source: ConfigSource | None = None) -> None:
    """Do what `opsin train` does with overrides, up to the checked plan."""
    refuse_broken_files(overrides, source)
    make_plan(compose(overrides, source=source))
