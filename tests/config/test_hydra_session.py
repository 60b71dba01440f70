"""Search paths of Hydra: no entry imports a module without permission."""

import sys
from pathlib import Path

import pytest

from opsin.config import ConfigSource, compose_raw
from opsin.config.hydra_session import hydra_state, load
from opsin.errors import UserError


@pytest.fixture
def module(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with config files that leaves a file behind when it is imported."""
    folder = in_tmp / "site" / "evil_configs"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text(f"open({str(in_tmp / 'imported')!r}, 'w').close()\n")
    (folder / "model" / "theirs.yaml").write_text("_target_: opsin.models.mlp\n")
    monkeypatch.syspath_prepend(str(in_tmp / "site"))
    yield in_tmp / "imported"
    sys.modules.pop("evil_configs", None)


@pytest.mark.parametrize("entry", ["pkg://evil_configs", "pkg://evil_configs/model", "structured://evil_configs"])
def test_a_search_path_imports_no_module(entry: str, module: Path, in_tmp: Path) -> None:
    (in_tmp / "mine.yaml").write_text(f"defaults: [train, _self_]\nhydra:\n  searchpath: ['{entry}']\n")
    attempts = (
        ([f"hydra.searchpath=['{entry}']"], ConfigSource()),
        ([], ConfigSource.of([str(in_tmp)], "mine")),
        ([], ConfigSource((entry,))),
    )
    for overrides, source in attempts if entry.startswith("pkg") else attempts[:2]:
        with pytest.raises(UserError, match=r"hydra\.searchpath: \S+ is not accepted"):
            compose_raw(overrides, source)
    assert not module.exists()


def test_a_permitted_package_may_hold_config_files(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSIN_TARGETS", "evil_configs")
    composed = compose_raw(["hydra.searchpath=['pkg://evil_configs']", "model=theirs"])
    assert composed.model._target_ == "opsin.models.mlp"
    assert module.exists()


def test_hydra_of_the_caller_keeps_its_own_sources() -> None:
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    Plugins.instance()
    before = dict(SourcesRegistry.instance().types)
    with hydra_state():
        load(["model=mlp"])
    assert SourcesRegistry.instance().types == before


def test_a_process_composes_again_after_its_first_state_was_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins
    from hydra.core.singleton import Singleton

    fresh = {key: value for key, value in Singleton._instances.items() if key not in (Plugins, SourcesRegistry)}
    monkeypatch.setattr(Singleton, "_instances", fresh)
    for _ in range(2):
        with hydra_state():
            assert load(["model=mlp"]).model._target_ == "opsin.models.mlp"
