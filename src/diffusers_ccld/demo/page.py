"""The demo's web page, made with Gradio."""

import contextlib
import io
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.data_classes import GradioRootModel
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from ..sharing.model_cards import escaped
from .actions import FORM_OF_LINK, FORM_OF_TABS, Studio
from .form import Inputs, Tab, make_details, make_prompt, make_settings_input, make_tabs
from .gate import Gate
from .model import DemoModel
from .painter import Painter
from .requests import BETWEEN, Limits
from .suggestions import chips_html, examples_html, words_html
from .tools import add_tools, has_tools, set_up_server

TITLE = "CLOOB-Conditioned Latent Diffusion"
ABOUT = "Paints from prompts. Its diffusion network has never seen a caption: it was trained on pictures alone. "
ABOUT_BUNDLED = "This small model knows a dozen subjects, six media and eight palettes."
MINUTES_KEPT = 60  # pictures and uploads

# System fonts: the page loads nothing from other servers.
THEME = gr.themes.Base(
    primary_hue="amber",
    neutral_hue="stone",
    radius_size="md",
    font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    button_primary_background_fill="#b45309",
    button_primary_background_fill_hover="#92400e",
    button_primary_background_fill_dark="#b45309",
    button_primary_background_fill_hover_dark="#92400e",
    button_primary_text_color="white",
    button_primary_text_color_dark="white",
)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
SCRIPT = "".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("chips.js", "page.js"))


class Wall(NamedTuple):
    """The part of the page that shows pictures."""

    gallery: gr.Gallery
    compare: gr.ImageSlider
    progress: gr.HTML
    note: gr.HTML
    cancel: gr.Button
    actions: dict[str, gr.Button]


def build(painter: Painter, limits: Limits | None = None, with_tools: bool = False) -> gr.Blocks:
    """Builds the page, for `launch`.

    Args:
        painter: The model, whose name, words and examples the page shows.
        limits: Bounds of a request.
        with_tools: True to serve tools for MCP clients beside the page.
    """
    limits = limits or Limits()
    studio, model = Studio(painter, limits), painter.model
    # Seconds between two removals of old files, and the age of these files.
    kept = (MINUTES_KEPT * 6, MINUTES_KEPT * 60)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=kept, fill_width=True) as page:
        about = ABOUT_BUNDLED if model.is_bundled else f"This is {escaped(model.name)}."
        gr.Markdown(f"# {TITLE}\n{ABOUT}{about}", elem_id="title")
        notice = gr.HTML(elem_id="notice", padding=False)
        with gr.Row(elem_id="studio"):
            with gr.Column(elem_id="form"):
                prompt = make_prompt(limits, model.examples[0][0])
                if model.is_bundled:
                    gr.HTML(chips_html(), elem_id="chips", padding=False)
                    prompt.change(inputs=prompt, js="(prompt) => { ccldChips.show(prompt); }")
                container, tabs = make_tabs(painter, limits, model.examples[-1][0])
                unkeep = _kept_seed()
            with gr.Column(elem_id="wall"):
                wall = _wall("Click an example to paint it, or write one.")
            with gr.Accordion("Details", open=False, elem_id="details"):
                details = make_details(painter, limits)
                dropped = make_settings_input()
            with gr.Column(elem_id="examples"):
                gr.HTML(examples_html(model.examples) + words_html(model), padding=False)
        shared = {"prompt": prompt, **details}
        runs = _connect(studio, tabs, shared, wall)
        cleared = {"outputs": wall.progress, "queue": False, "api_visibility": "private"}
        cancelled = wall.cancel.click(lambda: "", cancels=runs, **cleared)
        cancelled.then(js='() => ""', **cleared)  # a step may have arrived meanwhile
        _connect_actions(wall, container, tabs, details)
        is_random = details["random_seed"]
        is_random.change(inputs=is_random, js="(isRandom) => { ccld.keepSeed(!isRandom); }")
        unkeep.click(outputs=is_random, js="() => true")
        form = [shared[name] for name in FORM_OF_LINK]
        quiet = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
        of_tabs = [tabs[task].inputs[name] for task, name in FORM_OF_TABS]
        image = [details[name] for name in ("image_prompt", "image_prompt_weight") if name in details]
        restored = [*form, *of_tabs, *image, container, notice]
        restoring = dropped.upload(studio.read_settings, dropped, restored, preprocess=False, **quiet)
        restoring.then(js="() => { ccld.showRestored(); }")
        dropped.data_model = Unchecked
        linked = gr.Textbox(visible="hidden")
        opened = page.load(studio.open_link, outputs=[*form, *of_tabs, container, linked, notice], **quiet)
        buttons = json.dumps({task: tab.button.value for task, tab in tabs.items()})
        opened.then(inputs=linked, js=f"(task) => {{ if (task) ccld.pressOnce(({buttons})[task]); }}")
        if with_tools:
            add_tools(studio)
    return page


