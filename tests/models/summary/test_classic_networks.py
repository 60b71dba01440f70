"""The table of classic networks agrees with torchvision's own counts, and its page is current."""

from pathlib import Path

import pytest
from torchvision.models import get_model_weights

from opsin.commands.summary import experiments_by_network
from opsin.models.summary.classic_networks import (
    CLASSIC,
    KERNELS,
    ClassicNetwork,
    built,
    classic_page,
    classic_row,
    kernel_row,
)
from opsin.models.summary.model_summary import summarize

PAGE = Path(__file__).parents[3] / "docs" / "networks.md"
QUICK = [entry for entry in CLASSIC if entry.model in ("lenet5", "alexnet_full", "vgg16_full")]


@pytest.mark.parametrize("entry", QUICK, ids=lambda entry: entry.model)
def test_rows_of_the_page_are_current(entry: ClassicNetwork) -> None:
    row = f"| {' | '.join(classic_row(entry, experiments_by_network().get(entry.build.__name__, [])))} |"
    assert row in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_parameter_savings_of_the_page_equal_those_of_the_lectures() -> None:
    rows = [kernel_row(*entry) for entry in KERNELS]
    assert [row[1:] for row in rows] == [
        ("49", "27", "45 %", "7, 7"),
        ("25", "18", "28 %", "5, 5"),
        ("9", "6", "33 %", "3, 3"),
    ]
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert all(f"| {' | '.join(row)} |" in lines for row in rows)


@pytest.mark.slow
def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == classic_page(experiments_by_network()), (
        "opsin summary --classic --out docs/networks.md"
    )


def test_every_network_has_a_config() -> None:
    assert len(CLASSIC) == 15
    for entry in CLASSIC:
        config = PAGE.parents[1] / "configs" / "model" / f"{entry.model}.yaml"
        assert f"_target_: opsin.models.{entry.build.__name__}\n" in config.read_text()


@pytest.mark.slow
def test_counts_agree_with_torchvision() -> None:
    of_torchvision = [entry for entry in CLASSIC if entry.accuracy is None]
    assert len(of_torchvision) == 11
    for entry in of_torchvision:
        stated = get_model_weights(entry.build.__name__).IMAGENET1K_V1.meta
        summary = summarize(built(entry), entry.input_shape)
        assert summary.parameters == stated["num_params"], entry.title
        assert summary.mult_adds / 1e9 == pytest.approx(stated["_ops"], rel=0.02), entry.title
