"""Networks that embed pictures and texts in one space, and the features that scores are computed from."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel

from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..utils.errors import first_line

PIXELS_ACROSS = 32


class Scorer(Protocol):
    """Embeds pictures and texts in one space."""

    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        """Embeddings of unit length, (N, D), float32, on the CPU."""

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Embeddings of unit length, (N, D), float32, on the CPU."""


@dataclass(frozen=True)
class CLOOBScorer:
    """The CLOOB of a pipeline.

    Attributes:
        folder: Folder of the pipeline.
        device: Device of the networks.
        tokenizer: Tokenizer of the texts.
        text_encoder: Embeds texts.
        processor: Prepares pictures.
        image_encoder: Embeds pictures.
    """

    folder: Path
    device: torch.device
    tokenizer: CLOOBTokenizer
    text_encoder: CLOOBTextModelWithProjection
    processor: CLOOBImageProcessor
    image_encoder: CLOOBVisionModelWithProjection

    @classmethod
    def from_pretrained(cls, folder: Path, device: torch.device) -> "CLOOBScorer":
        """Loads the CLOOB of a saved pipeline, in float32.

        Raises:
            ValueError: If a part of it is missing.
        """
        try:
            tokenizer = CLOOBTokenizer.from_pretrained(folder, subfolder="tokenizer")
            processor = CLOOBImageProcessor.from_pretrained(folder, subfolder="feature_extractor")
            text_encoder = CLOOBTextModelWithProjection.from_pretrained(
                folder, subfolder="text_encoder", dtype=torch.float32
            )
            image_encoder = CLOOBVisionModelWithProjection.from_pretrained(
                folder, subfolder="image_encoder", dtype=torch.float32
            )
        except OSError as error:
            raise ValueError(f"{folder}: its CLOOB cannot be loaded to score with. ({first_line(error)})") from error
        text_encoder, image_encoder = (model.to(device).eval() for model in (text_encoder, image_encoder))
        return cls(folder, device, tokenizer, text_encoder, processor, image_encoder)

    @torch.no_grad()
    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        pixel_values = self.processor(images, return_tensors="pt").pixel_values
        return self.image_encoder(pixel_values.to(self.device)).image_embeds.cpu()

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        input_ids = self.tokenizer(texts, return_tensors="pt")["input_ids"]
        return self.text_encoder(input_ids.to(self.device)).text_embeds.cpu()


@dataclass(frozen=True)
class OpenCLIPScorer:
    """A model of open_clip, independent of the models that sampled the pictures.

    Attributes:
        name: Its name in open_clip.
        weights: The file of its weights.
        device: Device of the model.
        model: The model.
        preprocess: Turns a picture into pixels for the model.
        tokenizer: Tokenizer of the texts.
    """

    name: str
    weights: Path
    device: torch.device
    model: nn.Module
    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]

    @classmethod
    def load(cls, name: str, weights: Path, device: torch.device) -> "OpenCLIPScorer":
        """Loads one of `open_clip.list_models()` with weights from a file.

        Raises:
            ValueError: If the model or the file does not exist, or they do not belong together.
        """
        import open_clip

        if name not in open_clip.list_models():
            raise ValueError(f"--open-clip {name}: not a model of open_clip; see open_clip.list_models().")
        if not weights.is_file():
            raise ValueError(f"--open-clip-weights {weights}: not a file.")
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(weights))
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # any file may be given, and raise anything
            raise ValueError(
                f"--open-clip-weights {weights}: they are not the weights of {name}. ({first_line(error)})"
            ) from error
        return cls(name, weights, device, model.to(device).eval(), preprocess, tokenizer)

    @torch.no_grad()
    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        pixels = torch.stack([self.preprocess(image) for image in images])
        return F.normalize(self.model.encode_image(pixels.to(self.device)).float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return F.normalize(self.model.encode_text(self.tokenizer(texts).to(self.device)).float(), dim=-1).cpu()


@dataclass(frozen=True)
class FeatureNetwork:
    """A vision model of transformers, such as DINOv2, for distances in features that no model here was trained with.

    Attributes:
        folder: Its folder.
        device: Device of the model.
        model: The model.
        processor: Prepares pictures.
    """

    folder: Path
    device: torch.device
    model: nn.Module
    processor: Callable[..., dict[str, torch.Tensor]]

    @classmethod
    def from_pretrained(cls, folder: Path, device: torch.device) -> "FeatureNetwork":
        """Loads a saved model, in float32.

        Raises:
            ValueError: If the folder does not hold a vision model with pooled features, or weights are missing.
        """
        try:
            model, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
            network = cls(folder, device, model.to(device).eval(), AutoImageProcessor.from_pretrained(folder))
            network(Image.new("RGB", (64, 64)) for _ in range(2))
        except Exception as error:  # any folder may be given, and raise anything
            raise ValueError(
                f"{folder}: not a vision model of transformers with pooled features, such as DINOv2. "
                f"({first_line(error)})"
            ) from error
        if report["missing_keys"]:
            raise ValueError(f"{folder} lacks weights: {', '.join(sorted(report['missing_keys'])[:3])}")
        return network

    @torch.no_grad()
    def __call__(self, images: Iterable[Image.Image], batch_size: int = 32) -> torch.Tensor:
        """Pooled features of RGB pictures, (N, D), float32, on the CPU."""
        parts = []
        for batch in batches(images, batch_size):
            pixels = self.processor(batch, return_tensors="pt")["pixel_values"].to(self.device)
            parts.append(self.model(pixel_values=pixels).pooler_output.flatten(1).cpu())
        return torch.cat(parts)


class Features(NamedTuple):
    """Features by which N pictures are scored.

    Attributes:
        embeds: The scorer's embeddings of unit length, (N, D).
        pixels: The pictures at 32 × 32 pixels, flattened, values in [0, 1], (N, 3072).
    """

    embeds: torch.Tensor
    pixels: torch.Tensor


def features_of(images: Iterable[Image.Image], scorer: Scorer, batch_size: int) -> Features:
    """Computes features of RGB pictures, holding one batch in memory at a time.

    Raises:
        ValueError: If `images` is empty.
    """
    parts = [(scorer.embed_images(batch), small_pixels(batch)) for batch in batches(images, batch_size)]
    if not parts:
        raise ValueError("At least one picture is needed to score.")
    return Features(*(torch.cat(tensors) for tensors in zip(*parts)))


def small_pixels(images: list[Image.Image], across: int = PIXELS_ACROSS) -> torch.Tensor:
    """RGB pictures shrunk by averaging and flattened, values in [0, 1], (N, 3 · `across`²)."""
    small = [image.resize((across, across), Image.Resampling.BOX) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in small]) / 255).flatten(1)


def batches(images: Iterable[Image.Image], batch_size: int) -> Iterator[list[Image.Image]]:
    """Groups images into lists of `batch_size`; the last may be shorter."""
    iterator = iter(images)
    while batch := list(islice(iterator, batch_size)):
        yield batch
