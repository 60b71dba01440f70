"""TensorBoard pictures do not change training: complete runs with all pictures and with none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from opsin.commands.train import train
from opsin.config import compose, from_saved
from opsin.errors import Interrupted
from opsin.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[3]
QUICK = (
    "datamodule.train_fraction=0.1",
    "datamodule.batch_size=32",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "callbacks.progress.bar=false",
)
PACED = ("confusion_matrix", "pr_curves", "first_kernels", "grad_cam")
ALWAYS = tuple(f"callbacks.{name}.every_n_epochs=1" for name in PACED)
DRAWN_ONCE = ("config_text", "graph", "batch_images", "embedding_projector")
NONE = tuple(f"callbacks.{name}=null" for name in (*PACED, *DRAWN_ONCE))
TINY = ("model=cnn_gap", "model._target_=tiny.tiny")  # BatchNorm and dropout


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPSIN_TARGETS", "tiny,interruptions")

    def start(*words: str, name: str = "run") -> RunDirectory:
        run = tmp_path / "outputs" / name
        run.mkdir(parents=True)
        train(compose([f"data_dir={tmp_path / 'data'}", f"output_dir={tmp_path / 'outputs'}", *words], run))
        return RunDirectory(run)

    return start


def learned(run: RunDirectory) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.last, weights_only=True)["state_dict"]
    return state


def events(run: RunDirectory) -> EventAccumulator:
    found = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    return found


def steps(run: RunDirectory, tag: str) -> list[int]:
    return [event.step for event in events(run).Images(tag)]


CASES = {
    "augmented, with BatchNorm and dropout": (*TINY, "augmentation=digits"),
    "mixed images": (*TINY, "augmentation=mixup_cutmix"),
    "cached features": ("model=cnn_gap", "model.trainable=head"),
    "a moving average": (*TINY, "callbacks=ema", "callbacks.ema.decay=0.9"),
    "no convolution": ("model=mlp",),
    "bfloat16": (*TINY, "trainer.precision=bf16-true"),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_training_is_bit_identical_with_and_without_tensorboard(start, words: tuple[str, ...]) -> None:
    shown, bare = start(*words, *QUICK, *ALWAYS, name="a"), start(*words, *QUICK, *NONE, name="b")
    assert shown.metrics.read_bytes() == bare.metrics.read_bytes()
    mine, its = learned(shown), learned(bare)
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[key], its[key]) for key in mine)
    assert shown.read_result().metrics == bare.read_result().metrics
    tags = events(shown).Tags()
    assert {"pictures/train_batch", "pictures/confusion"} <= set(tags["images"])
    assert tags["graph"]
    assert not events(bare).Tags()["images"]
    if words != CASES["no convolution"]:
        assert {"pictures/gradcam", "pictures/first_kernels"} <= set(tags["images"])


@pytest.mark.slow
def test_a_resumed_run_logs_each_picture_once(start) -> None:
    words = (*TINY, *QUICK, *ALWAYS, "trainer.max_epochs=4")
    whole = start(*words, name="whole")
    with pytest.raises(Interrupted):
        start(*words, "+callbacks.stop={_target_: interruptions.StopAt, step: 7}", name="cut")
    cut = RunDirectory(whole.path.parent / "cut")
    train(from_saved(cut, ["callbacks.stop=null"]))
    for tag in ("pictures/train_batch", "pictures/confusion", "pictures/gradcam", "pictures/first_kernels"):
        assert steps(cut, tag) == steps(whole, tag), tag
    assert steps(whole, "pictures/confusion") == [event.step for event in events(whole).Scalars("val/loss")]
    curve = "pr/all classes"
    assert [e.step for e in events(cut).Tensors(curve)] == [e.step for e in events(whole).Tensors(curve)]


@pytest.mark.slow
def test_pictures_of_frozen_networks_are_logged(start) -> None:
    run = start(*TINY, *QUICK, *ALWAYS, "model.trainable=[high]", "feature_cache=off", "trainer.max_epochs=1")
    assert steps(run, "pictures/first_kernels") == [0], "what does not train is shown once"
    assert steps(run, "pictures/gradcam") == [3]


def test_picture_callbacks_do_nothing_without_tensorboard(start) -> None:
    run = start("model=mlp", *QUICK, *ALWAYS, "logger=none")
    assert not (run.path / "tensorboard").exists()


def test_pr_curves_end_at_the_share_of_each_class(start) -> None:
    from tensorboard.util.tensor_util import make_ndarray

    run = start("model=mlp", *QUICK, *ALWAYS)
    data = run.read_result().data
    curves = events(run)
    for i, name in enumerate(data.classes):
        counts = make_ndarray(curves.Tensors(f"pr/{name}")[-1].tensor_proto)
        assert counts[0, 0] == data.class_counts["val"][i]  # at threshold 0 all are taken for the class
        assert counts[:4].sum(0).tolist() == [data.counts["val"]] * counts.shape[1]


@pytest.mark.slow
def test_pictures_of_a_compiled_network_cause_no_further_compilation(start, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        compiled.append(inputs[0].shape)
        return graph.forward

    in_place = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: in_place(self, backend=backend))
    words = (*TINY, *QUICK, "trainer.compile=true", "trainer.max_epochs=1")
    counts = []
    for name, pictures in (("bare", NONE), ("shown", ALWAYS)):
        torch._dynamo.reset()
        compiled.clear()
        run = start(*words, *pictures, name=name)
        counts.append(len(compiled))
    assert counts[0] == counts[1] > 0
    assert steps(run, "pictures/gradcam") == [3]
    assert events(run).Tags()["graph"]


@pytest.mark.slow
def test_two_processes_count_every_image_once(start, tmp_path: Path) -> None:
    words = ["model=cnn_gap", *QUICK[:3], *ALWAYS, f"data_dir={tmp_path / 'data'}", "trainer=ddp_cpu"]
    command = [sys.executable, ROOT / "train.py", *words, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from tensorboard.util.tensor_util import make_ndarray

    run = RunDirectory(tmp_path / "run")
    counts = make_ndarray(events(run).Tensors("pr/all classes")[-1].tensor_proto)
    images = run.read_result().data.counts["val"]
    assert counts[0, 0] == images
    assert counts[:4, 5].sum() == 10 * images
    assert len(steps(run, "pictures/gradcam")) == 2
