"""A run too short for its moving average gets a warning with a suitable decay."""

import logging
from types import SimpleNamespace

import pytest

from opsin.training.callbacks import EMA
from opsin.training.callbacks.ema import fitting_decay


def said(caplog: pytest.LogCaptureFixture, steps: float, **options: float) -> str:
    caplog.clear()
    trainer = SimpleNamespace(estimated_stepping_batches=steps, is_global_zero=True)
    with caplog.at_level(logging.WARNING, "opsin"):
        EMA(**options).on_train_start(trainer, None)
    return caplog.text


def test_a_short_run_gets_a_warning_with_a_suitable_decay(caplog: pytest.LogCaptureFixture) -> None:
    text = said(caplog, 50)
    assert "95%" in text
    assert "A suitable value is callbacks.ema.decay=0.8" in text
    assert "decay=0.9955" in said(caplog, 2222)


def test_a_long_run_or_a_suitable_decay_gets_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, 5000) == ""
    assert said(caplog, float("inf")) == ""
    assert said(caplog, 50, decay=fitting_decay(50)) == ""


def test_the_warning_counts_updates_and_not_steps(caplog: pytest.LogCaptureFixture) -> None:
    assert "the 500 updates" in said(caplog, 5000, update_every_n_steps=10)
