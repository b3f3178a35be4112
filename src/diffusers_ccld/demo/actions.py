"""The event handlers of the demo's page, for Gradio."""

import asyncio
import html
import logging
import math
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ..inference.provenance import Provenance, load_record
from ..inference.tasks import PIPELINES, Progress, fitted
from ..utils.words import unknown_words_sentence
from .form import usual_steps
from .links import parse_link
from .painter import Painter, PaintingCancelledError
from .requests import (
    BETWEEN,
    LINKED,
    MODEL_OF_LINK,
    Limits,
    PaintingRequest,
    missing_upload,
    parse_request,
    request_of_record,
)
from .results import link_html, progress_html, save_pictures
from .uploads import uploaded_file

FORM_OF_LINK = (*LINKED, "random_seed")
# Fields of single tabs that a picture's record has: the task of the tab, and the field.
FORM_OF_TABS = (
    ("image_to_image", "strength"),
    ("edit", "strength"),
    ("edit", "num_inference_steps"),
    ("inpaint", "strength"),
    ("between", "second_prompt"),
    ("between", "position"),
    ("animate", "num_frames"),
)
SECONDS_BETWEEN_PREVIEWS = 0.2
PREVIEW_SHARE = 0.2  # of the time at most
TASKS = (*PIPELINES, "between")
FAILED = "The picture could not be painted."

logger = logging.getLogger(__name__)


