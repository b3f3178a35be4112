"""Pictures of the same prompts and seeds by several models."""

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
from ..inference.provenance import Provenance, describe_difference, read_provenance, save_picture
from ..inference.sampling import NonFinitePixelsError, sample
from ..inference.weights import share_guidance
from ..pipelines.calls import usual_guidance_scale
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..utils.pictures import save_image
from ..utils.text_lines import read_entries
from .compared_models import ComparedModel, num_steps_of, slug
from .sheets import sheet


class Prompt(NamedTuple):
    """A prompt and the group in which it is scored, if any."""

    text: str
    group: str | None = None

    @property
    def key(self) -> str:
        """A readable file name, unique to the prompt."""
        return f"{slug(self.text)}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


class PictureKey(NamedTuple):
    """The model, prompt and seed that identify a picture."""

    model: ComparedModel
    prompt: Prompt
    seed: int


@dataclass(kw_only=True)
class Gallery:
    """All pictures of a comparison, finished and missing.

    Args:
        folder: Folder of the pictures.
        models: Models to compare.
        prompts: Prompts, each sampled by each model.
        seeds: Seeds, each used with each prompt.
        num_inference_steps: Number of sampling steps; `None` for each model's own.
        guidance_scale: Weight of the prompt against the zero condition; `None` for each model's own.
        variation: Spread around the prompt; `None` for each model's own.
        algorithm: Sampler; `None` for each model's own.
        dtype: Precision of sampling: "fp32", "fp16" or "bf16".
        version: Version of the package.

    Raises:
        ValueError: If the guidance scale is beyond the range of a guidance-distilled model, or the variation is out of
            range, or more than 0 for a model whose text encoder was not fitted.
    """

    folder: Path
    models: list[ComparedModel]
    prompts: list[Prompt]
    seeds: range
    num_inference_steps: int | None
    guidance_scale: float | None
    variation: float | None
    algorithm: str | None
    dtype: str
    version: str

    def __post_init__(self):
        if self.variation is not None and not 0 <= self.variation <= 1:
            raise ValueError(f"The variation must lie between 0 and 1, not at {self.variation:g}.")
        for model in self.models:
            guidance_scale = self.guidance_of(model)
            if model.max_guidance_scale is not None and guidance_scale > model.max_guidance_scale:
                raise ValueError(
                    f"{model.name} was distilled for guidance scales up to {model.max_guidance_scale:g}, not "
                    f"{guidance_scale:g}."
                )
            if self.variation and not model.can_vary_texts:
                raise ValueError(f"A variation needs fitted text encoders, and that of {model.name} was not fitted.")

    def steps_of(self, model: ComparedModel) -> int:
        """Number of sampling steps of a model's pictures."""
        return num_steps_of(model, self.algorithm, self.num_inference_steps)

    def guidance_of(self, model: ComparedModel) -> float:
        """Guidance scale of a model's pictures."""
        return usual_guidance_scale(self.guidance_scale, model.default_guidance_scale, model.max_guidance_scale)

    def variation_of(self, model: ComparedModel) -> float:
        """Variation of a model's pictures."""
        if self.variation is not None:
            return self.variation
        return (model.default_variation or 0.0) if model.can_vary_texts else 0.0

    def keys(self, model: ComparedModel) -> list[PictureKey]:
        """Keys of all P · S pictures of a model, prompt by prompt."""
        return [PictureKey(model, prompt, seed) for prompt in self.prompts for seed in self.seeds]

    def path(self, key: PictureKey) -> Path:
        """Path of a picture's file."""
        return self.folder / "pictures" / key.model.folder_name / key.prompt.key / f"{key.seed:05d}.png"

    def sheet_path(self, prompt: Prompt) -> Path:
        """Path of the file of a prompt's sheet."""
        return self.folder / "sheets" / f"{prompt.key}.png"

    def image(self, key: PictureKey) -> Image.Image:
        """Reads a finished picture, RGB."""
        with Image.open(self.path(key)) as image:
            return image.convert("RGB")

    def settings(self, key: PictureKey) -> Provenance:
        """Everything that determines a picture, as its file records it."""
        guidance_scale = self.guidance_of(key.model)
        return {
            "conditions": [list(pair) for pair in share_guidance([(key.prompt.text, None)], guidance_scale)],
            "variation": self.variation_of(key.model),
            "model": key.model.source,
            "identity": key.model.identity,
            "steps": self.steps_of(key.model),
            "algorithm": self.algorithm or "the model's own",
            "dtype": self.dtype,
            "version": self.version,
            "seed": key.seed,
        }

    def is_made(self, key: PictureKey) -> bool:
        """Returns True if a picture's file is complete and was made with these settings."""
        made_with = read_provenance(self.path(key))
        # A model that was moved is still the same model.
        return made_with is not None and {**made_with, "model": key.model.source} == self.settings(key)

    def missing(self, model: ComparedModel) -> list[PictureKey]:
        """Keys of a model's pictures that are not finished."""
        return [key for key in self.keys(model) if not self.is_made(key)]

    def require_own_pictures(self) -> None:
        """Raises `ValueError` if the folder has a picture of the same model, prompt and seed with other settings."""
        for model in self.models:
            for key in self.missing(model):
                found = read_provenance(self.path(key))
                if found is not None:
                    wanted = self.settings(key) | {"model": found.get("model")}
                    raise ValueError(
                        f"{self.folder} has pictures of {model.name} {describe_difference(found, wanted)}; choose "
                        f"another --output, or use --overwrite."
                    )

    def sample_missing(self, device: torch.device, batch_size: int) -> None:
        """Samples all missing pictures, and saves each as soon as its batch is finished.

        Raises:
            ValueError: If a model's pixels are not finite.
        """
        missing = {model.name: self.missing(model) for model in self.models}
        num_missing = sum(map(len, missing.values()))
        with tqdm(total=num_missing, desc="Sampling", unit="picture", disable=None if num_missing else True) as bar:
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
            guidance_scale=self.guidance_of(keys[0].model),
            variation=self.variation_of(keys[0].model),
        )
        try:
            yield from zip(keys, pictures)
        except NonFinitePixelsError as error:
            raise ValueError(f"{keys[0].model.name}: {error}") from error

    def save_sheets(self) -> None:
        """Saves a sheet for each prompt, with a row for each model and a column for each seed."""
        self.sheet_path(self.prompts[0]).parent.mkdir(parents=True, exist_ok=True)
        for prompt in tqdm(self.prompts, desc="Sheets", unit="sheet", disable=None):
            rows = {m.name: [self.image(PictureKey(m, prompt, seed)) for seed in self.seeds] for m in self.models}
            save_image(sheet(prompt.text, rows, self.seeds), self.sheet_path(prompt))


# Prompts


def parse_prompts(path: Path) -> list[Prompt]:
    """Reads prompts, one per line, as `read_entries` does.

    A line may start with a group in square brackets: "[wikiart] a sunset". A prompt that itself starts with a bracket
    needs empty brackets before it, which mean no group.

    Raises:
        ValueError: If the file cannot be read, has no prompts, or has a prompt twice.
    """
    prompts: dict[str, Prompt] = {}
    for number, line in read_entries(path):
        group, text = re.fullmatch(r"(?:\[([^\[\]]*)\])?\s*(.*)", line).groups()
        if not text:
            raise ValueError(f"{path}, line {number}: the group has no prompt.")
        if text in prompts:
            raise ValueError(f"{path}, line {number}: the prompt {text!r} appears twice.")
        prompts[text] = Prompt(text, (group or "").strip() or None)
    if not prompts:
        raise ValueError(f"{path} has no prompts.")
    return list(prompts.values())
