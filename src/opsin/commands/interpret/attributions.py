"""Pictures of what a decision rests on, with the scores that tell a map from a picture."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from opsin.commands.interpret.subject import Finding, Looked, Subjects
from opsin.interpretability.attribution import attribute, channel_maps, integrated_gradients, occlusion
from opsin.interpretability.eval_context import as_input, eval_context
from opsin.interpretability.faithfulness import Faithfulness, faithfulness, random_maps
from opsin.interpretability.sanity_check import Attribute, randomization_check
from opsin.models.network import class_logits
from opsin.visualization.images import grid, overlaid, shown

CHECKED = 32
"""Images by which a method is checked against random weights."""

CHECKED_SLOWLY = 12
"""The same for methods that run the network dozens of times for a map; they are checked with coarser maps, too."""

TOP = 8
"""Channels that are shown, by weight."""

SIDE = 200


class _Said(NamedTuple):
    """What a network says of images: the likeliest class and its probability, `(N,)` each."""

    classes: Tensor
    probabilities: Tensor


def explained(subject: Subjects, method: str, stage: str | None, count: int) -> Iterator[Finding]:
    """Maps of what speaks for the predicted class, over each image, with their scores; and the method's check."""
    network, looked = subject.learned.network, subject.looked(count)
    images = subject.input(looked.pixels)
    said = _say(network, images)
    heat = attribute(network, images, said.classes, method, stage)
    scores = faithfulness(network, images, said.classes, heat)
    chance = faithfulness(network, images, said.classes, random_maps(images))
    pictures, captions = [], []
    for i in range(len(images)):
        large = shown(looked.pixels[i], SIDE)
        pictures += [large, overlaid(large, heat[i].numpy())]
        captions += _captions(subject, looked, said, scores, i)
    where = f" at {stage}" if stage else ""
    title = f"{method}{where}: what speaks for the class that is said; del low and ins high are good"
    yield Finding(
        method + (f"_{stage}" if stage else ""),
        grid(pictures, columns=4, side=SIDE, captions=captions, title=title),
        [_compared(scores, chance)],
    )
    if method == "gradcam":
        yield _heaviest(subject, looked, images[0], int(said.classes[0]), stage)
    yield Finding("check", None, [_checked(subject, method, stage)])


def _say(network: torch.nn.Module, images: Tensor) -> _Said:
    with eval_context(network) as model, torch.no_grad():
        rows = [class_logits(model(as_input(model, some)).float()).softmax(1).cpu() for some in torch.split(images, 32)]
    probabilities, classes = torch.cat(rows).max(dim=1)
    return _Said(classes, probabilities)


def _captions(subject: Subjects, looked: Looked, said: _Said, scores: Faithfulness, i: int) -> list[str]:
    true = "" if looked.targets is None else f"is {subject.label(int(looked.targets[i]))}"
    answer = f"{subject.label(int(said.classes[i]))} {said.probabilities[i]:.1%}"
    figures = f"del {scores.deletion_area[i]:.2f}, ins {scores.insertion_area[i]:.2f}"
    return [f"{looked.names[i]}\n{true}", f"{answer}\n{figures}"]


def _compared(scores: Faithfulness, chance: Faithfulness) -> str:
    deletion, insertion = float(scores.deletion_area.mean()), float(scores.insertion_area.mean())
    by_chance = float(chance.deletion_area.mean()), float(chance.insertion_area.mean())
    return (
        f"deletion {deletion:.3f} (random maps {by_chance[0]:.3f}; lower is better), "
        f"insertion {insertion:.3f} (random maps {by_chance[1]:.3f}; higher is better), mean of {len(scores.deletion)}"
    )


def _heaviest(subject: Subjects, looked: Looked, image: Tensor, target: int, stage: str | None) -> Finding:
    found = channel_maps(subject.learned.network, image, target, stage, TOP)
    large = shown(looked.pixels[0], SIDE)
    pictures = [overlaid(large, one.map.numpy()) for one in found]
    captions = [f"channel {one.channel}\nweight {one.weight:.3g}" for one in found]
    title = f"the {len(found)} channels that weigh most for {subject.label(target)}"
    name = "gradcam_channels" + (f"_{stage}" if stage else "")
    return Finding(name, grid(pictures, columns=4, side=SIDE, captions=captions, title=title))


def _checked(subject: Subjects, method: str, stage: str | None) -> str:
    """What becomes of the maps of some dozen images when the weights are drawn anew."""
    check: str | Attribute = method
    if method == "integrated_gradients":
        check = partial(integrated_gradients, steps=12)
    elif method == "occlusion":
        window = max(2, min(subject.learned.size) // 6)
        check = partial(occlusion, window=window, stride=window)
    count = CHECKED if check == method else CHECKED_SLOWLY
    looked = subject.looked(count) if subject.files else subject.validation(count)
    images = subject.input(looked.pixels[:count])
    network = subject.learned.network
    known = looked.targets is not None
    targets = torch.from_numpy(looked.targets) if looked.targets is not None else _say(network, images).classes
    sanity = randomization_check(network, images, targets[:count], check, stage)
    if known:
        return f"weights drawn anew: {sanity.summary}"
    # Without labels nothing is known of what it has learned; only whether maps go with the weights.
    word = "passed: the maps are gone with the learned weights" if sanity.sensitive else "failed: the maps stay"
    over = f"{len(images)} image{'s' * (len(images) > 1)}"
    return f"weights drawn anew: {word} (rank correlation {sanity.correlation[-1]:.2f}, {over})"
