"""The same prompts from the same seeds, painted by several models."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..inference.loading import load_pipeline
from ..inference.provenance import Provenance, read_provenance, save_picture
from ..inference.sampling import NonFinitePixelsError, sample, share_guidance
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..utils.errors import first_line
from ..utils.pictures import save_image
from .compared_models import ComparedModel, num_steps_of, slug
from .sheets import sheet


class Prompt(NamedTuple):
    """A prompt, and the group it is counted with, if any."""

    text: str
    group: str | None = None

    @property
    def key(self) -> str:
        """A name for its files: readable, and of no other prompt."""
        return f"{slug(self.text)}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


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
        return num_steps_of(model, self.algorithm, self.num_inference_steps)

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

    def settings(self, key: PictureKey) -> Provenance:
        """All that decides what a picture looks like, as it is kept in the file."""
        return {
            "conditions": [list(pair) for pair in share_guidance([(key.prompt.text, None)], self.guidance_scale)],
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
        made_with = read_provenance(self.path(key))
        # The same model from another place is the same model.
        return made_with is not None and {**made_with, "model": key.model.source} == self.settings(key)

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
                    for key, picture in self._sampled(pipe, missing[model.name], batch_size):
                        self.path(key).parent.mkdir(parents=True, exist_ok=True)
                        save_picture(picture, self.path(key), self.settings(key))
                        bar.update()
                    del pipe

    def _sampled(
        self, pipe: CCLDPipeline, keys: Sequence[PictureKey], batch_size: int
    ) -> Iterator[tuple[PictureKey, Image.Image]]:
        pictures = sample(
            pipe,
            [key.seed for key in keys],
            [key.prompt.text for key in keys],
            batch_size=batch_size,
            num_inference_steps=self.steps_of(keys[0].model),
            guidance_scale=self.guidance_scale,
        )
        try:
            yield from zip(keys, pictures)
        except NonFinitePixelsError as error:
            raise ValueError(f"{keys[0].model.name}: {error}") from error

    def save_sheets(self) -> None:
        """Lays the pictures of each prompt on a sheet: a row for each model, a column for each seed."""
        self.sheet_path(self.prompts[0]).parent.mkdir(parents=True, exist_ok=True)
        for prompt in tqdm(self.prompts, desc="Sheets", unit="sheet", disable=None):
            rows = {m.name: [self.image(PictureKey(m, prompt, seed)) for seed in self.seeds] for m in self.models}
            save_image(sheet(prompt.text, rows, self.seeds), self.sheet_path(prompt))


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