class Studio:
    """The page's event handlers.

    Args:
        painter: The model.
        limits: Bounds of a request.
    """

    def __init__(self, painter: Painter, limits: Limits):
        self.painter = painter
        self.limits = limits
        self.model = painter.model
        # One thread for all requests: the allocator would keep separate memory for each thread.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="painter")

    async def run(self, task: str, image_prompt: Any = None, **values: Any) -> AsyncIterator[tuple]:
        """Samples the pictures of a form. Yields gallery, seed, note and progress, and the comparison of two pictures
        for tasks that begin with one.

        Gradio closes the generator when the client cancels or leaves. Sampling then ends at its next step.

        Args:
            task: As in `PaintingRequest`.
            image_prompt: The uploaded image prompt, if the model takes one.
            values: The other values of the form, by the names of its fields.

        Raises:
            gr.Error: With a sentence for the user, if the request is invalid or sampling fails.
        """
        try:
            fields, folder = _fields(values | {"image_prompt": image_prompt}), Path(get_upload_folder())
            request = await asyncio.to_thread(parse_request, task, fields, self.limits, folder)
        except ValueError as error:
            raise _for_user(error) from error
        compares = [gr.skip()] if request.picture is not None else []
        updates: asyncio.Queue = asyncio.Queue()
        watch = Watch(self.painter, updates)
        painting = asyncio.get_running_loop().run_in_executor(self._worker, self.painter.paint, request, watch.on_step)
        painting.add_done_callback(watch.on_end)
        try:
            shown = progress_html(None, 0, [])
            while shown is not None:
                yield gr.skip(), gr.skip(), gr.skip(), shown, *compares
                shown = await updates.get()
                while not updates.empty():  # only the latest is shown
                    shown = updates.get_nowait()
            pictures = painting.result()
        except ValueError as error:
            raise _for_user(error) from error
        except Exception as error:
            logger.exception("A painting failed.")
            raise _for_user(FAILED) from error
        finally:
            watch.is_left = True
        if compares:
            compares = [gr.update(value=(fitted(request.picture, pictures[0].size), pictures[0]), visible=True)]
        with tempfile.TemporaryDirectory() as folder:  # Gradio copies the files into its own
            files = save_pictures(request, pictures, Path(folder))
            note = link_html(request, pictures[0].size, self.unknown_words(request), self.model.fingerprint)
            yield files, request.seed, note, "", *compares

    def unknown_words(self, request: PaintingRequest) -> str:
        """A sentence of the words of a request that the model does not know; empty if it knows all."""
        sentence = unknown_words_sentence(request.texts, self.painter.vocabulary, self.model.name)
        return sentence[:1].upper() + sentence[1:]

    def own_settings(self) -> dict[str, Any]:
        """The model's own settings of a request, within the limits."""
        painter, limits = self.painter, self.limits
        most_guidance = min(limits.guidance_scale, painter.max_guidance_scale or math.inf)
        return {
            "algorithm": painter.algorithm,
            "num_inference_steps": min(painter.steps_of(painter.algorithm), limits.num_inference_steps),
            "guidance_scale": min(painter.guidance_scale, most_guidance),
            "variation": painter.variation or 0.0,
        }

    async def picture(self, task: str, values: dict[str, Any]) -> tuple[Image.Image, str]:
        """The picture of a request without uploads, and its unknown words. Raises `gr.Error` as `run` does."""
        loop = asyncio.get_running_loop()
        try:
            request = parse_request(task, values, self.limits)
            (picture,) = await loop.run_in_executor(self._worker, self.painter.paint, request, lambda _: None)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            logger.exception("A painting failed.")
            raise gr.Error(FAILED, print_exception=False) from error
        return picture, self.unknown_words(request)

    def open_link(self, request: gr.Request) -> list[Any]:
        """Values for the form from a link of `PaintingRequest.link`: of its shared fields, of those of tabs, the
        tab, the task to paint at once, and a notice if it is another model's. What the link does not say stays. No
        changes without a link; of a part that is wrong, a notice, and nothing is painted."""
        query, unchanged = dict(request.query_params), [gr.skip()] * (len(FORM_OF_LINK) + len(FORM_OF_TABS) + 2)
        try:
            link = parse_link(query, self.limits)
        except ValueError as error:
            return [*unchanged, _notice([f"The link's settings cannot be used. {error}"], "alert")]
        if link is None:
            return [*unchanged, gr.skip()]
        task = link.request.task
        tabs = BETWEEN if task in BETWEEN else (task,)
        form = {name: getattr(link.request, name) for name in link.names}
        if "seed" in form:
            form["random_seed"] = False
        if "algorithm" in form:
            form.setdefault("num_inference_steps", usual_steps(self.painter, self.limits)[form["algorithm"]])
        of_link = [form.get(name, gr.skip()) for name in FORM_OF_LINK]
        of_tabs = [form.get(name, gr.skip()) if tab in tabs else gr.skip() for tab, name in FORM_OF_TABS]
        other_model = self.model.difference("link", query.get(MODEL_OF_LINK))
        if not link.faults:
            return [*of_link, *of_tabs, gr.Tabs(selected=tabs[0]), task, _notice([other_model])]
        faults = f"The link cannot be used as it is. {' '.join(link.faults)} The form has its other settings."
        return [*of_link, *of_tabs, gr.Tabs(selected=tabs[0]), "", _notice([faults, other_model], "alert")]

    def read_settings(self, file: Any) -> list[Any]:
        """Values for the form from a picture of ours: of its shared fields, of those of tabs, of the image prompt and
        its share where the model takes one, the tab, and a notice of what they lack. No changes without a file; of one
        that cannot be used, the notice alone."""
        num_fields = len(FORM_OF_LINK) + len(FORM_OF_TABS) + 2 * self.painter.takes_image_prompts + 1
        if not file:
            return [gr.skip()] * (num_fields + 1)
        file = file[0] if isinstance(file, list) else file
        try:
            record = load_record(uploaded_file(file, Path(get_upload_folder())), self.limits.image_pixels)
            request = request_of_record(record, self.limits)
        except ValueError as error:
            notice = _notice([f"The given picture's settings cannot be used. {error}"], "alert")
            return [*[gr.skip()] * num_fields, notice]
        task = record.get("task", request.task)
        task = task if task in TASKS else request.task
        tabs = (task, "animate") if "frames" in record else (task,)
        of_tabs = [getattr(request, name) if tab in tabs else gr.skip() for tab, name in FORM_OF_TABS]
        image = [gr.skip(), request.image_prompt_weight] if record.get("images") else [None, gr.skip()]
        image *= self.painter.takes_image_prompts
        other_model = self.model.difference("picture", record.get("fingerprint"), record.get("model"))
        sentences = [other_model, self._other_settings(record), missing_upload(record, self.limits)]
        return [*_form_of(request), *of_tabs, *image, gr.Tabs(selected=task), _notice(sentences)]

    def _other_settings(self, record: Provenance) -> str:
        """Sentences of the settings of a picture that are the model's own here, and differ."""
        sentences, size = [], list(self.painter.pipe.default_size[::-1])
        if record.get("task", "paint") in ("paint", *BETWEEN) and record.get("size", size) != size:
            theirs, ours = (" × ".join(map(str, sides)) for sides in (record["size"], size))
            sentences.append(f"The picture has {theirs} pixels, and this page paints {ours}.")
        own = self.painter.pipe.scheduler.config.get("timestep_schedule")
        if own and record.get("timestep_schedule", own) != own:
            sentences.append(f"The picture has the timestep schedule {record['timestep_schedule']}, this page {own}.")
        return " ".join(sentences)


