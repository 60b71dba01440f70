"""Private names of libraries occur in known files only, which are checked against each new version of a library."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "opsin"

KNOWN = {
    # Hydra and OmegaConf
    "config/hydra_session.py": {
        *("hydra._internal.core_plugins", "hydra._internal.hydra"),
        *("hydra._internal.sources_registry", "hydra._internal.utils"),
    },
    "config/resolvers.py": {"_get_full_key"},
    # Lightning
    "training/lightning_patches.py": {
        *("_SubprocessScriptLauncher", "_launcher", "_optimizer", "_FitLoop", "_should_accumulate"),
        *("_should_check_val_fx", "_should_check_val_epoch", "_can_stop_early", "_build_kwargs"),
        *("_batches_that_stepped", "_iteration_based_training", "_logger_connector"),
        "_step_supports_amp_scaling",  # of torch; Lightning reads it
    },
    "training/callbacks/early_stopping.py": {"_evaluate_stopping_criteria"},
    # torch
    "models/torch_internals.py": {
        "_compiled_call_impl",
        "torch.jit._trace",
        "torch.utils._python_dispatch",
        "torch.utils._pytree",
    },
    "models/pretrained/timm_modules.py": {"_modules", "_buffers", "_parameters"},
    "models/pretrained/timm_stages.py": {"_modules", "_buffers", "_parameters"},
    "models/summary/positions.py": {"_unsafe_view"},
    "models/summary/receptive_field.py": {"_adaptive_avg_pool2d"},
    "training/full_precision.py": {"_apply"},
    "training/distillation.py": {"_apply"},
    "training/callbacks/freeze_phases.py": {"_remove_autograd_hooks"},
    "training/loggers/tensorboard.py": {"_get_file_writer"},
    # torchmetrics, Optuna, Ray, datasets
    "training/metrics.py": {"_update_count"},
    "sweeps/study.py": {"_study_id", "_storage", "_trial_id"},
    "sweeps/launchers/ray_cluster.py": {"_private"},
    "data/datasets/hugging_face_columns.py": {"_fingerprint", "_indices"},
}
PUBLIC = {"_replace", "_asdict", "_fields", "_exit", "_device_cache"}
"""Of named tuples and `os`, documented in spite of the underscore; `_device_cache` is Opsin's own."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_names(file: Path) -> set[str]:
    """Private attributes of objects other than `self`, and imports of private modules and names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.name for alias in node.names if is_private(alias.name)}
            if any(is_private(part) for part in node.module.split(".")):
                found.add(node.module)
    return found


def test_private_names_occur_in_known_files_only() -> None:
    found = {str(file.relative_to(PACKAGE)): names for file in PACKAGE.rglob("*.py") if (names := private_names(file))}
    assert found == KNOWN
