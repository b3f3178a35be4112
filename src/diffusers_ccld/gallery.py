"""The same prompts from the same seeds, painted by several models."""

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError
from tqdm.auto import tqdm

from .errors import first_line
from .files import save_image
from .loading import find_model, folder_identity, load_pipeline
from .pipeline_ccld import CCLDPipeline
from .scheduling_ccld import CCLDScheduler, usual_num_steps

CELL = 256  # most pixels across that a picture has on a sheet
MARGIN = 12

RESERVED_NAMES = ("training images", "held-out images")


class Prompt(NamedTuple):
    """A prompt, and the group it is counted with, if any."""

    text: str
    group: str | None = None

    @property
    def key(self) -> str:
        """A name for its files: readable, and of no other prompt."""
        return f"{slug(self.text)}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


class ComparedModel(NamedTuple):
    """A model to compare.

    Attributes:
        name: What it is called.
        source: What it was given as: a folder, a hub id, or "default".
        folder: Where it is saved.
        identity: A hash of its files.
        default_num_inference_steps: The number of sampling steps that it has been taught, if there is one.
        max_guidance_scale: The largest guidance scale that it has been taught, if there is one.
    """

    name: str
    source: str
    folder: Path
    identity: str
    default_num_inference_steps: int | None = None
    max_guidance_scale: float | None = None


class PictureKey(NamedTuple):
    """Which picture: by which model, of which prompt, from which seed."""

    model: ComparedModel
    prompt: Prompt
    seed: int


