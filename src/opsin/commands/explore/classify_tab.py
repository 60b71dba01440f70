"""The tab that classifies: probabilities, and where in the image they come from."""

import html
from typing import Any

import gradio as gr
import numpy as np
import torch

from opsin.commands.explore.messages import answers, message
from opsin.commands.explore.models import Opened, Pixels, RunModels
from opsin.commands.explore.pickers import ONE_NETWORK, Source, Subject, look
from opsin.interpretability.attribution import METHODS, attribute
from opsin.interpretability.faithfulness import faithfulness, random_heat
from opsin.interpretability.sanity_check import Sanity, randomisation_check
from opsin.visualization.images import overlaid, rgb, shown

SIDE = 448
LIKELIEST = "the most probable class"
LAST = "the last with maps"
CHECKED = 24
"""Validation images on which the check with re-drawn weights looks at maps."""


def explain(
    networks: RunModels, name: str, source: Source, method: str, stage: str, chosen: str
) -> tuple[dict[str, float], Pixels, Pixels, str]:
    """What a network says of an image, and a map of what speaks for a class over it.

    Raises:
        UserError: There is no such run, no image, or no such map of this network.
    """
    opened = networks.open(name)
    pixels, what = look(opened, source)
    probabilities = opened.probabilities(pixels)
    target = _target(opened, probabilities, chosen)
    heat = attribute(
        opened.learned.network, opened.inputs(pixels[None]), torch.tensor([target]), method, _stage(opened, stage)
    )[0].numpy()
    seen = rgb(shown(pixels, SIDE))
    height, width = opened.learned.size
    about = opened.classes[target]
    text = f"{what}, as the network sees it: {width} x {height}; the map is about {about!r}"
    if not heat.any():
        text += " and is empty: nothing that this stage sees speaks for it"
    return probabilities, seen, overlaid(seen, heat), f'<p class="size">{html.escape(text)}</p>'


def judge(networks: RunModels, name: str, source: Source, method: str, stage: str, chosen: str) -> str:
    """Whether the map tells of the network: deletion and insertion scores, and the check with re-drawn weights.

    Raises:
        UserError: As `explain`; or the run's validation images, which the check needs, are not there.
    """
    opened = networks.open(name)
    pixels, _ = look(opened, source)
    targets = torch.tensor([_target(opened, opened.probabilities(pixels), chosen)])
    network, images, where = opened.learned.network, opened.inputs(pixels[None]), _stage(opened, stage)
    heat = attribute(network, images, targets, method, where)
    scores, blind = (faithfulness(network, images, targets, map_) for map_ in (heat, random_heat(images)))
    lines = [
        f"Deletion {_score(scores.deletion_area)}, of a random map {_score(blind.deletion_area)}: lower is better. "
        f"Insertion {_score(scores.insertion_area)}, of a random map {_score(blind.insertion_area)}: higher is better.",
        f"Weights drawn anew, on {CHECKED} validation images: {_sanity(opened, method, where).verdict}.",
    ]
    return "".join(f'<p class="size">{html.escape(line)}</p>' for line in lines)


def _sanity(opened: Opened, method: str, stage: str | None) -> Sanity:
    part = opened.validation
    positions = np.linspace(0, len(part) - 1, min(CHECKED, len(part))).astype(np.int64)  # of all classes, in any order
    images = opened.inputs(part.read(positions))
    return randomisation_check(opened.learned.network, images, torch.from_numpy(part.targets[positions]), method, stage)


def _score(area: torch.Tensor) -> str:
    return f"{float(area[0]):.2f}"


def _target(opened: Opened, probabilities: dict[str, float], chosen: str) -> int:
    names = list(opened.classes)
    return names.index(chosen) if chosen in names else names.index(max(probabilities, key=probabilities.__getitem__))


def _stage(opened: Opened, stage: str) -> str | None:
    return stage if stage in opened.stages else None


def build(networks: RunModels, tab: gr.Tab) -> None:
    """Lay out the tab."""
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            subject = Subject(networks, tab, with_classes=True)
            method = gr.Dropdown(list(METHODS), value="gradcam", label="Map")
            stage = gr.Dropdown([LAST], value=LAST, label="Stage (of Grad-CAM)", allow_custom_value=True)
            chosen = gr.Dropdown([LIKELIEST], value=LIKELIEST, label="Class", allow_custom_value=True)
        with gr.Column(scale=2, min_width=280):
            said = message()
            label = gr.Label(num_top_classes=5, label="Probabilities")
            with gr.Row():
                seen = gr.Image(
                    label="What the network sees",
                    format="png",
                    buttons=["fullscreen"],
                    elem_classes="picture",
                    min_width=200,
                )
                over = gr.Image(
                    label="What speaks for the class",
                    format="png",
                    buttons=["fullscreen"],
                    elem_classes="picture",
                    min_width=200,
                )
            about = gr.HTML(js_on_load=None)
            check = gr.Button("Is this map faithful?")
            verdict = gr.HTML(js_on_load=None)

    @answers(None, None, None, None, "")
    def classified(*inputs: Any) -> tuple[Any, ...]:
        if inputs[1] is None:
            return None, None, None, None, ""
        return (*explain(networks, *inputs), "")

    @answers(gr.skip(), gr.skip())
    def pickers(name: str) -> tuple[Any, Any]:
        opened = networks.open(name)
        return (
            gr.Dropdown([LAST, *opened.stages], value=LAST),
            gr.Dropdown([LIKELIEST, *opened.classes], value=LIKELIEST),
        )

    @answers("")
    def judged(*inputs: Any, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008 - Gradio's way
        progress(0.1, desc="covering the image, and drawing weights anew")
        return judge(networks, *inputs)

    inputs = [subject.name, subject.source, method, stage, chosen]
    outputs = [said, label, seen, over, about, verdict]
    again = {"fn": classified, "inputs": inputs, "outputs": outputs, **ONE_NETWORK}
    subject.connect(classified, inputs[2:], outputs)
    for picker in (method, stage, chosen):
        picker.input(**again)
    subject.name.change(pickers, subject.name, [said, stage, chosen], **ONE_NETWORK).then(**again)
    check.click(judged, inputs, [said, verdict], **ONE_NETWORK)
