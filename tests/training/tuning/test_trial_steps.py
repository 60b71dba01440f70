"""Trial steps are real training steps without side effects."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from opsin.config import compose
from opsin.training import build
from opsin.training.plan import make_plan
from opsin.training.tuning.trial_steps import TrialSteps, Watch


class Kept(Watch):
    def on_train_start(self, trainer, pl_module) -> None:
        self.precision = trainer.precision
        self.weights = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
        self.channels_last = next(p for p in pl_module.parameters() if p.ndim == 4).is_contiguous(
            memory_format=torch.channels_last
        )
        self.sizes = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps = trainer.global_step
        self.sizes.append(len(batch.targets))
        self.moved = [n for n, v in pl_module.network.state_dict().items() if not torch.equal(v, self.weights[n])]


@pytest.fixture
def parts(tmp_path: Path):
    words = ["model=strided_cnn", "model.trainable=[block5]", "trainer=cpu", "trainer.precision=bf16", "debug=profile"]
    composed = compose([*words, f"data_dir={tmp_path}", "augmentation=digits", "scheduler=onecycle"], tmp_path / "run")
    plan = make_plan(composed)
    data = build.data(plan)
    data.setup("fit")
    return plan, data, build.loss(plan, data), tmp_path / "run"


def test_trial_steps_use_the_settings_of_the_config(parts) -> None:
    watch = Kept()
    TrialSteps(*parts).run(watch, batch_size=500, steps=4)  # more than an epoch of 1,294 images
    assert watch.steps == 4
    assert watch.sizes == [500, 500, 294, 500]
    assert watch.precision == "bf16-mixed"
    assert watch.channels_last
    assert watch.moved
    assert all(name.startswith(("head.", "stages.block5.")) for name in watch.moved)


def generators() -> list:
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002 - it is the one that must not move
    return [random.getstate(), legacy, torch.get_rng_state().tolist()]


def test_trial_steps_do_not_change_generators_data_or_files(parts, tmp_path: Path) -> None:
    plan, data, loss, folder = parts
    before = generators()
    told, files = (data.batch_size, data.trainer, data.eval_batch_size), set(tmp_path.rglob("*"))
    TrialSteps(plan, data, loss, folder).run(Watch(), batch_size=40, steps=3)
    assert generators() == before
    assert (data.batch_size, data.trainer, data.eval_batch_size) == told
    assert set(tmp_path.rglob("*")) == files
