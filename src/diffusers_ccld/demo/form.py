"""The inputs of the demo's page."""

import dataclasses
import json
import math
from typing import NamedTuple

import gradio as gr

from ..pipelines.usual import STRENGTHS
from ..schedulers.scheduling_ccld import ALGORITHMS
from .painter import Painter
from .requests import LAST_SEED, Limits

Inputs = dict[str, gr.components.Component]


class Tab(NamedTuple):
    """A tab of the form.

    Attributes:
        button: The button that paints.
        inputs: Its inputs besides those that all tabs share, by the names of a request's fields.
        description: Of its function in the API.
        slider: An input whose release paints, too, with the seed of the picture before.
    """

    button: gr.Button
    inputs: Inputs
    description: str
    slider: gr.Slider | None = None


def make_prompt(limits: Limits, example: str) -> gr.Textbox:
    """The field for the prompt, with an example in it, which is painted if the field stays empty."""
    return gr.Textbox(
        label="Prompt",
        placeholder=f"For example: {example}",
        info="Enter paints.",
        lines=2,
        max_lines=4,
        max_length=limits.prompt_length,
        submit_btn=False,
        elem_id="prompt",
    )


def picture_input(label: str, height: int) -> gr.Image:
    """An input for a picture's file."""
    return gr.Image(
        label=label, type="filepath", sources=["upload", "clipboard"], height=height, buttons=["fullscreen"]
    )


def make_tabs(painter: Painter, limits: Limits, second_example: str) -> tuple[gr.Tabs, dict[str, Tab]]:
    """The tabs, one for each task but "animate", whose button is in the tab of "between"."""

    def strength(task: str, info: str) -> gr.Slider:
        return gr.Slider(0.02, 1, STRENGTHS[task], step=0.01, label="Strength", info=info)

    tabs = {}
    with gr.Tabs(elem_id="tabs") as container:
        with gr.Tab("Paint", id="paint"):
            tabs["paint"] = Tab(_button("Paint"), {}, "Paints pictures from a prompt.")
        with gr.Tab("Image to image", id="image_to_image"):
            _hint("Begins with your picture and noise, and paints it anew by the prompt.")
            inputs = {
                "picture": picture_input("Picture", 240),
                "strength": strength("image_to_image", "Amount of noise to start from; 1 ignores the picture."),
            }
            painted = "Paints a picture anew, from a noisy version."
            tabs["image_to_image"] = Tab(_button("Image to image"), inputs, painted)
        with gr.Tab("Edit", id="edit"):
            _hint("Changes your picture as the prompt says, and keeps its composition.")
            most = limits.num_inference_steps
            info = "In place of the steps in Details: back from the picture, and forth again."
            inputs = {
                "picture": picture_input("Picture", 240),
                "strength": strength("edit", "How far the picture is inverted before it is sampled again."),
                "num_inference_steps": _count(most, min(painter.inversion_steps, most), "Inversion steps", info),
            }
            tabs["edit"] = Tab(_button("Edit"), inputs, "Changes a picture and keeps its composition.")
        with gr.Tab("Inpaint", id="inpaint"):
            _hint("Paints where you draw on your picture, and keeps the rest.")
            inputs = {
                "masked_picture": _editor(),
                "strength": strength("inpaint", "Below 1, part of the masked picture remains."),
            }
            tabs["inpaint"] = Tab(_button("Inpaint"), inputs, "Paints the part of a picture that was drawn on.")
        with gr.Tab("Between", id="between"):
            tabs |= _make_between(limits, second_example)
    return container, tabs


def _make_between(limits: Limits, second_example: str) -> dict[str, Tab]:
    """Fills the tab of "between" and "animate", and returns both."""
    _hint("Paints a picture between two prompts, or the way from one to the other.")
    second = gr.Textbox(
        label="Second prompt",
        max_length=limits.prompt_length,
        placeholder=f"For example: {second_example}",
        elem_id="second_prompt",
    )
    info = "0 is the first prompt, 1 the second. Releasing the slider paints with the same seed."
    position = gr.Slider(0, 1, 0.5, step=0.05, label="Position", info=info, elem_id="position")
    between = Tab(
        _button("Paint between"),
        {"second_prompt": second, "position": position},
        "Paints a picture between two prompts.",
        position,
    )
    frames = gr.Slider(2, limits.num_frames, min(16, limits.num_frames), step=1, label="Frames")
    animate = _button("Animate", variant="secondary", elem_classes="animate-button")
    inputs = {"second_prompt": second, "num_frames": frames}
    return {"between": between, "animate": Tab(animate, inputs, "Animates the way from one prompt to another.")}


