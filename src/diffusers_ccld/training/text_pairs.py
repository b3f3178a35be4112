"""Encodes captions and images for the fit of a text encoder. Image embeddings can come from a cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from tqdm.auto import tqdm

from ..data.decoding import BadImageError
from ..data.images import Preparation
from ..data.latent_cache import LatentCache
from ..data.randomness import Purpose, generator_at
from ..data.sources import name_of
from ..models.embedding_gap import EmbeddingGap
from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from .bad_images import BadImages
from .text_fit import LinearMap, Pairs, TextFit, fit_text, gap_of, splits


class EncodedPair(NamedTuple):
    """An encoded image and its encoded captions.

    Attributes:
        features: Inputs of the text encoder's last layer for C captions, (C, H).
        image_embed: Embedding of the image, (D,).
    """

    features: torch.Tensor
    image_embed: torch.Tensor


def as_pairs(encoded: Mapping[int, EncodedPair], text_encoder: CLOOBTextModelWithProjection) -> Pairs:
    """Collects encoded images as pairs, in the order of their indices."""
    found = [encoded[index] for index in sorted(encoded)]
    config = text_encoder.config
    return Pairs(
        torch.cat([torch.zeros(0, config.hidden_size), *(pair.features for pair in found)]),
        torch.arange(len(found)).repeat_interleave(torch.tensor([len(p.features) for p in found], dtype=torch.long)),
        torch.stack([pair.image_embed for pair in found]) if found else torch.zeros(0, config.projection_dim),
    )


@dataclass(kw_only=True)
class PairEncoder:
    """Encodes images and their captions for `fit_text`.

    Attributes:
        images: Undecoded pictures, from `load_images`.
        captions: The captions of each picture; there may be none or several.
        preparation: Preparation of the pictures.
        text_encoder: The text encoder.
        tokenizer: Its tokenizer.
        image_encoder: The image encoder.
        feature_extractor: Its image processor.
        cache: A cache with the embeddings of the same pictures, or `None` to compute them.
        seed: Seed of random crops and flips.
        batch_size: Number of pictures to encode at once.
        num_workers: Number of processes that read pictures.
        max_bad_share: Largest share of pictures that may be bad.
        device: Device of the encoders.
    """

    images: datasets.Dataset
    captions: Sequence[Sequence[str]]
    preparation: Preparation
    text_encoder: CLOOBTextModelWithProjection
    tokenizer: CLOOBTokenizer
    image_encoder: CLOOBVisionModelWithProjection
    feature_extractor: CLOOBImageProcessor
    cache: LatentCache | None = None
    seed: int = 0
    batch_size: int = 64
    num_workers: int = 0
    max_bad_share: float = 0.2
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def encode(self, indices: Sequence[int], description: str = "Encoding") -> dict[int, "EncodedPair"]:
        """Encodes the pictures at these indices, and their captions. Leaves out bad pictures.

        Raises:
            ValueError: If too many pictures are bad.
        """
        embeds = self._cached(indices) if self.cache is not None else self._computed(indices, description)
        features = self._features([text for index in embeds for text in self.captions[index]], description)
        parts = features.split([len(self.captions[index]) for index in embeds])
        return {index: EncodedPair(part, embeds[index]) for index, part in zip(embeds, parts)}

    def _cached(self, indices: Sequence[int]) -> dict[int, torch.Tensor]:
        rows = self.cache.rows.select_columns(["index", "image_embeds"])
        row_of = {index: row for row, index in reversed(list(enumerate(rows["index"][:].tolist())))}
        known = [index for index in indices if index in row_of]
        found = rows[[row_of[index] for index in known]]["image_embeds"] if known else []
        return {index: torch.from_numpy(np.asarray(embed, np.float32)) for index, embed in zip(known, found)}

    def _computed(self, indices: Sequence[int], description: str) -> dict[int, torch.Tensor]:
        loader = torch.utils.data.DataLoader(
            _Pictures(self.images, self.preparation, self.seed, indices),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=list,
        )
        bad_images = BadImages(self.max_bad_share, len(self.images))
        embeds: dict[int, torch.Tensor] = {}
        hidden = not PartialState().is_main_process
        with tqdm(total=len(indices), desc=f"{description} images", unit="image", disable=hidden or None) as bar:
            for batch in loader:
                good = [(index, pixels) for index, pixels, _ in batch if pixels is not None]
                if good:
                    pixels = torch.stack([pixels for _, pixels in good]).to(self.device).float() / 255
                    pixels = self.feature_extractor.preprocess_training_images(pixels).to(self.image_encoder.dtype)
                    found = self.image_encoder(pixels).image_embeds.float().cpu()
                    embeds |= zip((index for index, _ in good), found)
                bad = [reason for _, _, reason in batch if reason is not None]
                bad_images.add([index for index, _, _ in batch], bad)
                bar.update(len(batch))
        return embeds

    def _features(self, texts: Sequence[str], description: str) -> torch.Tensor:
        """Returns inputs of the text encoder's last layer for M texts, (M, H). Encodes equal texts once."""
        unique = list(dict.fromkeys(texts))
        batches = range(0, len(unique), self.batch_size)
        hidden = not PartialState().is_main_process
        parts = [torch.zeros(0, self.text_encoder.config.hidden_size)]
        for first in tqdm(batches, desc=f"{description} captions", unit="batch", disable=hidden or None):
            batch = unique[first : first + self.batch_size]
            input_ids = self.tokenizer(batch, return_tensors="pt")["input_ids"].to(self.device)
            parts.append(self.text_encoder(input_ids=input_ids).last_hidden_state[:, 0].float().cpu())
        row_of = {text: row for row, text in enumerate(unique)}
        return torch.cat(parts)[[row_of[text] for text in texts]]