class Watch:
    """Turns the progress of a painting, in its thread, into HTML for the page.

    Args:
        painter: The painter, for previews.
        updates: Where the HTML goes; `None` at the end.
    """

    def __init__(self, painter: Painter, updates: asyncio.Queue):
        self.is_left = False
        self._painter = painter
        self._updates = updates
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None
        self._next_preview = 0.0
        self._previews: list[Image.Image] = []

    def on_step(self, progress: Progress) -> None:
        """Reports a step. Raises `PaintingCancelledError` if nobody waits for the painting."""
        if self.is_left:
            raise PaintingCancelledError
        now = time.monotonic()
        if self._began is None:
            self._began = now
        elapsed = now - self._began
        if progress.denoised is not None and now >= self._next_preview:
            self._previews = self._painter.previews(progress.denoised)
            end = time.monotonic()
            self._next_preview = max(now + SECONDS_BETWEEN_PREVIEWS, end + (end - now) * (1 / PREVIEW_SHARE - 1))
        # The first step is not in the time that has elapsed.
        finished = progress.share - 1 / progress.num_steps
        left = elapsed / finished * (1 - progress.share) if finished > 0 else None
        self._send(progress_html(progress, left, self._previews))

    def on_end(self, painting: asyncio.Future) -> None:
        """Ends the updates."""
        if not painting.cancelled():
            painting.exception()  # asyncio warns of exceptions that nobody retrieves
        self._updates.put_nowait(None)

    def _send(self, update: str) -> None:
        self._loop.call_soon_threadsafe(self._updates.put_nowait, update)


def _form_of(request: PaintingRequest) -> list[Any]:
    form = {name: getattr(request, name) for name in LINKED} | {"random_seed": False}
    return [form[name] for name in FORM_OF_LINK]


def _notice(sentences: Iterable[str], role: str = "status") -> str:
    """The notice at the top of the page. Gradio shows errors of events without a queue nowhere."""
    return "".join(f'<p class="unknown" role="{role}">{html.escape(text)}</p>' for text in sentences if text)


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """The form's values under the names that `parse_request` takes."""
    fields = dict(values)
    if fields.pop("random_seed", None) is True:
        fields["seed"] = None
    if "masked_picture" in fields:
        editor = fields.pop("masked_picture")
        editor = editor if isinstance(editor, dict) else {}
        fields |= {"picture": editor.get("background"), "mask": editor.get("layers")}
    return fields


def _for_user(error: ValueError | str) -> gr.Error:
    return gr.Error(html.escape(str(error)), print_exception=False)
