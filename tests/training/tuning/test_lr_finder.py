"""The range test, on curves with known results and on the bundled digits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin.config import compose
from opsin.errors import UserError
from opsin.training import build
from opsin.training.plan import make_plan
from opsin.training.tuning import RangeTest, TrialSteps, draw_curve, range_test
from opsin.training.tuning.lr_finder import smoothed, steepest, valley

RATES = np.geomspace(1e-7, 10, 161)


def curve(falls_at: float = 1e-3, explodes_at: float = 1.0) -> list[float]:
    fall = 2.0 - 1.5 / (1 + (falls_at / RATES) ** 2)
    return (fall + (RATES / explodes_at) ** 2).tolist()


def test_the_steepest_point_is_found() -> None:
    found = RATES[steepest(RATES.tolist(), curve(1e-3))]
    assert found == pytest.approx(1e-3, rel=0.2)


def test_first_steps_do_not_count_as_a_fall() -> None:
    noisy = curve(1e-3)
    noisy[0] += 5
    assert RATES[steepest(RATES.tolist(), noisy)] == pytest.approx(1e-3, rel=0.2)


def test_the_valley_ignores_bumps_and_lies_before_the_lowest_loss() -> None:
    flat = [2.0] * 80 + np.linspace(2, 1, 40).tolist() + [1.5, 3.0, 9.0]
    assert valley(flat) == 119 - 20
    bumpy = list(flat)
    bumpy[90] = bumpy[100] = 5.0
    assert abs(valley(bumpy) - valley(flat)) <= 2


def test_smoothing_starts_without_bias() -> None:
    assert smoothed([3.0] * 5) == pytest.approx([3.0] * 5)
    assert smoothed([0.0] * 50 + [1.0])[-1] == pytest.approx(0.1, rel=0.01)


def test_short_curves_give_a_suggestion() -> None:
    test = RangeTest([1e-3, 1e-2, 1e-1], [3.0, 2.0, 4.0], 8, True)
    assert test.steepest in test.rates
    assert test.suggested == test.valley in test.rates


@pytest.fixture
def tested(tmp_path: Path):
    def tested(*words: str, lowest: float = 1e-7, highest: float = 10.0) -> RangeTest:
        quick = ["model=mlp", "trainer=cpu", f"data_dir={tmp_path}", "datamodule.batch_size=64"]
        plan = make_plan(compose([*quick, *words], tmp_path / "run"))
        data = build.data(plan)
        data.setup("fit")
        trials = TrialSteps(plan, data, build.loss(plan, data), tmp_path / "run")
        return range_test(plan, data, trials, steps=60, lowest=lowest, highest=highest)

    return tested


def test_the_range_test_on_digits_suggests_a_plausible_rate(tested) -> None:
    test = tested()
    assert 1e-5 < test.valley < 0.1
    assert test.rates[0] == pytest.approx(1e-7)
    assert min(test.smooth) < test.smooth[0] < max(test.losses)
    assert test.batch_size == 64


@pytest.mark.slow
def test_accumulated_batches_are_one_step(tested) -> None:
    one, two = (
        tested("datamodule.batch_size=64"),
        tested("trainer.accumulate_grad_batches=2", "datamodule.batch_size=32"),
    )
    assert two.losses[0] == pytest.approx(one.losses[0], rel=0.2)
    assert len(two.losses) > 20


def test_parameter_groups_keep_the_ratio_of_their_rates(tested, monkeypatch: pytest.MonkeyPatch) -> None:
    from opsin.training.tuning import lr_finder

    seen = []

    class Spy(lr_finder._Raise):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            seen.append({group["name"].split("/")[0]: group["lr"] for group in trainer.optimizers[0].param_groups})

    monkeypatch.setattr(lr_finder, "_Raise", Spy)
    test = tested("model.backbone_lr_factor=0.1")
    assert len(seen) >= len(test.rates)
    for rates, expected in zip(seen, test.rates, strict=False):
        assert rates["head"] == pytest.approx(expected)
        assert rates["backbone"] == pytest.approx(0.1 * expected)


def test_a_loss_that_is_not_finite_from_the_start_is_refused(tested) -> None:
    with pytest.raises(UserError, match="lower --lowest"):
        tested("optimizer=sgd", lowest=1e30, highest=1e31)


def test_the_picture_shows_curve_and_suggestions(tmp_path: Path) -> None:
    losses = curve()
    test = RangeTest(RATES.tolist(), losses, 8, True)
    draw_curve(test, "a title", tmp_path / "curve.png")
    picture = np.asarray(Image.open(tmp_path / "curve.png").convert("RGB")).astype(int)
    assert picture.shape == (560, 960, 3)
    for color in ((0x1F, 0x5F, 0xBF), (0x1B, 0x7F, 0x3B), (0xC4, 0x50, 0x1B)):
        assert (np.abs(picture - color).sum(2) < 60).sum() > 30