class _Pictures(torch.utils.data.Dataset):
    """Items are (index, uint8 pixels (3, size, size), None), or (index, None, (name, reason)) for a bad picture."""

    def __init__(self, images: datasets.Dataset, preparation: Preparation, seed: int, indices: Sequence[int]):
        self.images, self.preparation, self.seed, self.indices = images, preparation, seed, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, torch.Tensor | None, tuple[str, str] | None]:
        index = self.indices[position]
        source = self.images[index]["image"]
        try:
            pixels = self.preparation.pixels(source, generator_at(self.seed, Purpose.CROP, index))
        except BadImageError as error:
            return index, None, (name_of(source, index), str(error))
        return index, torch.from_numpy(pixels.copy()), None


def gap_of_encoder(encoder: PairEncoder, max_images: int, seed: int = 0) -> EmbeddingGap | None:
    """Measures the gap between texts and images of a dataset. Returns `None` for fewer than four good images.

    Several processes share the encoding of the images. All of them return the same result.

    Args:
        encoder: The dataset and the encoders.
        max_images: Largest number of images. They are drawn at random if the dataset has more.
        seed: Seed of the draw.

    Raises:
        ValueError: If too many images are bad.
    """
    state = PartialState()
    chosen = _chosen(len(encoder.captions), max_images, seed)[state.process_index :: state.num_processes]
    pairs = as_pairs(gathered(encoder.encode(chosen)), encoder.text_encoder)
    return gap_of(_last_layer(encoder.text_encoder), pairs) if len(pairs.image_embeds) >= 4 else None


def _chosen(num_images: int, max_images: int | None, seed: int) -> Sequence[int]:
    """Returns the indices of all images, or of `max_images` random ones, in ascending order."""
    if max_images is None or max_images >= num_images:
        return range(num_images)
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(num_images, generator=generator)[:max_images].tolist())


def _last_layer(text_encoder: CLOOBTextModelWithProjection) -> LinearMap:
    projection = text_encoder.text_projection
    return LinearMap(projection.weight.detach().double().cpu(), projection.bias.detach().double().cpu())


def fit_text_encoder(
    encoder: PairEncoder, max_images: int | None = None, held_out_share: float = 0.1, seed: int = 0
) -> TextFit:
    """Fits the last layer of a text encoder to the image embeddings of a dataset, and replaces the layer.

    Several processes share the encoding of the images. All of them get the same layer.

    Args:
        encoder: The dataset and the encoders; the text encoder is changed.
        max_images: Largest number of images, `None` for all. They are drawn at random if the dataset has more.
        held_out_share: Share of held-out images, which choose the ridge penalty and measure the gap.
        seed: Seed of the draw and of the choice of held-out images.

    Raises:
        ValueError: If there are too few images, no captions, or embeddings that are not finite.
    """
    state, chosen = PartialState(), _chosen(len(encoder.captions), max_images, seed)
    fitted, held_out = ([chosen[i] for i in part] for part in splits(len(chosen), held_out_share, seed))
    share = slice(state.process_index, None, state.num_processes)
    pairs = as_pairs(encoder.encode(fitted[share]), encoder.text_encoder)
    held_out = as_pairs(gathered(encoder.encode(held_out[share], "Encoding held-out")), encoder.text_encoder)
    if len(held_out.image_embeds) < 4:
        raise ValueError(f"{len(held_out.image_embeds)} held-out images are readable; the fit needs at least four.")
    fit = fit_text(pairs, held_out, _last_layer(encoder.text_encoder), summed)
    set_fit(encoder.text_encoder, fit)
    return fit


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Sums a tensor over all processes."""
    state = PartialState()
    if state.num_processes == 1:
        return tensor
    return reduce(tensor.to(state.device), reduction="sum").to(tensor.device)


def gathered(encoded: dict[int, EncodedPair]) -> dict[int, EncodedPair]:
    """Gathers the encoded images of all processes."""
    if PartialState().num_processes == 1:
        return encoded
    return {index: pair for part in gather_object([encoded]) for index, pair in part.items()}


@torch.no_grad()
def set_fit(text_encoder: CLOOBTextModelWithProjection, fit: TextFit) -> None:
    """Replaces a text encoder's last layer and residual factor by the fitted ones."""
    projection = text_encoder.text_projection
    projection.weight.copy_(fit.layer.weight)
    projection.bias.copy_(fit.layer.bias)
    text_encoder.set_residual_factor(fit.residual_factor)
