import numpy as np
import pytest
from made_records import correct_bits, made_record

from benchmarks.reproduce.conclusions import (
    against_figure,
    between_rows,
    divergence,
    further_run,
    gap,
    gap_between,
    mean_accuracy,
    metric_difference,
    percent,
    rises,
)
from benchmarks.reproduce.rows import Figure

STATED = Figure("97.8 %", 0.9775, 0.9785)
OVER_70 = Figure("over 70 %", 0.70, 1.0)


def records(*accuracies, row="own", first=0, **more):
    return [made_record(row, i, correct_bits(value, first=first), **more) for i, value in enumerate(accuracies)]


def with_curves(row, curves):
    made = []
    for seed, (train, val, losses) in enumerate(curves):
        kept = {"train/acc": train, "train/loss": losses, "val/acc": val, "val/loss": losses}
        made.append(made_record(row, seed, correct_bits(0.9), curves=kept))
    return made


def test_the_mean_has_the_interval_over_seeds_or_images():
    over_seeds = mean_accuracy(records(0.87, 0.88, 0.89))
    assert over_seeds.estimate == pytest.approx(0.88)
    assert over_seeds.margin == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    over_images = mean_accuracy(records(0.9))
    assert over_images.low < 0.9 < over_images.high


@pytest.mark.parametrize("accuracies", [(0.97, 1.0), (0.98, 0.99, 1.0), (0.0, 0.02), (0.1, 0.9)])
def test_intervals_of_accuracies_stay_between_0_and_1(accuracies):
    for interval in (mean_accuracy(records(*accuracies)), further_run(records(*accuracies), STATED)):
        assert 0 <= interval.low <= np.mean(accuracies) <= interval.high <= 1
        assert interval.low == 0 or interval.high == 1


def test_a_stated_figure_inside_the_prediction_interval_is_not_distinguishable():
    found = further_run(records(0.975, 0.978, 0.981), STATED)
    assert found.margin == pytest.approx(4.3027 * 0.003 * (4 / 3) ** 0.5, rel=1e-3)
    assert against_figure(records(0.975, 0.978, 0.981), STATED).startswith("Not distinguishable from the stated 97.8 %")
    assert against_figure(records(0.990, 0.991, 0.992), STATED).startswith("Higher than the stated 97.8 %")
    assert against_figure(records(0.950, 0.951, 0.952), STATED).startswith("Lower than the stated 97.8 %")
    assert against_figure(records(0.99), STATED) == "One run is not enough to test the stated 97.8 %."


def test_other_test_images_make_the_interval_wider():
    runs = records(0.80, 0.801, 0.802)
    widths = [further_run(runs, Figure("x", 0.8, 0.8, images=n)).margin for n in ("same", 18_728, "unknown", 100)]
    assert widths == sorted(widths)
    assert widths[0] < widths[1]


def test_a_minimum_is_confirmed_contradicted_or_neither():
    assert against_figure(records(0.72, 0.721, 0.722), OVER_70).startswith("Confirmed")
    assert against_figure(records(0.62, 0.621, 0.622), OVER_70).startswith("Contradicted")
    assert against_figure(records(0.69, 0.70, 0.71), OVER_70).startswith("Not distinguishable from 70 %")


def test_rows_that_differ_on_the_same_images():
    better, worse = records(0.95, 0.951, 0.952), records(0.90, 0.901, 0.902, row="other")
    assert between_rows(better, "other", worse).startswith("Better than `other` by 5.00 points")
    assert between_rows(worse, "own", better).startswith("Worse than `own` by 5.00 points")
    assert "over 3 seeds" in between_rows(better, "other", worse)


def test_rows_that_are_not_distinguishable():
    a = records(0.95, 0.94, 0.96)
    b = records(0.94, 0.96, 0.95, row="other", first=40)
    assert between_rows(a, "other", b).startswith("Not distinguishable from `other`: ")
    one = between_rows(a[:1], "other", records(0.949, row="other"))
    assert one.startswith("Not distinguishable from `other`")
    assert "McNemar's test of one pair of runs" in one


def test_rows_are_compared_on_the_same_images_and_seeds_only():
    assert between_rows(records(0.9), "other", records(0.8, row="other", images="others")) == ""
    assert between_rows(records(0.9), "other", []) == ""


def test_the_rise_of_the_validation_loss_is_measured_from_the_best_epoch_of_the_other_seeds():
    curves = [([1.0] * 3, [0.8] * 3, losses) for losses in ([0.5, 0.4, 0.9], [0.5, 0.4, 0.8], [0.3, 0.4, 0.7])]
    assert rises(with_curves("own", curves)) == pytest.approx([0.4, 0.3, 0.3])  # from epochs 1, 1 and 2


def test_networks_that_overfit_and_networks_that_do_not():
    def of(final_train, final_loss, row):
        losses = [[0.6, 0.4, final_loss + shift] for shift in (0.0, 0.01, 0.02)]
        return with_curves(row, [([0.7, 0.8, final_train + i / 100], [0.7, 0.8, 0.8], x) for i, x in enumerate(losses)])

    overfits, does_not = of(0.95, 0.7, "own"), of(0.79, 0.39, "other")
    assert gap(overfits).startswith("It overfits: in the last epoch, ")
    assert "training accuracy minus validation accuracy is +16.0 points" in gap(overfits)
    assert gap(does_not).startswith("Overfitting is not distinguishable: ")
    assert gap(overfits[:1]) == ""
    assert gap_between(does_not, "own", overfits).startswith("Its gap is smaller than that of `own`: -16.0 points")
    assert gap_between(overfits, "own", overfits).startswith("Its gap is not distinguishable from that of `own`")


def test_the_difference_of_a_metric_is_paired_by_seed():
    a = [made_record("a", i, correct_bits(0.9), metrics={"test/loss": 0.5 + i}) for i in range(3)]
    b = [made_record("b", i, correct_bits(0.9), metrics={"test/loss": 0.4 + i}) for i in range(3)]
    found, seeds = metric_difference("test/loss", a, b)
    assert seeds == 3
    assert (found.estimate, found.margin) == (pytest.approx(0.1), pytest.approx(0, abs=1e-5))
    assert metric_difference("test/loss", a[:1], b) is None


@pytest.mark.parametrize(("value", "text"), [(0.9725, "97.25 %"), (1.0, "100.00 %"), (np.nan, "nan %")])
def test_percentages(value, text):
    assert percent(value) == text


def test_a_training_loss_that_ends_higher_with_every_seed_is_a_divergence():
    rising = [made_record("own", seed, [True], curves={"train/loss": [1.0 + seed, 40.0, 5.0]}) for seed in range(2)]
    falling = made_record("own", 2, [True], curves={"train/loss": [1.0, None, 0.9]})
    expected = "the training loss rises from 1.5 in the first epoch to 5 in the last (highest: 40)"
    assert expected in divergence(rising)
    assert divergence([*rising, falling]) == ""
    assert divergence([made_record("own", 0, [True], curves={"train/loss": [None]})]) == ""
