"""The freeze contract without a run; `tests/training/callbacks/test_freeze_phases.py` tests it in runs."""

import torch
from tiny import tiny

from opsin.models.fingerprint import digest
from opsin.models.freezing import FreezeContract


def test_digests_depend_on_every_bit_and_not_on_the_layout() -> None:
    tensor = torch.randn(2, 3, 4, 4)
    assert digest(tensor) == digest(tensor.clone().to(memory_format=torch.channels_last))
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))
    assert digest(torch.zeros(2)) != digest(torch.zeros(2, dtype=torch.int32))
    assert digest(torch.zeros(2, 3)) != digest(torch.zeros(3, 2))
    assert digest(torch.zeros(2, dtype=torch.bfloat16)) == digest(torch.zeros(2, dtype=torch.bfloat16))
    other = tensor.clone()
    other[0, 0, 0, 0] = torch.nextafter(other[0, 0, 0, 0], torch.tensor(9.0))
    assert digest(tensor) != digest(other)


def test_the_freeze_contract_includes_buffers_that_are_not_saved() -> None:
    network = tiny(num_logits=2, in_channels=1, image_size=(8, 8))
    network.stages["low"].register_buffer("scratch", torch.zeros(1), persistent=False)
    network.freeze(["high"])
    contract = FreezeContract()
    contract.hold(network)
    assert contract.changed(network) == []
    network.stages["low"].scratch.add_(1)
    assert contract.changed(network) == ["stages.low.scratch"]
    assert contract.changed(network, ["middle"]) == []
    network.freeze(["low"])
    contract.hold(network)
    assert contract.changed(network) == []
    assert contract.covers(network, ["middle", "high"])
    assert not contract.covers(network, ["low"])