def _connect(studio: Studio, tabs: dict[str, Tab], shared: Inputs, wall: Wall) -> list[gr.events.Dependency]:
    """Connects the button of each tab, and its slider if it paints, with the studio. Returns the events."""
    runs = []
    for task, tab in tabs.items():
        inputs = _inputs_of(task, tab, shared)
        connect = partial(_connect_run, partial(studio.run, task), inputs, wall)
        examples = _examples_of(task, studio.model)
        js = _js_of_inputs(inputs, examples) if examples else None
        runs.append(connect(tab.button.click, js=js, api_name=task, api_description=tab.description))
        if tab.slider is not None:
            js = _js_of_inputs(inputs, examples, random_seed=False)  # the field of the seed has the last picture's
            options = {"trigger_mode": "always_last", "api_visibility": "private"}
            runs.append(connect(tab.slider.release, is_remembered=False, js=js, **options))
    return runs


def _examples_of(task: str, model: DemoModel) -> dict[str, str]:
    """The prompts that are painted where a field stays empty: those that stand in the empty fields."""
    prompts = {"prompt": model.examples[0][0], "second_prompt": model.examples[-1][0]}
    return prompts if task in BETWEEN else {"prompt": prompts["prompt"]} if task == "paint" else {}


def _js_of_inputs(inputs: Inputs, examples: dict[str, str], **changes: bool) -> str:
    """A function of the page that changes the values of inputs before they are sent."""
    arguments = ", ".join(map(json.dumps, (list(inputs), examples, changes)))
    return f"(...values) => ccld.inputs(values, {arguments})"


def _inputs_of(task: str, tab: Tab, shared: Inputs) -> Inputs:
    inputs = {**shared, **tab.inputs}
    for name in ("num_images",) if task in ("edit", *BETWEEN) else ():
        del inputs[name]
    for name in ("image_prompt", "image_prompt_weight") if task in BETWEEN else ():
        inputs.pop(name, None)
    for component in inputs.values():
        if component.data_model is not None:
            component.data_model = Unchecked
    return inputs


def _connect_run(
    run: Callable, inputs: Inputs, wall: Wall, trigger: Callable, is_remembered: bool = True, **options: Any
) -> gr.events.Dependency:
    """Connects an event with a task of the studio. The history remembers its pictures, unless it is told not to."""
    begins_with_picture = not inputs.keys().isdisjoint(("picture", "masked_picture"))
    trigger(outputs=[wall.progress, wall.compare], js=f"() => [ccld.begin(), {HIDE}]")
    event = trigger(
        run,
        inputs_kwargs=inputs,
        outputs=[
            *(wall.gallery, inputs["seed"], wall.note, wall.progress),
            *([wall.compare] if begins_with_picture else []),
        ],
        preprocess=False,  # parse_request checks more, with clearer messages
        concurrency_limit=1,
        concurrency_id="painter",
        show_progress="hidden",
        **options,
    )
    js = f"(gallery, prompt) => {{ ccld.finish(gallery, prompt, {str(is_remembered).lower()}); }}"
    event.success(inputs=[wall.gallery, inputs["prompt"]], js=js)
    prompts = [inputs[name] for name in ("prompt", "image_prompt") if name in inputs]
    event.failure(inputs=prompts, outputs=wall.progress, js="(...prompts) => ccld.fail(prompts)")
    return event


HIDE = '({ __type__: "update", visible: false })'


def _connect_actions(wall: Wall, container: gr.Tabs, tabs: dict[str, Tab], details: Inputs) -> None:
    """Connects the buttons under the pictures. They work in the browser alone."""
    for task in ("image_to_image", "edit", "inpaint"):
        target = tabs[task].inputs.get("picture") or tabs[task].inputs["masked_picture"]
        js = f'(gallery) => ccld.send(gallery, "{task}")'
        wall.actions[task].click(inputs=wall.gallery, outputs=[target, container], js=js)
    if "image_prompt" in details:
        js = '(gallery) => ccld.send(gallery, "paint")'
        wall.actions["image_prompt"].click(inputs=wall.gallery, outputs=[details["image_prompt"], container], js=js)
    else:
        wall.actions["image_prompt"].visible = False
    varied_from = tabs["image_to_image"].inputs
    varied = wall.actions["variations"].click(
        inputs=wall.gallery,
        outputs=[varied_from["picture"], container, varied_from["strength"], details["random_seed"]],
        js='(gallery) => [...ccld.send(gallery, "image_to_image"), 0.6, true]',
    )
    varied.then(js="() => ccld.pressOnce('Image to image')")
    wall.actions["seed"].click(
        inputs=wall.gallery,
        outputs=[details["seed"], details["random_seed"]],
        js="(gallery) => [ccld.seedOf(gallery), false]",
    )