def _hint(text: str) -> None:
    gr.HTML(f'<p class="hint">{text}</p>', padding=False)


def _button(text: str, **options: str) -> gr.Button:
    return gr.Button(text, **({"variant": "primary", "elem_classes": "paint-button"} | options))


def _count(most: int, value: int, label: str, info: str | None = None) -> gr.components.Component:
    if most == 1:  # a slider needs two ends
        return gr.Number(1, label=label, visible=False)
    return gr.Slider(1, most, value, step=1, label=label, info=info)


def _editor() -> gr.ImageEditor:
    brush = gr.Brush(default_size="auto", colors=[("#f59e0b", 0.6)], color_mode="fixed")
    editor = gr.ImageEditor(
        label="Picture",
        show_label=False,
        placeholder="Upload a picture and\ndraw where to paint",
        type="filepath",
        sources=["upload", "clipboard"],
        transforms=(),
        layers=False,
        brush=brush,
        buttons=["fullscreen"],
        height=380,
        elem_id="editor",
    )
    # Gradio calls the component's server for events of the editor itself, which the gate does not serve.
    sized = gr.Button(visible="hidden", elem_id="brush")
    js = f"() => ccld.brush({json.dumps(dataclasses.asdict(brush))})"
    sized.click(outputs=editor, js=js, show_progress="hidden", api_visibility="private")
    return editor


def usual_steps(painter: Painter, limits: Limits) -> dict[str, int]:
    """The number of steps that the form has for each algorithm: at most 30, to keep waiting times short."""
    return {name: min(30, painter.steps_of(name), limits.num_inference_steps) for name in ALGORITHMS}


def make_details(painter: Painter, limits: Limits) -> dict[str, gr.components.Component]:
    """The inputs that all tasks share, besides the prompt."""
    steps = usual_steps(painter, limits)
    most_guidance = min(limits.guidance_scale, painter.max_guidance_scale or math.inf)

    with gr.Row():
        with gr.Column():
            negative_prompt = gr.Textbox(
                "",
                label="Negative prompt",
                info="What the pictures should not have; it may stay empty.",
                max_length=limits.prompt_length,
                placeholder="For example: fog",
            )
            num_inference_steps = _count(limits.num_inference_steps, steps[painter.algorithm], "Steps")
            own_guidance = min(painter.guidance_scale, most_guidance)
            guidance_scale = gr.Slider(0, most_guidance, own_guidance, step=0.05, label="Guidance")
        with gr.Column():
            algorithm = gr.Dropdown(ALGORITHMS, value=painter.algorithm, label="Algorithm")
            algorithm.input(None, algorithm, num_inference_steps, js=f"(name) => ({json.dumps(steps)})[name]")
            num_images = _count(limits.num_images, limits.num_images, "Pictures")
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LAST_SEED)
                random_seed = gr.Checkbox(True, label="Random seed")
        details = {
            "negative_prompt": negative_prompt,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "algorithm": algorithm,
            "num_images": num_images,
            "seed": seed,
            "random_seed": random_seed,
        }
        if painter.variation is None:
            details["variation"] = gr.Number(0, visible=False)
        else:
            with gr.Column():
                info = "How much pictures of one prompt differ."
                details["variation"] = gr.Slider(0, 1, painter.variation, step=0.05, label="Variation", info=info)
        if painter.takes_image_prompts:
            with gr.Column():
                details["image_prompt"] = picture_input("Image prompt: a picture to resemble", 220)
                details["image_prompt_weight"] = gr.Slider(0, 1, 0.5, step=0.05, label="Share of the image prompt")
        with gr.Column():
            info = "Guidance applies between two times, from 0, the picture, to 1, the noise."
            details["guidance_from"] = gr.Slider(0, 1, 0, step=0.05, label="Guidance from", info=info)
            details["guidance_to"] = gr.Slider(0, 1, 1, step=0.05, label="Guidance to")
    return details


def make_settings_input() -> gr.File:
    """The input for a picture whose settings the form takes."""
    _hint("Give a file that this page or <code>ccld sample</code> has painted; the form takes its settings.")
    label = "Settings from a picture (PNG, WebP)"
    return gr.File(label=label, file_types=[".png", ".webp"], height=130, elem_id="settings")
