"""Train ResNet18 from scratch with timm's loaders, optimizer, schedule and checkpoints, as its train.py does.

The script train.py is not part of timm's package. This one makes the same calls, in the same order, for its options
`--model resnet18 --device cpu --workers WORKERS --color-jitter 0`, with `tuned` also `--channels-last --amp
--amp-dtype bfloat16`. It prints the test accuracy.

Usage: `python timm_run.py PHOTOS OUTPUT SIZE EPOCHS BATCH_SIZE WORKERS plain|tuned`, with the folders `train`, `val`
and `test` in PHOTOS.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from timm import create_model
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, accuracy, random_seed, update_summary
from torch import Tensor
from torch.utils.data import DataLoader


def main(photos: Path, output: Path, size: int, epochs: int, batch_size: int, workers: int, tuned: bool) -> None:
    """Train, validate and save a checkpoint in every epoch, and test the last."""
    random_seed(42, 0)
    device = torch.device("cpu")
    network = create_model("resnet18", num_classes=2).to(device)
    layout = torch.channels_last if tuned else torch.contiguous_format
    network.to(memory_format=layout)

    def loader(split: str, training: bool) -> "DataLoader[Any]":
        made: DataLoader[Any] = create_loader(
            create_dataset("", root=photos, split=split, is_training=training),
            input_size=(3, size, size),
            batch_size=batch_size,
            is_training=training,
            hflip=0.5,
            color_jitter=None,
            interpolation="random" if training else "bilinear",
            num_workers=workers,
            device=device,
        )
        return made

    def forward(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            logits = network(images.contiguous(memory_format=layout))
            return logits, torch.nn.functional.cross_entropy(logits, targets)

    def evaluate(images_and_targets: Iterable[tuple[Tensor, Tensor]]) -> float:
        network.eval()
        top1 = AverageMeter()
        with torch.inference_mode():
            for images, targets in images_and_targets:
                logits, _ = forward(images, targets)
                top1.update(accuracy(logits, targets)[0].item(), len(images))
        return float(top1.avg) / 100

    train, val = loader("train", True), loader("val", False)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.1 * batch_size / 256, momentum=0.9, weight_decay=2e-5)
    schedule, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs, updates_per_epoch=len(train))
    output.mkdir(parents=True, exist_ok=True)
    saver = CheckpointSaver(network, optimizer, checkpoint_dir=str(output), recovery_dir=str(output))
    for epoch in range(epochs):
        network.train()
        losses = AverageMeter()
        for batch, (images, targets) in enumerate(train):
            _, loss = forward(images, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.update(loss.item(), len(images))
            optimizer.zero_grad()
            schedule.step_update(epoch * len(train) + batch + 1, metric=losses.avg)
        found = {"top1": evaluate(val)}
        update_summary(epoch, {"loss": losses.avg}, found, output / "summary.csv", write_header=epoch == 0)
        saver.save_checkpoint(epoch, metric=found["top1"])
        schedule.step(epoch + 1, found["top1"])
    print(evaluate(loader("test", False)))


if __name__ == "__main__":
    size, epochs, batch_size, workers = map(int, sys.argv[3:7])
    main(Path(sys.argv[1]), Path(sys.argv[2]), size, epochs, batch_size, workers, tuned=sys.argv[7] == "tuned")
