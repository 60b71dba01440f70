"""Words of a multirun, divided into those of every run and those that vary."""

import pytest

from opsin.errors import UserError
from opsin.sweeps.search_space import Listed, Ranged, read_space


def test_lists_ranges_and_fixed_words() -> None:
    words = ["model=mlp,cnn_gap", "seed=range(3)", "optimizer.lr=tag(log,interval(0.0001,0.1))", "trainer.max_epochs=2"]
    space = read_space([*words, "model.hidden=int(interval(16,128))"], {})
    assert space.fixed == ("trainer.max_epochs=2",)
    assert space.dimensions == (
        Listed("model", ("mlp", "cnn_gap")),
        Listed("seed", ("0", "1", "2")),
        Ranged("optimizer.lr", 0.0001, 0.1, log=True),
        Ranged("model.hidden", 16, 128, whole=True),
    )


def test_a_grid_is_every_combination_and_gives_words_back() -> None:
    space = read_space(["model=mlp,cnn_gap", "+trainer.x=[1,2],[3]", "~logger.a", "data_dir=/d"], {})
    runs = list(space.grid())
    assert len(runs) == 4
    assert space.words(runs[1]) == ("~logger.a", "data_dir=/d", "model=mlp", "+trainer.x=[3]")
    assert space.varied(runs[2], without=("trainer.x",)) == "model=cnn_gap"
    assert space.says("trainer.x")
    assert space.says("data_dir")
    assert not space.says("test")


def test_typed_words_take_the_place_of_those_of_a_file() -> None:
    space = read_space(["model=mlp"], {"model": "mlp,cnn_gap", "seed": [0, 1], "trainer.max_epochs": 5, "test": True})
    assert space.fixed == ("trainer.max_epochs=5", "test=true", "model=mlp")
    assert space.dimensions == (Listed("seed", ("0", "1")),)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.lr=interval(1,0)", "the lower number comes first"),
        ("optimizer.lr=tag(log,interval(0,1))", "must begin above 0"),
        ("model=a,(", "cannot be read"),
    ],
)
def test_a_wrong_word_is_named(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_space([word], {})


def test_a_grid_of_a_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer.lr has a range.*sweep.sampler=tpe"):
        list(read_space(["optimizer.lr=interval(0,1)"], {}).grid())


def test_glob_means_every_option_of_that_kind() -> None:
    [models] = read_space(["model=glob(cnn_*)"], {}).dimensions
    assert models == Listed("model", ("cnn_batchnorm", "cnn_deep", "cnn_flatten", "cnn_gap", "cnn_plain"))
