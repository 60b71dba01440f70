"""Imports go downward only: between packages in a fixed order, inside a package without a cycle."""

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import opsin.data

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "opsin"

LAYERS = [  # each package may import those above it, and itself
    {"errors", "visualization"},
    {"runs"},
    {"data", "models", "config"},
    {"interpretability", "evaluation"},
    {"sweeps"},
    {"training"},
    {"inference"},
    {"commands"},
    {"api"},
]
ROOT_FILES = {"__init__.py", "__main__.py", "errors.py", "py.typed"}
HYDRA_HOMES = {"config", "sweeps"}
WITHOUT_TORCH = ("errors", "runs", "config", "visualization", "evaluation")
HEAVY = {"lightning", "torchmetrics", "torchvision", "timm", "scipy", "sklearn", "matplotlib", "tensorboard", "pandas"}
MAY_OCCUR_TWICE = {"__init__", "base", "page"}


def files() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 200
    return found


def imports(file: Path) -> Iterator[str]:
    """The dotted modules a file imports, those inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [name for name in submodules if is_module(name)]
            yield from inside
            if len(inside) < len(submodules):
                yield node.module


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def node_of(parts: tuple[str, ...]) -> str:
    """The node inside a package to which a module belongs: a subfolder or a loose file."""
    return parts[1].removesuffix(".py") if len(parts) > 1 else "__init__"


def test_the_package_root_holds_only_the_permitted_files_and_folders() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    folders = {path.name for path in entries if path.is_dir()}
    assert len(folders) <= 14
    assert {path.name for path in entries if path.is_file()} <= ROOT_FILES
    assert folders - {"weights", "configs"} == set.union(*LAYERS) - {"errors"}


def test_no_module_name_occurs_twice() -> None:
    names = Counter(file.stem for file in files())
    assert {name for name, count in names.items() if count > 1} <= MAY_OCCUR_TWICE


def test_imports_between_packages_go_downward() -> None:
    height = {package: level for level, packages in enumerate(LAYERS) for package in packages}
    wrong = []
    for file in files():
        here = package_of(file)
        if here in ("__init__", "__main__"):
            continue
        for name in imports(file):
            if name.startswith("opsin."):
                there = name.split(".")[1]
                if there != here and there != "__version__" and height[there] >= height[here]:
                    wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("package", sorted(set.union(*LAYERS) - {"errors"}))
def test_imports_inside_a_package_have_no_cycle(package: str) -> None:
    graph: dict[str, set[str]] = {}
    for file in (PACKAGE / package).rglob("*.py"):
        here = node_of(file.relative_to(PACKAGE).parts)
        if here == "__init__":
            continue
        used = {node_of(tuple(name.split(".")[1:])) for name in imports(file) if name.startswith(f"opsin.{package}")}
        assert "__init__" not in used, f"{file} imports opsin.{package} itself: import the module that defines the name"
        graph.setdefault(here, set()).update(used - {here})
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"opsin.{package} has an import cycle: {' -> '.join(reversed(error.args[1]))}")


def test_data_and_models_never_import_each_other() -> None:
    for file in files():
        used = {name.split(".")[1] for name in imports(file) if name.startswith("opsin.")}
        assert not (package_of(file) == "data" and used & {"models", "config"}), file
        assert not (package_of(file) == "models" and used & {"data", "config"}), file
        assert not (package_of(file) == "config" and used & {"data", "models"}), file


def test_hydra_and_omegaconf_stay_in_config_and_sweeps() -> None:
    for file in files():
        used = {name.split(".")[0] for name in imports(file)}
        if package_of(file) not in HYDRA_HOMES:
            assert not used & {"hydra", "omegaconf"}, file


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_light_packages_load_neither_torch_nor_lightning(package: str) -> None:
    """Import every module of the package in a process of its own and look at what is loaded."""
    modules = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in files()
        if package_of(file) == package
    ]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "lightning", "torchvision", "torchmetrics"}


def imports_on_load(file: Path) -> Iterator[str]:
    """The dotted modules that importing a file imports: not those inside functions or under TYPE_CHECKING."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            homes = opsin.data._HOMES if node.module == "opsin.data" else {}
            names = [homes.get(alias.name, f"{node.module}.{alias.name}") for alias in node.names]
            yield from (name for name in names if is_module(name))
            yield node.module
        else:
            waiting += ast.iter_child_nodes(node)


def chains(start: str) -> dict[str, tuple[str, ...]]:
    """Every module of Opsin or of a library that importing a module loads, with the chain of imports from it."""
    found: dict[str, tuple[str, ...]] = {start: (start,)}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        path = PACKAGE.parent.joinpath(*name.split("."))
        file = next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)
        parents = [name.rpartition(".")[0]] if "." in name else []
        for other in [*parents, *(imports_on_load(file) if file else ())]:
            if other not in found:
                found[other] = (*found[name], other)
                if other.startswith("opsin"):
                    waiting.append(other)
    return found


def test_a_prediction_loads_neither_lightning_nor_large_libraries() -> None:
    """`opsin predict` starts about as fast as `import torch`; `tests/commands/test_loaded_modules.py` starts it."""
    for start in ("inference.predictor", "inference.image_arguments", "inference.prediction_writers", "data.progress"):
        loaded = chains(f"opsin.{start}")
        assert len(loaded) > 3
        for name, chain in loaded.items():
            assert name.split(".")[0] not in HEAVY, " -> ".join(chain)
    assert "lightning" in chains("opsin.training.build")


def test_importing_opsin_is_lazy() -> None:
    code = "import opsin, sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "lightning", "hydra", "numpy"}
