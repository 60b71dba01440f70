import pytest

from benchmarks.goals import at_least, at_most, goal_results, spread
from benchmarks.workloads import EXTRAS, GOALS, WORKLOADS, Goal


def test_spread():
    found = spread([3.0, 1.0, 10.0, 2.0])
    assert (found.median, found.low, found.high, found.n) == (2.5, 1.0, 10.0, 4)
    assert str(spread([1234.4, 1236.0, 1200.0])) == "1,234 (1,200 to 1,236)"
    assert str(spread([1.234])) == "1.23 (1.23 to 1.23)"


def test_a_ratio_of_medians_may_be_unknown():
    goals = (Goal("a", "opsin", "common", 2.0), Goal("b", "opsin", "bare", 2.0), Goal("c", "opsin", "bare", 2.0))
    found = goal_results(goals, {"a": {"opsin": 10.0, "common": 5.0}, "b": {"opsin": 10.0, "bare": None}})
    assert [(v.value, v.met, v.status) for v in found] == [(2.0, True, "met"), (None, None, "not measured")]
    assert found[0].figure == "(d) / (c) a"
    assert found[0].text == "2.00"


@pytest.mark.parametrize(("value", "status"), [(1.99, "not met"), (2.0, "met"), (None, "not measured")])
def test_at_least(value, status):
    assert at_least("x", value, 2.0).status == status


@pytest.mark.parametrize(("value", "status"), [(500.1, "not met"), (500.0, "met"), (None, "not measured")])
def test_at_most(value, status):
    goal_result = at_most("x", value, 500.0, "MB")
    assert goal_result.status == status
    assert goal_result.goal == "at most 500 MB"


def test_the_goals():
    stated = {(goal.workload, goal.slower): goal.at_least for goal in GOALS if goal.faster == "opsin"}
    assert stated == {
        ("mnist_256", "bare_same"): 0.97,
        ("mnist_64", "bare_same"): 0.93,
        ("mnist_256", "bare"): 2.0,
        ("mnist_256", "common"): 2.0,
        ("mnist_64", "common"): 2.0,
        ("cifar10", "common"): 3.0,
        ("cats_vs_dogs", "common"): 3.0,
        ("resnet18_feature_extract", "common"): 8.0,
        ("efficientnet_lite0_feature_extract", "common"): 8.0,
        ("resnet18_partial", "opsin_uncached"): 2.0,
    }
    work = {workload.name: workload for workload in WORKLOADS}
    assert len(work) == len(WORKLOADS)
    assert not set(work) & set(EXTRAS)
    for goal in GOALS:
        assert {goal.faster, goal.slower} <= set(work[goal.workload].contenders)
