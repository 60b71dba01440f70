"""Search space of a sweep: fixed overrides, lists and ranges."""

import pytest

from opsin.errors import UserError
from opsin.sweeps.search_space import Listed, Ranged, read_space


def test_lists_ranges_and_fixed_overrides() -> None:
    overrides = [
        "model=mlp,cnn_gap",
        "seed=range(3)",
        "optimizer.lr=tag(log,interval(0.0001,0.1))",
    ]
    space = read_space([*overrides, "trainer.max_epochs=2", "model.hidden=int(interval(16,128))"], {})
    assert space.fixed == ("trainer.max_epochs=2",)
    assert space.dimensions == (
        Listed("model", ("mlp", "cnn_gap")),
        Listed("seed", ("0", "1", "2")),
        Ranged("optimizer.lr", 0.0001, 0.1, log=True),
        Ranged("model.hidden", 16, 128, whole=True),
    )


def test_a_grid_yields_every_combination_as_overrides() -> None:
    space = read_space(["model=mlp,cnn_gap", "+trainer.x=[1,2],[3]", "~logger.a", "data_dir=/d"], {})
    runs = list(space.grid())
    assert len(runs) == 4
    assert space.overrides(runs[1]) == ("~logger.a", "data_dir=/d", "model=mlp", "+trainer.x=[3]")
    assert space.varied(runs[2], without=("trainer.x",)) == "model=cnn_gap"
    assert space.sets("trainer.x")
    assert space.sets("data_dir")
    assert not space.sets("test")


def test_a_space_takes_the_order_of_recorded_values() -> None:
    space = read_space(["model=mlp,cnn_gap", "seed=0,1,2", "optimizer.lr=interval(0,1)"], {})
    assert space.lists == {"model": ("mlp", "cnn_gap"), "seed": ("0", "1", "2")}
    ordered = space.ordered({"seed": ["2", "0", "1"]})
    assert ordered.lists == {"model": ("mlp", "cnn_gap"), "seed": ("2", "0", "1")}
    assert ordered.dimensions[2] == space.dimensions[2]
    assert space.ordered({}) == space


def test_overrides_replace_keys_of_a_sweep_file() -> None:
    space = read_space(["model=mlp"], {"model": "mlp,cnn_gap", "seed": [0, 1], "trainer.max_epochs": 5, "test": True})
    assert space.fixed == ("trainer.max_epochs=5", "test=true", "model=mlp")
    assert space.dimensions == (Listed("seed", ("0", "1")),)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=interval(1,0)", "the lower number comes first"),
        ("optimizer.lr=tag(log,interval(0,1))", "must begin above 0"),
        ("model=a,(", "cannot be read"),
        ("optimizer.lr=interval(0,inf)", "too wide"),
        ("optimizer.lr=int(interval(-1e308,1e308))", "too wide"),
        ("seed=range(1,10,0)", "its step must not be 0"),
        ("seed=shuffle(range(1,10,0))", "its step must not be 0"),
        ("optimizer.lr=range(0.1,1,0)", "its step must not be 0"),
        ("optimizer.lr=range(0,nan)", "must be numbers"),
        ("optimizer.lr=range(0,inf)", "lists more than 100,000 values"),
        ("seed=range(0)", "the range is empty"),
        ("optimizer.lr=range(0.5,0.1)", "the range is empty"),
    ],
)
def test_an_invalid_override_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_space([override], {})


@pytest.mark.parametrize(
    ("overrides", "fixed", "values"),
    [
        (["optimizer.lr=0.1,0.01", "optimizer.lr=0.001,0.0001"], (), [("0.001", "0.0001")]),
        (["optimizer.lr=0.1,0.01", "optimizer.lr=0.05"], ("optimizer.lr=0.05",), []),
        (["model=mlp", "model=lenet5,cnn_gap"], ("model=mlp",), [("lenet5", "cnn_gap")]),
        (["optimizer.lr=interval(0.1,1)", "~optimizer.lr"], ("~optimizer.lr",), []),
        (["+optimizer.lr=0.05", "optimizer.lr=0.1,1"], ("+optimizer.lr=0.05",), [("0.1", "1")]),
    ],
)
def test_the_last_override_of_a_key_counts_as_in_a_single_run(
    overrides: list[str], fixed: tuple[str, ...], values: list[tuple[str, ...]]
) -> None:
    space = read_space(overrides, {})
    assert space.fixed == fixed
    assert [dimension.values for dimension in space.dimensions] == values


def test_a_deleted_key_may_be_added_again() -> None:
    assert len(read_space(["~optimizer.lr", "+optimizer.lr=0.1,0.2"], {}).dimensions) == 1


def test_the_last_value_of_a_fixed_key_counts_as_in_a_single_run() -> None:
    assert read_space(["seed=1", "seed=2", "model=mlp,cnn_gap"], {"seed": "3,4"}).fixed == ("seed=1", "seed=2")


def test_a_grid_of_a_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer.lr has a range, but a grid needs a list.*sweep.sampler to tpe"):
        list(read_space(["optimizer.lr=interval(0,1)"], {}).grid())


def test_glob_lists_every_matching_option() -> None:
    [models] = read_space(["model=glob(cnn_*)"], {}).dimensions
    names = ("batchnorm", "deep", "flatten", "gap", "kernels", "plain", "strided_stem", "whitened")
    assert models == Listed("model", tuple(f"cnn_{name}" for name in names))


def test_a_glob_selects_the_options_of_a_group() -> None:
    space = read_space(
        ["experiment=glob(mnist_cnn*)", "model=glob([cnn_*,mlp],exclude=[cnn_d*,cnn_k*,cnn_p*,*_stem,*_whitened])"], {}
    )
    experiments, models = space.dimensions
    assert experiments == Listed("experiment", ("mnist_cnn_flatten", "mnist_cnn_gap"))
    assert models == Listed("model", ("cnn_batchnorm", "cnn_flatten", "cnn_gap", "mlp"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "experiment=glob(digits*)",
            r"glob\(digits\*\): no option of experiment matches. Its options are .*quickstart",
        ),
        ("model=glob([a*z,b*z])", "no option of model matches"),
        ("experimnt=glob(*)", r"experimnt is not a config group: did you mean experiment\?"),
        ("optimizer.lr=glob(*)", "optimizer.lr is not a config group"),
    ],
)
def test_a_glob_without_a_match_is_refused(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_space([override], {})