@dataclass(kw_only=True)
class Gallery:
    """All pictures of a comparison, those that are made and those that are not.

    Args:
        folder: Where they lie.
        models: Who paints them.
        prompts: What they show.
        seeds: From which seeds.
        num_inference_steps: Number of sampling steps; `None` for each model's own.
        guidance_scale: Weight of the prompt against the zero condition.
        algorithm: Sampler; `None` for each model's own.
        dtype: Precision to paint in: "fp32", "fp16" or "bf16".
        version: The package's.
    """

    folder: Path
    models: list[ComparedModel]
    prompts: list[Prompt]
    seeds: range
    num_inference_steps: int | None
    guidance_scale: float
    algorithm: str | None
    dtype: str
    version: str

    def __post_init__(self):
        for model in self.models:
            if model.max_guidance_scale is not None and self.guidance_scale > model.max_guidance_scale:
                raise ValueError(
                    f"{model.name} has been taught guidance scales up to {model.max_guidance_scale:g}, not "
                    f"{self.guidance_scale:g}."
                )

    def steps_of(self, model: ComparedModel) -> int:
        """Number of sampling steps of a model's pictures."""
        for number in (self.num_inference_steps, model.default_num_inference_steps):
            if number is not None:
                return number
        return usual_steps_of(model, self.algorithm)

    def keys(self, model: ComparedModel) -> list[PictureKey]:
        """All pictures of a model, prompt by prompt, P · S."""
        return [PictureKey(model, prompt, seed) for prompt in self.prompts for seed in self.seeds]

    def path(self, key: PictureKey) -> Path:
        """The file of a picture."""
        return self.folder / "pictures" / slug(key.model.name) / key.prompt.key / f"{key.seed:05d}.png"

    def sheet_path(self, prompt: Prompt) -> Path:
        """The file of a prompt's sheet."""
        return self.folder / "sheets" / f"{prompt.key}.png"

    def image(self, key: PictureKey) -> Image.Image:
        """A picture that is made, RGB."""
        with Image.open(self.path(key)) as image:
            return image.convert("RGB")

    def settings(self, key: PictureKey) -> dict[str, Any]:
        """All that decides what a picture looks like, as it is kept in the file."""
        return {
            "conditions": [[key.prompt.text, self.guidance_scale]],
            "model": key.model.source,
            "identity": key.model.identity,
            "steps": self.steps_of(key.model),
            "algorithm": self.algorithm or "the model's own",
            "dtype": self.dtype,
            "version": self.version,
            "seed": key.seed,
        }

    def is_made(self, key: PictureKey) -> bool:
        """Whether the picture is there, whole, and was made with these settings."""
        try:
            with Image.open(self.path(key)) as image:
                image.load()
                made_with = json.loads(image.text["ccld"])
        except (OSError, UnidentifiedImageError, SyntaxError, KeyError, AttributeError, ValueError):
            return False
        # The same model from another place is the same model.
        return {**made_with, "model": key.model.source} == self.settings(key)

    def missing(self, model: ComparedModel) -> list[PictureKey]:
        """The pictures of a model that are still to be made."""
        return [key for key in self.keys(model) if not self.is_made(key)]

    def paint(self, device: torch.device, batch_size: int) -> None:
        """Makes all pictures that are missing; each is kept as soon as its batch is finished.

        Raises:
            ValueError: If a model gives values that are no numbers.
        """
        missing = {model.name: self.missing(model) for model in self.models}
        num_missing = sum(map(len, missing.values()))
        with tqdm(total=num_missing, desc="Painting", unit="picture", disable=None if num_missing else True) as bar:
            for model in self.models:
                if missing[model.name]:
                    bar.set_postfix_str(model.name)
                    pipe = load_pipeline(model.folder, self.dtype, device, algorithm_type=self.algorithm)
                    pipe.set_progress_bar_config(disable=True)
                    for first in range(0, len(missing[model.name]), batch_size):
                        batch = missing[model.name][first : first + batch_size]
                        self._paint_batch(pipe, batch)
                        bar.update(len(batch))
                    del pipe

    def _paint_batch(self, pipe: CCLDPipeline, keys: Sequence[PictureKey]) -> None:
        images = pipe(
            [key.prompt.text for key in keys],
            num_inference_steps=self.steps_of(keys[0].model),
            guidance_scale=self.guidance_scale,
            generator=[torch.Generator().manual_seed(key.seed) for key in keys],
            output_type="np",
        ).images
        if not np.isfinite(images).all():
            raise ValueError(f"{keys[0].model.name} gave values that are not finite. Try --dtype fp32.")
        for key, image in zip(keys, pipe.image_processor.numpy_to_pil(images)):
            metadata = PngImagePlugin.PngInfo()
            metadata.add_text("ccld", json.dumps(self.settings(key)))
            self.path(key).parent.mkdir(parents=True, exist_ok=True)
            save_image(image, self.path(key), pnginfo=metadata)

    def save_sheets(self) -> None:
        """Lays the pictures of each prompt on a sheet: a row for each model, a column for each seed."""
        self.sheet_path(self.prompts[0]).parent.mkdir(parents=True, exist_ok=True)
        for prompt in tqdm(self.prompts, desc="Sheets", unit="sheet", disable=None):
            rows = {m.name: [self.image(PictureKey(m, prompt, seed)) for seed in self.seeds] for m in self.models}
            save_image(sheet(prompt.text, rows, self.seeds), self.sheet_path(prompt))


