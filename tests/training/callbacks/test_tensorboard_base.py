"""Common part of the TensorBoard callbacks: how often pictures are drawn, and how images are shown."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opsin.data.preprocessing import Preprocess
from opsin.training.callbacks import tensorboard_base
from opsin.training.callbacks.tensorboard_base import EpochPicture, as_pixels


class Slow(EpochPicture):
    """Takes a second for every picture, by a clock of its own."""

    first_cost = 1.0

    def __init__(self, clock: "Clock", **options: object) -> None:
        super().__init__(**options)
        self.clock, self.drawn, self.steps = clock, [], []

    def board(self, trainer: object) -> object:
        return self

    def draw(self, board: object, trainer: SimpleNamespace, pl_module: object, step: int) -> None:
        self.clock.now += 1.0
        self.drawn.append(trainer.current_epoch + 1)
        self.steps.append(step)


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def validate(callback: EpochPicture, trainer: SimpleNamespace) -> None:
    callback.on_validation_epoch_end(trainer, None)
    callback.on_validation_end(trainer, None)


def epochs(monkeypatch: pytest.MonkeyPatch, count: int, seconds: float, **options: object) -> list[int]:
    """The epochs, counted from 1, after which a picture is drawn."""
    clock = Clock()
    monkeypatch.setattr(tensorboard_base, "time", clock)
    callback = Slow(clock, **options)
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), world_size=1, global_step=0, current_epoch=0)
    callback.on_train_start(trainer, None)
    for epoch in range(count):
        trainer.current_epoch, trainer.global_step = epoch, (epoch + 1) * 10
        clock.now += seconds
        validate(callback, trainer)
    callback.on_fit_end(trainer, None)
    return callback.drawn


def test_pictures_take_at_most_the_given_share_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert epochs(monkeypatch, 10, 100.0, share=0.01) == list(range(1, 11))
    assert epochs(monkeypatch, 10, 40.0, share=0.01) == [3, 5, 8, 10]
    assert epochs(monkeypatch, 10, 1.0, share=0.01) == [10], "the end is drawn whatever it costs"


def test_the_last_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert epochs(monkeypatch, 6, 1.0, every_n_epochs=3) == [3, 6]
    assert epochs(monkeypatch, 5, 1.0, every_n_epochs=3) == [3, 5]
    assert epochs(monkeypatch, 0, 1.0) == [], "without a validation there is nothing to draw"


class Matrix(Slow):
    shows_validation = True


@pytest.mark.parametrize(
    ("kind", "every", "expected"),
    [(Matrix, 1, [9, 19]), (Matrix, 3, [19]), (Slow, 1, [9, 19, 24]), (Slow, 3, [24])],
)
def test_a_picture_of_a_validation_has_its_step(kind: type[Slow], every: int, expected: list[int]) -> None:
    """Training ends five steps after the last validation; a picture of the network shows its end."""
    callback = kind(Clock(), every_n_epochs=every)
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), world_size=1, global_step=0, current_epoch=0)
    callback.on_train_start(trainer, None)
    for epoch, step in enumerate((10, 20)):
        trainer.current_epoch, trainer.global_step = epoch, step
        validate(callback, trainer)
    trainer.global_step = 25
    callback.on_fit_end(trainer, None)
    assert callback.steps == expected


def test_as_pixels_inverts_the_normalization() -> None:
    pixels = torch.randint(0, 256, (4, 3, 7, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    preprocess = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3)
    np.testing.assert_array_equal(as_pixels(preprocess(pixels), preprocess), pixels.permute(0, 2, 3, 1).numpy())