class Unchecked(GradioRootModel):
    """A value of any type, for `parse_request` to check: its messages are for people."""

    root: Any


def _kept_seed() -> gr.Button:
    """The line that says that the seed is kept, which the page shows while it is, and a button that ends that."""
    with gr.Row(elem_id="kept"):
        claim = '<span class="claim">: the same settings paint the same pictures</span>'  # not beside a notice
        gr.HTML(f'<p class="hint">The seed is kept{claim}.</p>', padding=False)
        return gr.Button("Random seed", size="sm", min_width=110)


# The buttons under the pictures: the tabs or fields that take the chosen picture, and what else is done with it.
TARGETS = {
    "image_prompt": "Image prompt",
    "image_to_image": "Image to image",
    "edit": "Edit",
    "inpaint": "Inpaint",
}
MORE = {"variations": "Paint variations", "seed": "Keep the seed"}


def _actions(names: dict[str, str], heading: str) -> dict[str, gr.Button]:
    with gr.Row():
        gr.HTML(f'<p class="hint">{heading}</p>', padding=False)
        return {name: gr.Button(text, size="sm", min_width=90) for name, text in names.items()}


def _wall(invitation: str) -> Wall:
    gr.HTML(f'<p class="hint">{invitation}</p>', elem_id="hint", padding=False)
    progress = gr.HTML(elem_id="progress", label="Progress", padding=False)
    gallery = gr.Gallery(
        label="Pictures",
        show_label=False,
        format="png",
        columns=2,
        object_fit="contain",
        elem_id="gallery",
        interactive=False,
        buttons=["download", "download_all", "fullscreen"],
    )
    with gr.Row(elem_id="below"):
        note = gr.HTML(elem_id="note", label="Link", padding=False)
        cancel = gr.Button("Cancel", size="sm", elem_id="cancel", min_width=80)
    with gr.Column(elem_id="actions"):
        actions = _actions(TARGETS, "Take this picture to:") | _actions(MORE, "Or:")
    compare = gr.ImageSlider(label="Before and after", visible=False, elem_id="compare", buttons=["fullscreen"])
    gr.HTML('<div class="chips"><h4>Painted before</h4></div><div class="entries"></div>', elem_id="history")
    return Wall(gallery, compare, progress, note, cancel, actions)


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
        block: True to serve until an interruption, which is raised as `KeyboardInterrupt`.

    Returns:
        The page's address.

    Raises:
        OSError: If the port is taken.
        RuntimeError: If the page has tools and Gradio cannot serve them.
    """
    limits = limits or Limits()
    # Requests name a function by `_id` or by its public name; gradio has no public name for the id.
    num_inputs = {key: len(fn.inputs) for fn in page.fns.values() for key in (fn._id, fn.api_name)}
    gate = Middleware(
        Gate,
        num_inputs=num_inputs,
        upload_folder=Path(get_upload_folder()),
        upload_bytes=limits.image_bytes,
        serves_tools=has_tools(page),
    )
    # Gradio prints the address of its MCP server even if it is quiet.
    with contextlib.redirect_stdout(io.StringIO()):
        _, address, _ = page.queue(max_size=queue_size, api_open=False).launch(
            server_name=f"[{host}]" if ":" in host else host,  # Gradio wants IPv6 as in a URL
            server_port=port,
            app_kwargs={"middleware": [gate], "docs_url": None, "redoc_url": None, "openapi_url": None},
            max_file_size=limits.image_bytes,
            prevent_thread_lock=True,
            theme=THEME,
            css=CSS,
            head=f"<script>{SCRIPT}</script>",
            share=False,
            state_session_capacity=200,  # sessions hold nothing, but each call of the API opens one
            show_error=False,
            ssr_mode=False,
            mcp_server=has_tools(page),
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            quiet=True,
        )
    if has_tools(page):
        set_up_server(page)
    if block:
        _serve_until_interrupted()
    return address


def _serve_until_interrupted():
    """Waits in short sleeps: a signal that another thread receives does not wake a main thread that waits for a lock.

    Gradio's own wait ends with a wait for all connections.
    """
    while True:
        time.sleep(0.2)
