"""Run directories with a file that is missing, damaged, of another kind, or not a file at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from corpus.case import Case, command
from opsin.commands.evaluate import evaluate
from opsin.config import from_saved
from opsin.evaluation.comparison.run_records import read_record
from opsin.evaluation.report.page import write_report
from opsin.inference.opened_run import open_run
from opsin.inference.predictor import open_predictor
from opsin.runs.directory import RunDirectory
from opsin.training.resume_check import check_resume

Damage = Callable[[Path], object]


def _flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x55
    file.write_bytes(content)


def _in_place(make: Callable[[Path], object]) -> Damage:
    def damage(file: Path) -> None:
        file.unlink()
        make(file)

    return damage


def _text(text: str | bytes) -> Damage:
    return lambda file: file.write_bytes(text if isinstance(text, bytes) else text.encode())


def _loop(file: Path) -> None:
    file.symlink_to(file.name)


ANY_FILE: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": _text(b""),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "cut in half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "last byte missing": lambda file: os.truncate(file, file.stat().st_size - 1),
    "one byte flipped": _flipped,
    "binary": _text(bytes(range(256)) * 9),
    "a folder": _in_place(Path.mkdir),
    "a pipe": _in_place(os.mkfifo),
    "a link to itself": _in_place(_loop),
    "a link to nothing": _in_place(lambda file: file.symlink_to("/nowhere/at/all")),
    "a link to a device": _in_place(lambda file: file.symlink_to("/dev/zero")),
}
TEXT_FILE: dict[str, Damage] = {
    "null": _text("null"),
    "list": _text("[1, 2]"),
    "number": _text("5"),
    "text": _text('"words"'),
    "empty object": _text("{}"),
    "nan": _text("NaN"),
    "huge integer": _text("9" * 6000),
    "deep": _text("[" * 100_000),
    "not utf-8": _text(b"\xff\xfe\x00abc"),
    "nested objects of wrong types": _text('{"schema_version": 1, "metrics": [], "data": 5, "model": [], "seed": {}}'),
}
JSON_FIELDS = {
    "status": '"sleeping"',
    "metrics": '{"test/acc": "high"}',
    "data": "[]",
    "parameters": "-1",
    "network": "5",
    "seed": "1e999",
    "per_class": '{"test": 5}',
    "epochs": '"x"',
    "schema_version": "99",
    "custom_metrics": "5",
    "monitor": "[]",
    "calibration": '{"temperature": 0}',
}
KEY_VALUES = ("null", "5", "[]", "words", "{a: 1}", "[{_target_: os.system}]")


def odd_run_cases(run: RunDirectory) -> Iterator[Case]:
    """Yield every file of a finished run with every damage.

    Args:
        run: A finished run, which is copied.
    """
    for file in ("config.yaml", "overrides.yaml", "result.json", "metrics.csv"):
        for name, damage in (ANY_FILE | TEXT_FILE).items():
            yield Case(f"run/{file}/{name}", _opened_by_all(run, file, damage))
    for file in ("predictions/test.npz", "predictions/val.npz"):
        for name, damage in ANY_FILE.items():
            yield Case(f"run/{file}/{name}", _opened_by_all(run, file, damage))
    for file in ("checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        for name, damage in (ANY_FILE | _checkpoint_damages()).items():
            yield Case(f"run/{file}/{name}", _network_used(run, file, damage, exact=name in ANY_FILE))
    for field, value in JSON_FIELDS.items():
        yield Case(f"run/result.json/{field}={value}", _opened_by_all(run, "result.json", _json_field(field, value)))
    for key in ("datamodule", "model", "callbacks", "trainer", "seed", "data_dir", "output_dir", "monitor"):
        for value in KEY_VALUES:
            yield Case(f"run/config.yaml/{key}={value}", _opened_by_all(run, "config.yaml", _yaml_key(key, value)))
    for name in ("a file", "an empty folder", "nowhere", "a link to itself"):
        yield Case(f"run/{name}", _place(name), "refusal")


def _copied(run: RunDirectory, folder: Path) -> RunDirectory:
    shutil.copytree(run.path, folder / "run")
    return RunDirectory(folder / "run")


def _one_image(folder: Path) -> str:
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(folder / "one.png")
    return str(folder / "one.png")


def _each(*actions: Callable[[], object]) -> None:
    """Run all actions; a refusal of one does not hide a wrong ending of another."""
    from corpus.case import fault_of_message
    from opsin.errors import UserError

    refusal = wrong = None
    for action in actions:
        try:
            action()
        except UserError as error:
            refusal = error
            wrong = wrong or fault_of_message(str(error))
    assert not wrong, wrong
    if refusal:
        raise refusal


def _opened_by_all(run: RunDirectory, file: str, damage: Damage) -> Callable[[Path], None]:
    """Return an action that damages a file, and gives the run to the commands that read it."""

    def act(folder: Path) -> None:
        copy = _copied(run, folder)
        damage(copy.path / file)
        _each(
            lambda: open_run(RunDirectory.of(copy.path)),
            lambda: check_resume(from_saved(RunDirectory.of(copy.path))),
            lambda: read_record(copy),
            lambda: write_report(RunDirectory.of(copy.path)),
        )

    return act


def _network_used(run: RunDirectory, file: str, damage: Damage, exact: bool) -> Callable[[Path], None]:
    """Return an action that damages a checkpoint and uses it.

    Args:
        run: The intact run, which is copied.
        file: The checkpoint.
        damage: The damage.
        exact: Whether an answer must be that of the intact checkpoint.
    """
    expected = {n: v for n, v in run.read_result().metrics.items() if n.startswith("test/")}

    def evaluated(copy: RunDirectory) -> None:
        metrics = evaluate(copy).metrics
        assert metrics == expected or not exact, "other metrics than before the damage"

    def act(folder: Path) -> None:
        copy = _copied(run, folder)
        best = copy.best.read_bytes()
        if (copy.path / file).samefile(copy.best) and "last" in file:
            copy.best.unlink()
            copy.best.write_bytes(best)  # not a link to the same file any more
        damage(copy.path / file)
        _each(
            lambda: evaluated(copy),
            lambda: open_predictor(copy.path),
            lambda: check_resume(from_saved(copy)),
        )

    return act


def _checkpoint_damages() -> dict[str, Damage]:
    """Return contents that torch loads but that are not checkpoints of the run, and pickles that run code."""

    def saved(content: object) -> Damage:
        return lambda file: torch.save(content, file)

    def without(key: str) -> Damage:
        def damage(file: Path) -> None:
            content = torch.load(file, weights_only=True)
            del content[key]
            torch.save(content, file)

        return damage

    def changed(change: Callable[[torch.Tensor], object]) -> Damage:
        def damage(file: Path) -> None:
            content = torch.load(file, weights_only=True)
            state = content["state_dict"]
            name = next(iter(state))
            state[name] = change(state[name])
            torch.save(content, file)

        return damage

    return {
        "a list": saved([1, 2]),
        "nothing": saved(None),
        "an empty dict": saved({}),
        "a tensor": saved(torch.zeros(3)),
        "numbers as keys": saved({1: torch.zeros(3)}),
        "a number as state": saved({"state_dict": 5}),
        "an empty state": saved({"state_dict": {}, "callbacks": {}, "global_step": 1, "epoch": 1}),
        "no state": without("state_dict"),
        "no callbacks": without("callbacks"),
        "no step": without("global_step"),
        "other shape": changed(lambda t: torch.zeros(7, 7)),
        "text for a tensor": changed(lambda t: "tensor"),
        "other type": changed(lambda t: t.to(torch.complex64)),
        "nan": changed(lambda t: t * float("nan")),
        "sparse": changed(lambda t: t.to_sparse()),
        "a pickle that runs code": _text(b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00false\x85R."),
        "a pickle of 1000 lists": _text(b"\x80\x02" + b"]" * 1000 + b"."),
        "an empty zip file": _text(b"PK\x05\x06" + bytes(18)),
    }


def _json_field(field: str, value: str) -> Damage:
    def damage(file: Path) -> None:
        import json

        content = json.loads(file.read_text())
        content[field] = json.loads(value)
        file.write_text(json.dumps(content))

    return damage


def _yaml_key(key: str, value: str) -> Damage:
    def damage(file: Path) -> None:
        import yaml

        content = yaml.safe_load(file.read_text())
        content[key] = yaml.safe_load(value)
        file.write_text(yaml.safe_dump(content))

    return damage


def _place(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        place = folder / "place"
        if name == "a file":
            place.touch()
        elif name == "an empty folder":
            place.mkdir()
        elif name == "a link to itself":
            place.symlink_to("place")
        _each(
            lambda: command("evaluate", str(place)),
            lambda: command("compare", str(place)),
            lambda: command("predict", str(place), _one_image(folder)),
            lambda: command("report", str(place)),
        )

    return act