def sheet(title: str, rows: dict[str, list[Image.Image]], seeds: Sequence[int]) -> Image.Image:
    """Pictures in labelled rows and columns under a title.

    Args:
        title: What stands above.
        rows: A list of pictures for each label; all have as many as there are seeds.
        seeds: Labels of the columns.
    """
    font, title_font = ImageFont.load_default(14), ImageFont.load_default(18)
    cell = min(CELL, max(max(image.size) for row in rows.values() for image in row))
    columns = max(len(seeds), -(-320 // (cell + MARGIN)))  # room for a title above one small picture
    width = MARGIN + columns * (cell + MARGIN)
    title_lines = _wrapped(title, title_font, width - 2 * MARGIN)
    labels = {name: _wrapped(name, font, width - 2 * MARGIN)[0] for name in rows}
    top = MARGIN + 24 * len(title_lines)
    canvas = Image.new("RGB", (width, top + 22 + len(rows) * (cell + 26) + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(title_lines):
        draw.text((MARGIN, MARGIN + 24 * i), line, "black", title_font)
    lefts = [MARGIN + column * (cell + MARGIN) for column in range(len(seeds))]
    for left, seed in zip(lefts, seeds):
        draw.text((left, top), f"seed {seed}", "#666666", font)
    for i, (name, images) in enumerate(rows.items()):
        row_top = top + 22 + i * (cell + 26)
        draw.text((MARGIN, row_top), labels[name], "black", font)
        for left, image in zip(lefts, images):
            image = image.copy()
            image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            canvas.paste(image, (left, row_top + 20))
    return canvas


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of no more than a width in pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_shortened(line, font, width) for line in lines]


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


# What is compared


def parse_prompts(path: Path) -> list[Prompt]:
    """Reads prompts, one a line; blank lines and lines that begin with # are skipped.

    A line may begin with a group in square brackets: "[wikiart] a sunset". Empty brackets are none, so that a prompt
    can begin with a bracket itself.

    Raises:
        ValueError: If there is no such file, or there are no prompts in it, or one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows marks its files
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts {path}: the file cannot be read. ({first_line(error)})") from error
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        group, text = re.fullmatch(r"(?:\[([^\[\]]*)\])?\s*(.*)", line).groups()
        if not text:
            raise ValueError(f"{path}, line {number}: there is a group, but no prompt.")
        if text in prompts:
            raise ValueError(f"{path}, line {number}: the prompt {text!r} stands there twice.")
        prompts[text] = Prompt(text, (group or "").strip() or None)
    if not prompts:
        raise ValueError(f"{path} has no prompts.")
    return list(prompts.values())


def find_models(sources: Sequence[str]) -> list[ComparedModel]:
    """Finds models, downloads those of the Hub, and tells them apart.

    Args:
        sources: For each a folder, a hub id, or "default" for the bundled one; with NAME= before it, it is called so.

    Raises:
        ValueError: If one is not there, or two have the same name.
    """
    models = []
    for given in sources:
        name, equals, source = given.partition("=")
        if not equals or Path(given).exists():
            name, source = "", given
        folder = find_model(source)
        index = json.loads((folder / "model_index.json").read_text())
        if "CCLD" not in str(index.get("_class_name")):
            raise ValueError(f"{source} is a {index.get('_class_name')}; CCLD pipelines can be compared.")
        if name.strip() in RESERVED_NAMES:
            raise ValueError(f"A model cannot be called {name.strip()}: that is what the page calls something else.")
        taught = {key: index[key] for key in ("default_num_inference_steps", "max_guidance_scale") if key in index}
        name = name.strip() or _name_of(source)
        models.append(ComparedModel(name, source, folder, folder_identity(folder), **taught))
    slugs = [slug(model.name) for model in models]
    for model in models:
        if slugs.count(slug(model.name)) > 1:
            raise ValueError(f"More than one model would be called {model.name}; name them apart: NAME=DIR.")
    return models


def num_evaluations(model: ComparedModel, algorithm: str | None, num_inference_steps: int) -> int:
    """How often a model's network is evaluated for one picture; guidance makes two of each.

    Raises:
        ValueError: If its sampler cannot be loaded.
    """
    scheduler = load_sampler(model, algorithm)
    scheduler.set_timesteps(num_inference_steps)
    return len(scheduler.timesteps)


@functools.cache  # every picture of a model asks
def usual_steps_of(model: ComparedModel, algorithm: str | None) -> int:
    """The number of steps that is usual with a model's own sampler, or with ours of another algorithm.

    Raises:
        ValueError: If its sampler cannot be loaded.
    """
    return usual_num_steps(load_sampler(model, algorithm))


def load_sampler(model: ComparedModel, algorithm: str | None) -> diffusers.SchedulerMixin:
    """A model's own sampler, or ours of another algorithm.

    Raises:
        ValueError: If it cannot be loaded.
    """
    try:
        config = json.loads((model.folder / "scheduler" / "scheduler_config.json").read_text())
        stock = getattr(diffusers, config["_class_name"], None) if algorithm is None else None
        changes = {} if algorithm is None else {"algorithm_type": algorithm}
        return (stock or CCLDScheduler).from_config(config, **changes)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{model.source}: its sampler cannot be loaded. ({first_line(error)})") from error


def slug(text: str) -> str:
    """A text as part of a file's name: lower case, few characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].rstrip("-") or "untitled"


def _name_of(source: str) -> str:
    parts = [part for part in Path(source).parts if part not in ("/", "..", ".")]
    # The scripts that train save the model as `pipeline` in the folder of the run.
    return parts[-2] if len(parts) > 1 and parts[-1] == "pipeline" else (parts or ["model"])[-1]
