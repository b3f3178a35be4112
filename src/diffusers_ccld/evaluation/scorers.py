"""Networks that embed pictures and texts into one space, to score by."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..utils.errors import first_line

PIXELS_ACROSS = 32


class Scorer(Protocol):
    """What embeds pictures and texts."""

    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        """Embeddings of unit length, (N, D), float32, on the CPU."""

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Likewise."""


class CLOOBScorer:
    """The CLOOB of a pipeline.

    Args:
        folder: Where the pipeline is saved.
        device: Where to compute.

    Raises:
        ValueError: If a part of it is missing.
    """

    def __init__(self, folder: Path, device: torch.device):
        self.device = device
        try:
            self.tokenizer = CLOOBTokenizer.from_pretrained(folder, subfolder="tokenizer")
            self.processor = CLOOBImageProcessor.from_pretrained(folder, subfolder="feature_extractor")
            text_encoder = CLOOBTextModelWithProjection.from_pretrained(
                folder, subfolder="text_encoder", dtype=torch.float32
            )
            image_encoder = CLOOBVisionModelWithProjection.from_pretrained(
                folder, subfolder="image_encoder", dtype=torch.float32
            )
        except OSError as error:
            raise ValueError(f"{folder}: its CLOOB cannot be loaded to score with. ({first_line(error)})") from error
        self.text_encoder, self.image_encoder = (m.to(device).eval() for m in (text_encoder, image_encoder))

    @torch.no_grad()
    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        pixel_values = self.processor(images, return_tensors="pt").pixel_values
        return self.image_encoder(pixel_values.to(self.device)).image_embeds.cpu()

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        input_ids = self.tokenizer(texts, return_tensors="pt")["input_ids"]
        return self.text_encoder(input_ids.to(self.device)).text_embeds.cpu()


class OpenCLIPScorer:
    """A model of open_clip, which had no part in making the pictures, with weights from a file.

    Args:
        name: One of `open_clip.list_models()`.
        weights: The file.
        device: Where to compute.

    Raises:
        ValueError: If there is no such model or file, or they do not belong together.
    """

    def __init__(self, name: str, weights: Path, device: torch.device):
        import open_clip

        self.device = device
        if name not in open_clip.list_models():
            raise ValueError(f"--open-clip {name}: open_clip knows no such model; see open_clip.list_models().")
        if not weights.is_file():
            raise ValueError(f"--open-clip-weights {weights}: there is no such file.")
        try:
            model, _, self.preprocess = open_clip.create_model_and_transforms(name, pretrained=str(weights))
            self.tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # of whatever it stumbles over in the file
            raise ValueError(
                f"--open-clip-weights {weights}: they are not the weights of {name}. ({first_line(error)})"
            ) from error
        self.model = model.to(device).eval()

    @torch.no_grad()
    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        pixels = torch.stack([self.preprocess(image) for image in images])
        return F.normalize(self.model.encode_image(pixels.to(self.device)).float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return F.normalize(self.model.encode_text(self.tokenizer(texts).to(self.device)).float(), dim=-1).cpu()


class Features(NamedTuple):
    """What pictures are compared by.

    Attributes:
        embeds: The scorer's embeddings of unit length, (N, D).
        pixels: The pictures in 32 × 32 pixels, flattened, values in [0, 1], (N, 3072).
    """

    embeds: torch.Tensor
    pixels: torch.Tensor


def features_of(images: Iterable[Image.Image], scorer: Scorer, batch_size: int) -> Features:
    """Features of RGB pictures, of which only a batch at once is held in memory.

    Raises:
        ValueError: If there are none.
    """
    parts = [(scorer.embed_images(batch), small_pixels(batch)) for batch in batches(images, batch_size)]
    if not parts:
        raise ValueError("There are no pictures to score.")
    return Features(*(torch.cat(tensors) for tensors in zip(*parts)))


def small_pixels(images: list[Image.Image], across: int = PIXELS_ACROSS) -> torch.Tensor:
    """RGB pictures shrunk by averaging and flattened, values in [0, 1], (N, 3 · `across`²)."""
    small = [image.resize((across, across), Image.Resampling.BOX) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in small]) / 255).flatten(1)


def batches(images: Iterable[Image.Image], batch_size: int) -> Iterator[list[Image.Image]]:
    """The same, in lists."""
    iterator = iter(images)
    while batch := list(islice(iterator, batch_size)):
        yield batch
