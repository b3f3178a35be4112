"""The event handlers of the demo's page, for Gradio."""

import asyncio
import html
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ..inference.tasks import Progress
from .painter import Painter, PaintingCancelledError
from .requests import LINKED, Limits, PaintingRequest, parse_link, parse_request

FORM_OF_LINK = (*LINKED, "random_seed")

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
        # One thread for all requests: the allocator would keep separate memory for each thread.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="painter")

    async def run(self, task: str, image_prompt: Any = None, **values: Any) -> AsyncIterator[tuple]:
        """Samples the pictures of a form. Yields gallery, seed and note after every step.

        Gradio closes the generator when the client cancels or leaves. Sampling then ends at its next step.

        Args:
            task: One of `PIPELINES`.
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
        loop, shares, is_left = asyncio.get_running_loop(), asyncio.Queue(), False

        def on_step(progress: Progress) -> None:
            if is_left:
                raise PaintingCancelledError
            loop.call_soon_threadsafe(shares.put_nowait, progress.share)

        def on_end(painting: asyncio.Future) -> None:
            if not painting.cancelled():
                painting.exception()  # asyncio warns of exceptions that nobody retrieves
            shares.put_nowait(None)

        painting = loop.run_in_executor(self._worker, self.painter.paint, request, on_step)
        painting.add_done_callback(on_end)
        share: float | None = 0.0
        try:
            while share is not None:
                yield gr.skip(), gr.skip(), _progress_bar(share)
                share = await shares.get()
                while not shares.empty():  # only the latest is shown
                    share = shares.get_nowait()
            pictures = painting.result()
        except ValueError as error:
            raise _for_user(error) from error
        except Exception as error:
            logger.exception("A painting failed.")
            raise _for_user("The picture could not be painted.") from error
        finally:
            is_left = True
        yield pictures, request.seed, _note(request)

    def open_link(self, request: gr.Request) -> list[Any]:
        """Values for the form from a link that `PaintingRequest.link` made, and the link; without one, no changes."""
        try:
            linked = parse_link(dict(request.query_params), self.limits)
        except ValueError as error:
            gr.Warning(f"The link cannot be opened: {html.escape(str(error))}")
            linked = None
        if linked is None:
            return [gr.skip()] * (len(FORM_OF_LINK) + 1)
        form = {"random_seed": False} | {name: getattr(linked, name) for name in FORM_OF_LINK if name != "random_seed"}
        return [*(form[name] for name in FORM_OF_LINK), linked.link()]


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


def _progress_bar(share: float) -> str:
    return f'<div class="progress" role="progressbar"><div style="width: {share:.1%}"></div></div>'


def _note(request: PaintingRequest) -> str:
    last = f"–{request.seeds[-1]}" if request.num_images > 1 else ""
    link = request.link()
    if link is None:
        return f"Seed {request.seed}{last}"
    return f'Seed {request.seed}{last} · <a href="{html.escape(link)}" target="_blank">link that paints this again</a>'
