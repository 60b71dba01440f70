"""Private names and undocumented behavior of Lightning: if a new version changes one, a test fails and names it."""

import inspect
import os
from collections import OrderedDict
from pathlib import Path

import lightning
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer import call

from opsin.training.lightning_patches import (
    STEP_HOOKS,
    ScriptLauncher,
    no_trainer_variables,
    pass_step_arguments,
    set_launcher,
    torch_optimizer,
)
from opsin.training.lightning_trainer import make_trainer
from opsin.training.trainer import TrainerOptions

CHANGED = f"Lightning {lightning.__version__} has changed: see opsin.training.lightning_patches"


@pytest.mark.parametrize("owner", [L.Callback, L.LightningModule])
@pytest.mark.parametrize("name", STEP_HOOKS)
def test_the_hooks_of_a_step_exist(name: str, owner: type) -> None:
    assert callable(getattr(owner, name, None)), f"{CHANGED}: no hook {name} of {owner.__name__}"


@pytest.mark.parametrize("function", ["_call_callback_hooks", "_call_lightning_module_hook"])
def test_a_hook_that_is_not_callable_is_skipped(function: str) -> None:
    source = inspect.getsource(getattr(call, function))
    assert "callable(fn)" in source, f"{CHANGED}: a hook that is not callable is not skipped"


def test_the_arguments_of_a_training_step_are_batch_and_index() -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    loop = trainer.fit_loop.epoch_loop
    assert "self._build_kwargs(OrderedDict(), batch, batch_idx)" in inspect.getsource(type(loop)), CHANGED

    class Module(L.LightningModule):
        def training_step(self, batch: str, batch_idx: int) -> None: ...

    trainer.strategy._lightning_module = Module()
    expected = loop._build_kwargs(OrderedDict(), "a batch", 3)
    pass_step_arguments(trainer)
    found = loop._build_kwargs(OrderedDict(), "a batch", 3)
    assert list(found.items()) == list(expected.items()) == [("batch", "a batch"), ("batch_idx", 3)], CHANGED


def test_checkpoint_callbacks_run_after_the_module() -> None:
    source = inspect.getsource(L.pytorch.loops.fit_loop._FitLoop.on_advance_end)
    early, module, late = (
        source.find(text) for text in ("monitoring_callbacks=False", "_call_lightning_module_hook", "=True")
    )
    assert -1 < early < module < late, f"{CHANGED}: the order of on_train_epoch_end"
    assert issubclass(Checkpoint, L.Callback)


def test_the_launcher_of_a_strategy_can_be_set() -> None:
    strategy = SingleDeviceStrategy(device="cpu")
    launcher = ScriptLauncher(None, 1, 1)  # type: ignore[arg-type]
    set_launcher(strategy, launcher)
    assert strategy.launcher is launcher, f"{CHANGED}: Strategy._launcher"
    assert "ScriptLauncher" in inspect.getsource(DDPStrategy._configure_launcher), f"{CHANGED}: the launcher of DDP"


def test_the_optimizer_inside_the_wrapper_is_found() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    assert torch_optimizer(LightningOptimizer(optimizer)) is optimizer, f"{CHANGED}: LightningOptimizer._optimizer"
    assert torch_optimizer(optimizer) is optimizer


@pytest.mark.parametrize("name", ["_run_early_stopping_check", "_evaluate_stopping_criteria"])
def test_the_methods_that_early_stopping_extends_exist(name: str) -> None:
    assert callable(getattr(EarlyStopping, name, None)), f"{CHANGED}: no EarlyStopping.{name}"


@pytest.mark.parametrize(
    "name", ["_should_check_val_fx", "_should_check_val_epoch", "restarted_on_last", "_should_accumulate"]
)
def test_the_methods_that_decide_on_a_validation_exist(name: str) -> None:
    loop = L.pytorch.loops.training_epoch_loop._TrainingEpochLoop
    assert hasattr(loop, name), f"{CHANGED}: no _TrainingEpochLoop.{name}"
    assert f"self.{name}" in inspect.getsource(loop), f"{CHANGED}: {name} decides nothing"


@pytest.mark.parametrize("name", ["_iteration_based_training", "_can_stop_early"])
def test_the_names_that_end_training_by_steps_exist(name: str) -> None:
    loop = L.pytorch.loops.fit_loop._FitLoop
    assert f"self.{name}" in inspect.getsource(loop), f"{CHANGED}: no _FitLoop.{name}"


def test_the_writer_of_rows_has_a_method_that_deletes_the_file() -> None:
    writer = inspect.getsource(ExperimentWriter.__init__) + inspect.getsource(ExperimentWriter.__base__)
    for name in ("self._check_log_dir_exists()", "self.metrics_keys"):
        assert name in writer, f"{CHANGED}: no {name} in the CSV logger"


def test_an_epoch_writes_its_metrics_with_the_step_of_its_last_batch() -> None:
    loop, connector = L.Trainer(logger=False).fit_loop.epoch_loop, L.Trainer(logger=False)._logger_connector
    assert isinstance(getattr(loop, "_batches_that_stepped", None), int), f"{CHANGED}: no _batches_that_stepped"
    log = getattr(connector, "update_train_epoch_metrics", None)
    assert callable(log), f"{CHANGED}: no update_train_epoch_metrics"
    assert "reset_results" in inspect.getsource(log), f"{CHANGED}: the metrics of an epoch would be written twice"


def test_the_name_of_the_hook_in_progress_is_an_attribute() -> None:
    assert "_current_fx_name" in vars(L.LightningModule()), f"{CHANGED}: no LightningModule._current_fx_name"


VARIABLES = [
    ("PL_TRAINER_FAST_DEV_RUN", "1", "fast_dev_run"),
    ("PL_TRAINER_MIN_EPOCHS", "5", "min_epochs"),
    ("PL_TRAINER_OVERFIT_BATCHES", "1", "overfit_batches"),
    ("PL_TRAINER_GRADIENT_CLIP_ALGORITHM", "value", "gradient_clip_algorithm"),
    ("PL_TRAINER_VAL_CHECK_INTERVAL", "0.5", "val_check_interval"),
]


@pytest.mark.parametrize(("name", "value", "attribute"), VARIABLES)
def test_variables_of_lightning_do_not_change_a_run(
    name: str, value: str, attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> object:
        trainer = make_trainer(TrainerOptions(accelerator="cpu"), callbacks=[], loggers=[], folder=tmp_path)
        return getattr(trainer, attribute)

    expected = found()
    monkeypatch.setenv(name, value)
    assert found() == expected
    assert os.environ[name] == value  # other programs that this one starts may need it
    changed = getattr(L.Trainer(accelerator="cpu", logger=False), attribute)
    assert changed != expected, f"{CHANGED}: {name} has no effect, no_trainer_variables may be deleted"


def test_variables_of_lightning_return_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_MIN_EPOCHS", "5")
    with pytest.raises(ValueError, match="an error"), no_trainer_variables():
        raise ValueError("an error")
    assert os.environ["PL_TRAINER_MIN_EPOCHS"] == "5"
