"""Folders of images and shards that are unusual, damaged, or contain other files than images."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from datamodules import image_data
from PIL import Image
from sharded import source, streamed, written

from corpus.case import Case, Ending, command
from corpus.odd_runs import ANY_FILE, TEXT_FILE, Damage
from opsin.data.datasets import image_folder
from opsin.runs.directory import RunDirectory

NAMES = (
    "two words",
    "new\nline",
    "tab\t",
    "\u732b",
    "a=b",
    "a,b",
    "[x]",
    "{x}",
    "(x)",
    "$HOME",
    "~",
    "'quoted'",
    '"quoted"',
    "-rf",
    "--help",
    "x" * 200,
    "\u202etxt",
    "\x1b[31mred",
    "caf\u00e9",
    "cafe\u0301",
    "CON",
    "a:b",
    "*",
    "?",
    "%s",
    "{0}",
    "\\",
    "a;b",
    "a&b",
    "<b>",
    "#x",
    "!x",
    os.fsdecode(b"k\xe4fer"),
    "train",
    "val",
    "test",
    "nan",
    "null",
    "1e3",
    "true",
    "0",
)
"""Names of class folders and image files."""


def odd_folder_cases(run: RunDirectory) -> Iterator[Case]:
    """Yield folders of images with odd content, and paths for `opsin predict` that are no images."""
    for name in NAMES:
        yield Case(f"folder/named {name[:20]!r}", _named(name), "answer")
    for name, (make, ends) in _contents().items():
        yield Case(f"folder/{name}", _read(make), ends)
    for name, make in _strangers().items():
        yield Case(f"folder/predict {name}", _predicted(run, make))


def odd_shard_cases(shards: Path) -> Iterator[Case]:
    """Yield every kind of file of a folder of shards with every damage.

    Args:
        shards: Intact shards, which are copied.
    """
    for file in ("opsin.json", "train/images.npz", "train/chunk-0-0.bin", "train/index.json"):
        damages = ANY_FILE | (TEXT_FILE if file.endswith(".json") else {})
        for name, damage in damages.items():
            yield Case(f"shards/{file}/{name}", _streamed(shards, file, damage))
    for field in ("version", "name", "classes", "channels", "size", "mean", "std", "encoding", "fit", "splits"):
        for value in (None, 5, -1, "words", [], {}, [1, 2, 3], ["a"], {"train": 5}):
            yield Case(f"shards/opsin.json/{field}={value}", _streamed(shards, "opsin.json", _json_value(field, value)))
    yield Case("shards/opsin.json/a file outside", _streamed(shards, "opsin.json", _outside))


def made_shards(folder: Path) -> Path:
    """Return a folder with intact shards."""
    return Path(written(folder / "shards", source(60), folder / "cache"))


def _image(file: Path, shade: int = 90) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(file, "PNG")


def _plain(folder: Path) -> None:
    for shade, name in enumerate(("cat", "dog")):
        for number in range(5):
            _image(folder / name / f"{number}.png", 40 + 90 * shade + number)


def _opened(folder: Path, cache: Path) -> int:
    """Open a folder as a dataset, decode it and read a batch; return the number of training images."""
    data = image_data(image_folder(str(folder), size=(8, 8)), data_dir=str(cache), batch_size=4)
    data.setup("fit")
    next(iter(data.train_dataloader()))
    return len(data.subset("train"))


def _read(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        root = folder / "photos"
        root.mkdir()
        make(root)
        assert _opened(root, folder / "cache") > 0

    return act


def _named(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        root = folder / "photos"
        for number in range(5):
            _image(root / name / f"{number} {name}.png"[:120], number)
            _image(root / f"other than {name}"[:120] / f"{name}{number}.png"[-120:], 99 + number)
        found = image_folder(str(root), size=(8, 8))
        assert len(found.classes) == 2
        assert _opened(root, folder / "cache") > 0

    return act


def _contents() -> dict[str, tuple[Callable[[Path], object], Ending]]:
    def with_plain(add: Callable[[Path], object]) -> Callable[[Path], object]:
        def make(root: Path) -> None:
            _plain(root)
            add(root / "cat")

        return make

    def bad_images(folder: Path) -> None:
        for name, content in (("zero.png", b""), ("text.png", b"words"), ("cut.jpg", b"\xff\xd8\xff\xe0")):
            (folder / name).write_bytes(content)

    return {
        "plain": (_plain, "answer"),
        "empty": (lambda root: None, "refusal"),
        "only a file": (lambda root: _image(root / "a.png"), "refusal"),
        "one class": (lambda root: _image(root / "cat" / "a.png"), "refusal"),
        "empty class": (with_plain(lambda cat: (cat.parent / "emu").mkdir()), "refusal"),
        "class of other files": (with_plain(lambda cat: _text_file(cat.parent / "emu" / "a.txt")), "refusal"),
        "class of bad images": (with_plain(lambda cat: _text_file(cat.parent / "emu" / "a.png")), "either"),
        "link to the parent": (with_plain(lambda cat: (cat / "up").symlink_to("..")), "answer"),
        "link to itself": (with_plain(lambda cat: (cat / "self").symlink_to("self")), "answer"),
        "two links to each other": (with_plain(_two_links), "answer"),
        "dangling link": (with_plain(lambda cat: (cat / "gone.png").symlink_to("nowhere.png")), "answer"),
        "link to a device": (with_plain(lambda cat: (cat / "zero.png").symlink_to("/dev/zero")), "answer"),
        "link to random bytes": (with_plain(lambda cat: (cat / "random.png").symlink_to("/dev/urandom")), "answer"),
        "pipe": (with_plain(lambda cat: os.mkfifo(cat / "pipe.png")), "answer"),
        "link to a pipe": (with_plain(_link_to_a_pipe), "answer"),
        "socket": (with_plain(lambda cat: _socket(cat / "s.png")), "answer"),
        "folder named like an image": (with_plain(lambda cat: (cat / "folder.png").mkdir()), "answer"),
        "bad images": (with_plain(bad_images), "answer"),
        "only bad images": (
            lambda root: [_text_file(root / n / f"{i}.png") for n in "ab" for i in range(4)],
            "refusal",
        ),
        "deep": (with_plain(lambda cat: _image(cat.joinpath(*["d"] * 200, "a.png"))), "either"),
        "many folders": (with_plain(lambda cat: [(cat / f"{i}").mkdir() for i in range(2000)]), "answer"),
        "sparse file of 1 TB": (with_plain(lambda cat: _sparse(cat / "film.png", 2**40)), "answer"),
        "image that grows": (with_plain(lambda cat: _sparse(cat / "0.png", 2**29)), "answer"),
        "hidden files": (with_plain(lambda cat: _text_file(cat / ".DS_Store")), "answer"),
        "same image in two classes": (with_plain(lambda cat: shutil.copy(cat.parent / "dog" / "0.png", cat)), "answer"),
        "link to the other class": (with_plain(lambda cat: (cat / "dogs").symlink_to("../dog")), "answer"),
        "folder that cannot be read": (with_plain(lambda cat: (cat / "secret").mkdir(mode=0)), "either"),
        "train without the others": (lambda root: _plain(root / "train"), "answer"),
        "train of images": (lambda root: (_plain(root / "val"), _image(root / "train" / "a.png")), "refusal"),
        "test with another class": (_other_test_class, "refusal"),
        "two spellings of train": (lambda root: (_plain(root / "train"), _plain(root / "Training")), "refusal"),
        "misspelled split": (lambda root: (_plain(root / "train"), _plain(root / "vall")), "refusal"),
    }


def _text_file(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("words")


def _two_links(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")


def _link_to_a_pipe(folder: Path) -> None:
    os.mkfifo(folder.parent.parent / "pipe")
    (folder / "a.png").symlink_to(folder.parent.parent / "pipe")


def _socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the name of a socket has at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(file.name)
    finally:
        os.chdir(here)


def _sparse(file: Path, size: int) -> None:
    with file.open("ab") as opened:
        os.truncate(opened.fileno(), size)


def _other_test_class(root: Path) -> None:
    _plain(root / "train")
    _plain(root / "test")
    _image(root / "test" / "emu" / "a.png")


def _strangers() -> dict[str, Callable[[Path], str]]:
    """Return functions that make paths for `opsin predict` that are not ordinary images."""

    def made(make: Callable[[Path], object], name: str = "image.png") -> Callable[[Path], str]:
        def place(folder: Path) -> str:
            make(folder / name)
            return str(folder / name)

        return place

    fixed = (
        "/dev/zero",
        "/dev/urandom",
        "/dev/null",
        "/dev/full",
        "/proc/self/mem",
        "/proc/self/environ",
        "/nowhere",
        "",
        "[",
        "**",
        "\x00",
        "-",
    )
    return {
        **{f"of {word!r}": (lambda folder, word=word: word) for word in fixed},
        "of a pipe": made(os.mkfifo),
        "of a socket": made(_socket, "s"),
        "of an empty folder": made(Path.mkdir),
        "of a link to itself": made(lambda path: path.symlink_to(path.name)),
        "of a dangling link": made(lambda path: path.symlink_to("nowhere")),
        "of a link to a device": made(lambda path: path.symlink_to("/dev/zero")),
        "of a sparse file": made(lambda path: (_image(path), _sparse(path, 2**36))),
        "of a name too long": lambda folder: str(folder / ("x" * 3000)),
        "of a folder of pipes": made(lambda path: (path.mkdir(), os.mkfifo(path / "a.png")), "folder"),
    }


def _predicted(run: RunDirectory, make: Callable[[Path], str]) -> Callable[[Path], object]:
    return lambda folder: command("predict", str(run.path), "--", make(folder))


def _streamed(shards: Path, file: str, damage: Damage) -> Callable[[Path], None]:
    """Return an action that damages a file of shards and reads all images; an answer must be that of intact shards."""

    def act(folder: Path) -> None:
        copy = folder / "shards"
        shutil.copytree(shards, copy)
        damage(copy / file)
        assert _pixels(copy, folder / "a") == _pixels(shards, folder / "b"), "other pixels than before the damage"

    return act


def _pixels(shards: Path, cache: Path) -> bytes:
    data = streamed(shards, cache, batch_size=20)
    data.setup("fit")
    subset = data.subset("train")
    return subset.read(np.arange(len(subset))).tobytes()


def _json_value(field: str, value: object) -> Damage:
    def damage(file: Path) -> None:
        content = json.loads(file.read_text())
        content[field] = value
        file.write_text(json.dumps(content))

    return damage


def _outside(file: Path) -> None:
    """Make the index name a shard outside its folder."""
    content = json.loads(file.read_text())
    for split in content["splits"].values():
        for shard in split["shards"]:
            shard["file"] = "../../../../../../etc/passwd"
    file.write_text(json.dumps(content))
