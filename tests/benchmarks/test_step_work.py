"""The work of a training step is that of its operators, and its share is that of the measured peak."""

import pytest
import torch
from torch import nn

from benchmarks import step_work as module
from benchmarks.step_work import Peak, StepWork, measure_peak, step_work, utilization
from opsin.models import cnn_gap
from opsin.models.network import Network


def test_a_linear_layer_has_two_products_without_a_gradient_of_its_input():
    work = step_work(Network("one", {"a": nn.Flatten()}, nn.Linear(10, 10, bias=False)), (1, 2, 5), 4)
    assert work.flops == 2 * 2 * 100


def test_frozen_stages_have_no_backward_pass():
    stages = {"a": nn.Conv2d(1, 4, 3, bias=False), "b": nn.Conv2d(4, 8, 3, bias=False)}
    network = Network("two", stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2, bias=False)))
    a, b, head = 36 * 8 * 8, 4 * 8 * 9 * 6 * 6, 16  # multiply-adds for images of 10x10
    assert step_work(network, (1, 10, 10), 2).flops == 2 * (2 * a + 3 * b + 3 * head)
    network.freeze(["b"])
    assert step_work(network, (1, 10, 10), 2).flops == 2 * (a + 2 * b + 3 * head)
    network.freeze("head")
    assert step_work(network, (1, 10, 10), 2).flops == 2 * (a + b + 2 * head)


def test_bytes_of_weights_are_shared_by_the_images_of_a_batch():
    network = nn.Sequential(nn.Flatten(), nn.Linear(1000, 1000, bias=False))
    one, many = (step_work(network, (1, 10, 100), size) for size in (1, 100))
    assert one.bytes > 3 * 2 * 1_000_000  # read and written once in each pass, in bfloat16
    assert many.bytes < one.bytes / 20
    assert one.flops == many.flops


def test_a_network_is_left_as_it_was():
    network = cnn_gap(num_logits=3, in_channels=1, image_size=(28, 28)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step_work(network, (1, 28, 28), 3)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_peak_is_that_of_the_faster_precision(monkeypatch):
    monkeypatch.setattr(module, "SIDES", {"cpu": 64})
    monkeypatch.setattr(module, "_product_flops", lambda dtype, *_: {torch.bfloat16: 1e9, torch.float32: 3e9}[dtype])
    assert measure_peak(torch.device("cpu"), 1) == Peak(3e9, "float32", 64)


def test_a_peak_is_measured_with_the_given_threads(monkeypatch):
    monkeypatch.setattr(module, "SIDES", {"cpu": 64})
    before = torch.get_num_threads()
    peak = measure_peak(torch.device("cpu"), before + 1)
    assert torch.get_num_threads() == before
    assert peak.flops > 0
    assert max(Peak(1.0, "a", 1), peak) == peak


def test_the_share_relates_speed_to_the_peak():
    assert StepWork(flops=2e6, bytes=1.0).share(1_000, Peak(4e9, "float32", 1)) == pytest.approx(0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_utilization_is_unknown_without_a_gpu():
    assert utilization() is None
