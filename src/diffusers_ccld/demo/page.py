"""The demo's web page, made with Gradio."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import GradioRootModel
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from ..schedulers.scheduling_ccld import ALGORITHMS
from .actions import FORM_OF_LINK, Studio
from .gate import Gate
from .painter import Painter
from .requests import LAST_SEED, Limits

TITLE = "CLOOB-Conditioned Latent Diffusion"
ABOUT = "Paints from prompts. Its diffusion network has never seen a caption: it was trained on pictures alone. "
ABOUT_BUNDLED = "This small model knows a dozen subjects, six media and eight palettes."
EXAMPLES = (
    "a forest in autumn, watercolor",
    "the moon over a lake, pastel",
    "a sunset landscape painting, oil on canvas",
    "a city skyline at night, pointillism",
    "a cat on a rug, charcoal drawing",
    "a sailing boat in the fog, ink on paper",
)
MINUTES_KEPT = 60  # pictures and uploads

# System fonts: the page loads nothing from other servers.
THEME = gr.themes.Base(
    primary_hue="stone",
    neutral_hue="stone",
    radius_size="sm",
    font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")

# Presses the button of the open tab: for Enter in the prompt, and for links.
PRESS = """[...document.querySelectorAll(".paint-button")].find((button) => button.offsetParent !== null)?.click()"""


def build(painter: Painter, limits: Limits | None = None, is_bundled: bool = True) -> gr.Blocks:
    """Builds the page, for `launch`.

    Args:
        painter: The model.
        limits: Bounds of a request.
        is_bundled: True for the bundled model, which the page describes and shows examples of.
    """
    limits = limits or Limits()
    studio = Studio(painter, limits)
    # Seconds between two removals of old files, and the age of these files.
    kept = (MINUTES_KEPT * 6, MINUTES_KEPT * 60)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=kept, fill_width=True) as page:
        gr.Markdown(f"# {TITLE}\n{ABOUT}{ABOUT_BUNDLED if is_bundled else ''}", elem_id="title")
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="form"):
                prompt = _prompt(limits)
                tabs = _tabs()
                if is_bundled:
                    examples = [[example] for example in EXAMPLES]
                    gr.Examples(examples, prompt, label="Try", elem_id="examples", api_visibility="private")
            with gr.Column(elem_id="wall"):
                gallery, note, cancel = _wall()
            with gr.Accordion("Details", open=False, elem_id="details"):
                details = _details(painter, limits)

        linked = gr.Textbox(visible="hidden")
        runs = _connect(studio, tabs, {"prompt": prompt, **details}, gallery, note)
        prompt.submit(js=f"() => {{ {PRESS}; }}")
        cancel.click(lambda: "Cancelled.", outputs=note, cancels=runs, queue=False, api_visibility="private")
        form = [details.get(name, prompt) for name in FORM_OF_LINK]
        opened = page.load(studio.open_link, outputs=[*form, linked], queue=False, api_visibility="private")
        opened.then(inputs=linked, js=f"(link) => {{ if (link) {PRESS}; }}")
    return page


def _connect(
    studio: Studio,
    tabs: dict[str, tuple[gr.Button, dict[str, gr.components.Component]]],
    shared: dict[str, gr.components.Component],
    gallery: gr.Gallery,
    note: gr.HTML,
) -> list[gr.events.Dependency]:
    """Connects the button of each tab with the studio, and returns the events."""
    runs = []
    for task, (button, inputs) in tabs.items():
        inputs = {**shared, **inputs}
        if task == "edit":
            del inputs["num_images"]
        for component in inputs.values():
            if component.data_model is not None:
                component.data_model = Unchecked
        run = button.click(
            partial(studio.run, task),
            inputs_kwargs=inputs,
            outputs=[gallery, shared["seed"], note],
            api_name=task,
            preprocess=False,  # parse_request checks more, with clearer messages
            concurrency_limit=1,
            concurrency_id="painter",
            show_progress_on=gallery,
        )
        runs.append(run)
    return runs


class Unchecked(GradioRootModel):
    """A value of any type, for `parse_request` to check: its messages are for people."""

    root: Any


def _picture_input(label: str, height: int) -> gr.Image:
    return gr.Image(label=label, type="filepath", sources=["upload", "clipboard"], height=height)


def _prompt(limits: Limits) -> gr.Textbox:
    return gr.Textbox(
        label="Prompt",
        placeholder="a sunset landscape painting, oil on canvas",
        lines=2,
        max_lines=4,
        max_length=limits.prompt_length,
        submit_btn=False,
    )


def _wall() -> tuple[gr.Gallery, gr.HTML, gr.Button]:
    """The pictures, with a note and the button that cancels below them."""
    gallery = gr.Gallery(
        show_label=False, format="png", columns=2, object_fit="contain", elem_id="gallery", interactive=False
    )
    with gr.Row(elem_id="below"):
        note = gr.HTML(elem_id="note")
        cancel = gr.Button("Cancel", size="sm", elem_id="cancel", min_width=80)
    return gallery, note, cancel


def _tabs() -> dict[str, tuple[gr.Button, dict[str, gr.components.Component]]]:
    """A tab for each task: its button, and its inputs besides the prompt."""

    def strength(value: float, info: str) -> gr.Slider:
        return gr.Slider(0.02, 1, value, step=0.01, label="Strength", info=info)

    def button(text: str) -> gr.Button:
        return gr.Button(text, variant="primary", elem_classes="paint-button")

    with gr.Tabs():
        with gr.Tab("Paint"):
            tabs = {"paint": (button("Paint"), {})}
        with gr.Tab("Repaint"):
            inputs = {
                "picture": _picture_input("Picture", 240),
                "strength": strength(0.7, "Amount of noise to start from; 1 ignores the picture."),
            }
            tabs["image_to_image"] = (button("Repaint"), inputs)
        with gr.Tab("Edit"):
            inputs = {
                "picture": _picture_input("Picture", 240),
                "strength": strength(0.8, "How far the picture is inverted before it is sampled again."),
            }
            tabs["edit"] = (button("Edit"), inputs)
        with gr.Tab("Inpaint"):
            editor = gr.ImageEditor(
                label="Picture",
                show_label=False,
                placeholder="Upload a picture and\ndraw where to paint",
                type="filepath",
                sources=["upload", "clipboard"],
                transforms=(),
                layers=False,
                brush=gr.Brush(default_size=30, colors=["#ffffff"], color_mode="fixed"),
                height=380,
            )
            inputs = {
                "masked_picture": editor,
                "strength": strength(1, "Below 1, part of the masked picture remains."),
            }
            tabs["inpaint"] = (button("Inpaint"), inputs)
    return tabs


def _details(painter: Painter, limits: Limits) -> dict[str, gr.components.Component]:
    """The inputs that all tasks share, besides the prompt."""
    # At most 30 by default, to keep waiting times short.
    steps = {name: min(30, painter.steps_of(name), limits.num_inference_steps) for name in ALGORITHMS}
    most_guidance = min(limits.guidance_scale, painter.max_guidance_scale or math.inf)

    def count(most: int, value: int, label: str) -> gr.components.Component:
        if most == 1:  # a slider needs two ends
            return gr.Number(1, label=label, visible=False)
        return gr.Slider(1, most, value, step=1, label=label)

    with gr.Row():
        with gr.Column():
            negative_prompt = gr.Textbox(
                "", label="Negative prompt", max_length=limits.prompt_length, placeholder="fog"
            )
            num_inference_steps = count(limits.num_inference_steps, steps[painter.algorithm], "Steps")
            own_guidance = min(painter.guidance_scale, most_guidance)
            guidance_scale = gr.Slider(0, most_guidance, own_guidance, step=0.05, label="Guidance")
        with gr.Column():
            algorithm = gr.Dropdown(ALGORITHMS, value=painter.algorithm, label="Algorithm")
            algorithm.input(None, algorithm, num_inference_steps, js=f"(name) => ({json.dumps(steps)})[name]")
            num_images = count(limits.num_images, limits.num_images, "Pictures")
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
        if painter.variation is not None:
            with gr.Column():
                info = "How much pictures of one prompt differ."
                details["variation"] = gr.Slider(0, 1, painter.variation, step=0.05, label="Variation", info=info)
        if painter.takes_image_prompts:
            with gr.Column():
                details["image_prompt"] = _picture_input("Image prompt: a picture to resemble", 220)
                details["image_prompt_weight"] = gr.Slider(0, 1, 0.5, step=0.05, label="Share of the image prompt")
    return details


def launch(
    page: gr.Blocks,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    queue_size: int = 20,
    block: bool = True,
) -> str:
    """Serves the page.

    Args:
        page: The result of `build`.
        limits: The limits that it was built with.
        host: Address to listen on.
        port: Port to listen on (default: the first free one from 7860).
        queue_size: Maximum number of waiting requests. Others are refused, because the queue is full.
        block: True to return only after an interruption.

    Returns:
        The page's address.

    Raises:
        OSError: If the port is taken.
    """
    limits = limits or Limits()
    # Requests name a function by `_id` or by its public name; gradio has no public name for the id.
    num_inputs = {key: len(fn.inputs) for fn in page.fns.values() for key in (fn._id, fn.api_name)}
    gate = Middleware(
        Gate, num_inputs=num_inputs, upload_folder=Path(get_upload_folder()), upload_bytes=limits.image_bytes
    )
    _, address, _ = page.queue(max_size=queue_size, api_open=False).launch(
        server_name=host,
        server_port=port,
        app_kwargs={"middleware": [gate], "docs_url": None, "redoc_url": None, "openapi_url": None},
        max_file_size=limits.image_bytes,
        prevent_thread_lock=not block,
        theme=THEME,
        css=CSS,
        share=False,
        state_session_capacity=200,  # sessions hold nothing, but each call of the API opens one
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        quiet=True,
    )
    return address
