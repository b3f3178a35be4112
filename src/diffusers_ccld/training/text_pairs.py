"""Pairs of captions and images for the fit of a text encoder, encoded from a dataset or with a cache's embeddings."""

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
    """One image and its captions.

    Attributes:
        features: Input of the text encoder's last layer for C captions, (C, H).
        image_embed: (D,).
    """

    features: torch.Tensor
    image_embed: torch.Tensor


def as_pairs(encoded: Mapping[int, EncodedPair], text_encoder: CLOOBTextModelWithProjection) -> Pairs:
    """The pairs of encoded images, in the order of their indices."""
    found = [encoded[index] for index in sorted(encoded)]
    config = text_encoder.config
    return Pairs(
        torch.cat([torch.zeros(0, config.hidden_size), *(pair.features for pair in found)]),
        torch.arange(len(found)).repeat_interleave(torch.tensor([len(p.features) for p in found], dtype=torch.long)),
        torch.stack([pair.image_embed for pair in found]) if found else torch.zeros(0, config.projection_dim),
    )


@dataclass(kw_only=True)
class PairEncoder:
    """Encodes images with their captions as the fit takes them.

    Attributes:
        images: Undecoded pictures, of `load_images`.
        captions: Captions of each picture, any number.
        preparation: Preparation of the pictures.
        text_encoder: The text encoder.
        tokenizer: Its tokenizer.
        image_encoder: The image encoder.
        feature_extractor: Its image processor.
        cache: A cache with the embeddings of the same pictures, or `None` to compute them.
        seed: Seed of random crops and flips.
        batch_size: Pictures encoded at once.
        num_workers: Processes that read pictures.
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
        """Encodes the pictures with these indices and their captions; bad pictures are left out.

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
        """Input of the text encoder's last layer for texts, (M, H). Equal texts are encoded once."""
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
    """Prepared pictures, (3, size, size) uint8, by their index, or name and reason of a bad one."""

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
    """The gap between texts and images of a dataset, as the encoders are; `None` for fewer than four good images.

    Each of several processes encodes its share of the images. All of them get the same result.

    Args:
        encoder: The dataset and the encoders.
        max_images: Largest number of images, drawn by the seed.
        seed: Its seed.

    Raises:
        ValueError: If too many images are bad.
    """
    state = PartialState()
    chosen = _chosen(len(encoder.captions), max_images, seed)[state.process_index :: state.num_processes]
    pairs = as_pairs(gathered(encoder.encode(chosen)), encoder.text_encoder)
    return gap_of(_last_layer(encoder.text_encoder), pairs) if len(pairs.image_embeds) >= 4 else None


def _chosen(num_images: int, max_images: int | None, seed: int) -> Sequence[int]:
    """Indices of all images, or of `max_images` that are drawn by the seed, in ascending order."""
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
    """Fits the last layer of a text encoder to the image embeddings of a dataset, and sets it.

    Each of several processes encodes its share of the images. All of them get the same layer.

    Args:
        encoder: The dataset and the encoders; the text encoder is changed.
        max_images: Largest number of images, drawn by the seed; `None` for all.
        held_out_share: Share of the images that ridge and report are measured on.
        seed: Seed of both choices.

    Raises:
        ValueError: If there are too few images, no captions, or embeddings that are not finite.
    """
    state, chosen = PartialState(), _chosen(len(encoder.captions), max_images, seed)
    fitted, held_out = ([chosen[i] for i in part] for part in splits(len(chosen), held_out_share, seed))
    share = slice(state.process_index, None, state.num_processes)
    pairs = as_pairs(encoder.encode(fitted[share]), encoder.text_encoder)
    held_out = as_pairs(gathered(encoder.encode(held_out[share], "Encoding held-out")), encoder.text_encoder)
    if len(held_out.image_embeds) < 4:
        raise ValueError(f"{len(held_out.image_embeds)} held-out images are good; the fit needs four.")
    fit = fit_text(pairs, held_out, _last_layer(encoder.text_encoder), summed)
    set_fit(encoder.text_encoder, fit)
    return fit


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    state = PartialState()
    if state.num_processes == 1:
        return tensor
    return reduce(tensor.to(state.device), reduction="sum").to(tensor.device)


def gathered(encoded: dict[int, EncodedPair]) -> dict[int, EncodedPair]:
    """The encoded images of all processes."""
    if PartialState().num_processes == 1:
        return encoded
    return {index: pair for part in gather_object([encoded]) for index, pair in part.items()}


@torch.no_grad()
def set_fit(text_encoder: CLOOBTextModelWithProjection, fit: TextFit) -> None:
    """Gives a text encoder the fitted layer and the residual factor."""
    projection = text_encoder.text_projection
    projection.weight.copy_(fit.layer.weight)
    projection.bias.copy_(fit.layer.bias)
    text_encoder.set_residual_factor(fit.residual_factor)
