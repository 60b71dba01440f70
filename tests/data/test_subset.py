"""Positions of a few images of a subset."""

from opsin.data.subset import evenly_spaced


def test_evenly_spaced_positions_include_the_first_and_the_last() -> None:
    assert evenly_spaced(101, 5).tolist() == [0, 25, 50, 75, 100]
    assert evenly_spaced(3, 8).tolist() == [0, 1, 2]
    assert evenly_spaced(0, 8).tolist() == []
