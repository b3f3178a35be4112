"""Progress, files and link of a painting, for the page."""

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..inference.animation import save_animation
from ..inference.provenance import TEXT_CHUNK, Provenance
from ..inference.tasks import Progress
from ..utils.file_names import file_stem
from .requests import PaintingRequest

FRAME_RATE = 8.0
_LINK = (
    ' · <a href="{}" target="_blank">link that paints this again</a> '
    '<button class="copy" type="button" aria-live="polite">Copy link</button>'
    # page.js shows it where the page has an address of this machine alone.
    '<br><span class="hint local">The link names this computer as localhost. For others, start '
    "<code>make demo HOST=0.0.0.0</code> (or <code>ccld demo --host 0.0.0.0</code>), open this computer's address and "
    "copy the link there.</span>"
)


def progress_html(progress: Progress | None, seconds_left: float | None, previews: Sequence[Image.Image]) -> str:
    """The progress as HTML: the pictures so far, a bar, the step, and the time that is left.

    Args:
        progress: The progress; `None` before the first step.
        seconds_left: The time that is left, if it is known.
        previews: The pictures so far.
    """
    images = "".join(f'<img src="{data_uri(picture)}" alt="unfinished picture">' for picture in previews)
    if progress is None:
        text, share = "Starting", 0.0
    else:
        left = "" if seconds_left is None else f", about {max(round(seconds_left), 1)} s left"
        text, share = f"Step {progress.step} of {progress.num_steps}{left}", progress.share
    bar = f'<div class="bar" role="progressbar" aria-label="{text}"><div style="width: {share:.1%}"></div></div>'
    return f'<div class="running"><div class="frames">{images}</div>{bar}<p>{text}</p></div>'


def data_uri(picture: Image.Image) -> str:
    """A picture as an address that contains it."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def save_pictures(request: PaintingRequest, pictures: Sequence[Image.Image], folder: Path) -> list[tuple[str, str]]:
    """Saves the pictures of a request, or the animation that they are.

    Args:
        request: The request.
        pictures: Its pictures; those of `Painter.paint` record how they were made.
        folder: The folder to write to.

    Returns:
        Each file with its caption.
    """
    stem = file_stem(" to ".join(filter(None, [request.prompt, request.second_prompt])))
    if request.task == "animate":
        path = folder / f"{stem}-{request.seed}.webp"
        save_animation(pictures, path, "webp", FRAME_RATE, _record_of_animation(pictures))
        return [(str(path), f"{len(pictures)} frames, seed {request.seed}")]
    files = []
    for seed, picture in zip(request.seeds, pictures):
        path, info = folder / f"{stem}-{seed}.png", PngImagePlugin.PngInfo()
        if TEXT_CHUNK in picture.info:
            info.add_text(TEXT_CHUNK, picture.info[TEXT_CHUNK])
        picture.save(path, pnginfo=info)
        files.append((str(path), f"seed {seed}"))
    return files


def _record_of_animation(frames: Sequence[Image.Image]) -> Provenance | None:
    """The record of an animation, from that of its first frame; `None` if the frames have none."""
    if TEXT_CHUNK not in frames[0].info:
        return None
    record = json.loads(frames[0].info[TEXT_CHUNK])
    del record["position"]
    return record | {"frames": len(frames), "max_pictures": len(frames)}


def link_html(
    request: PaintingRequest, size: tuple[int, int], unknown: str = "", fingerprint: str | None = None
) -> str:
    """The seeds, the size and the link of finished pictures as HTML.

    Args:
        request: Their request.
        size: Their width and height in pixels.
        unknown: A sentence of the words that the model does not know.
        fingerprint: The model's, for the link.
    """
    last = f"–{request.seeds[-1]}" if request.num_images > 1 else ""
    seeds = f"Seed {request.seed}{last}"
    link = request.link(fingerprint)
    linked = "" if link is None else _LINK.format(html.escape(link))
    unknown = f'<br><span class="unknown">{html.escape(unknown)}</span>' if unknown else ""
    return f'{seeds}{linked}{unknown}<br><span class="hint">{size[0]} × {size[1]} pixels, shown enlarged</span>'
