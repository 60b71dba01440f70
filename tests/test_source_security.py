"""No line of the source loads a file in a way that can run code, or runs text as code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "scripts", "benchmarks", "docs/extensions")

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all"),
    *("pickle.load", "pickle.loads", "marshal.loads", "marshal.load", "dill.loads", "dill.load", "cloudpickle.loads"),
    *("shelve.open", "joblib.load", "pandas.read_pickle", "pd.read_pickle", "runpy.run_path", "runpy.run_module"),
    *("torch.jit.load", "torch.export.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("hydra.utils.instantiate", "instantiate", "get_class", "get_method", "get_object"),
}
"""Calls that are never made, by their dotted name or, for methods, its last part."""

REQUIRED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "jinja2.Environment": ("autoescape", True),
}
"""Calls that need an argument with a constant value."""

PICKLE = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle")
MAY_IMPORT_PICKLE = {
    "src/opsin/models/weights.py",  # the exception of torch.load
    "src/opsin/training/checkpoint_values.py",  # the exceptions of torch.save and torch.load
    "src/opsin/data/datasets/cifar10.py",  # an unpickler that calls nothing of NumPy and nothing else
    "benchmarks/datasets.py",  # writes the files of CIFAR-10
}
LOADS_ITS_OWN = {
    ("src/opsin/inference/model_export.py", "torch.export.load"),  # the file that was written just now, to check it
    ("src/opsin/sweeps/launchers/job_process.py", "runpy.run_module"),  # opsin
    ("benchmarks/contenders.py", "trainer.test"),  # the checkpoint of the same process
}
MAY_IMPORT_BY_NAME = {
    "src/opsin/config/target_lookup.py",  # packages on the list of a section, or permitted by the user
    "src/opsin/models/weights.py",  # the package of the published weights
    "src/opsin/__init__.py",  # its own names
    "src/opsin/data/__init__.py",  # its own names
    "src/opsin/commands/dispatch.py",  # its own commands
}


def dotted(node: ast.AST) -> str:
    """Return the dotted name of a function in a call, as written."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def problems(source: str, file: str = "src/opsin/some.py") -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        place = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name.split(".")[0] in PICKLE and file not in MAY_IMPORT_PICKLE:
                    yield f"{place}: imports {name}"
            if isinstance(node, ast.ImportFrom):
                yield from (
                    f"{place}: hides {node.module}.{alias.name}"
                    for alias in node.names
                    if f"{node.module}.{alias.name}" in (FORBIDDEN | REQUIRED.keys()) - {"jinja2.Environment"}
                )
        if isinstance(node, ast.Call):
            yield from (f"{place}: {problem}" for problem in _of_call(node, file))


def _of_call(node: ast.Call, file: str) -> Iterator[str]:
    name = dotted(node.func)
    last = name.rpartition(".")[2]
    if name == "Environment" and any(word.arg == "loader" for word in node.keywords):
        name = "jinja2.Environment"
    if (file, name) in LOADS_ITS_OWN:
        return
    constants = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    if name in FORBIDDEN or (name != last and last in ("extractall", "unpack_archive", "load_from_checkpoint")):
        yield f"calls {name}"
    if name in REQUIRED:
        word, value = REQUIRED[name]
        if constants.get(word) is not value:
            yield f"calls {name} without {word}={value}"
    if "ckpt_path" in constants and constants.get("weights_only") is not True:
        yield f"{name} loads a checkpoint without weights_only=True"
    if "trust_remote_code" in constants:
        yield "runs code of a hub"
    if name in ("Image.open", "PIL.Image.open") and "formats" not in constants and file.startswith("src/"):
        yield "opens images of every format of Pillow, and Pillow starts Ghostscript for EPS"
    if constants.get("shell"):
        yield "starts a shell"
    if last == "import_module" and not isinstance(node.args[0], ast.Constant) and file not in MAY_IMPORT_BY_NAME:
        yield "imports a module by a computed name"


def sources() -> Iterator[tuple[str, str]]:
    files = [ROOT / "train.py", *(file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")))]
    for file in files:
        yield file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")


def test_no_source_file_runs_code_of_a_file() -> None:
    found = list(sources())
    assert len(found) > 300
    assert [problem for file, text in found for problem in problems(text, file)] == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "trainer.fit(module, ckpt_path=path)",
        "Classifier.load_from_checkpoint(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "import pickle",
        "from dill import loads",
        "pickle.loads(content)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "Image.open(path)",
        "datasets.load_dataset(path, trust_remote_code=True)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
        "importlib.import_module(name)",
        "torch.hub.load(repository, name)",
        "hydra.utils.instantiate(config)",
        "Environment(loader=loader)",
    ],
)
def test_the_scan_finds_each_kind(line: str) -> None:
    assert list(problems(line))
