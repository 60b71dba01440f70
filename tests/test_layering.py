"""Who may import whom: downward only."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "opsin"

LAYERS = [  # each may import those above it in this list, and itself where it is a package
    {"errors"},
    {"rundir", "launching", "sharding"},
    {"config", "pictures", "predictions", "processes", "study"},
    {"check", "loss", "optim", "loggers", "trainer", "data", "models"},
    {"metrics", "transfer", "distillation", "extraction", "collecting", "analysis", "insight"},
    {"callbacks", "report"},
    {"classifier", "unfreezing", "feature_cache", "sweep"},
    {"build"},
    {"learned", "heads"},
    {"teacher", "images"},
    {"result", "tuning", "prediction", "illustrations"},
    {"run"},
    {"joining"},
    {"embedding", "benchmark", "interpretation"},
    {"explorer"},
]
HYDRA_HOMES = {"config", "sweep"}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file} imports relatively"
            yield node.module
            if node.module == "opsin":
                yield from (f"opsin.{alias.name}" for alias in node.names)


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def files() -> list[Path]:
    found = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]
    assert len(found) > 40
    return found


def test_every_part_has_a_layer() -> None:
    assert {part_of(file) for file in files()} == set.union(*LAYERS)


def test_imports_go_downward() -> None:
    height = {part: level for level, parts in enumerate(LAYERS) for part in parts}
    wrong = []
    for file in files():
        here = part_of(file)
        for name in imports(file):
            if name.startswith("opsin."):
                there = name.split(".")[1]
                if there != here and height[there] >= height[here]:
                    wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_data_and_models_never_import_each_other() -> None:
    for file in files():
        used = {name.split(".")[1] for name in imports(file) if name.startswith("opsin.")}
        if part_of(file) == "data":
            assert "models" not in used
        if part_of(file) == "models":
            assert "data" not in used


def test_hydra_and_omegaconf_stay_at_the_top() -> None:
    for file in files():
        used = {name.split(".")[0] for name in imports(file)}
        if part_of(file) not in HYDRA_HOMES:
            assert not used & {"hydra", "omegaconf"}, file


def test_what_reports_runs_does_not_need_lightning() -> None:
    for part in ("errors", "rundir", "config", "pictures", "predictions", "analysis", "report"):
        for file in files():
            if part_of(file) == part:
                assert not {name.split(".")[0] for name in imports(file)} & {"lightning", "torch", "torchvision"}
