"""Compares models: a gallery of pictures, their scores, and a page that shows both."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance
from tqdm.auto import tqdm

from ..inference.loading import folder_identity
from ..utils.files import write_text
from ..utils.locks import exclusive
from ..utils.text_lines import read_entries
from .compared_models import ComparedModel
from .copying import FEWEST_HELD_OUT, nearest_images
from .distances import frechet_inception_distance, inception_metric
from .gallery import Gallery, PictureKey
from .gap import gap_scores
from .metrics import frechet_distance, prompt_similarity
from .page import Pair, PromptRow, Shown, comparison_page, link_to
from .reference_images import ChosenImages, ReferenceImages, choose_images, read_reference_images
from .scorers import PIXELS_ACROSS, CLOOBScorer, FeatureNetwork, Features, OpenCLIPScorer, batches, features_of
from .scores import (
    STYLES,
    Copying,
    copying_scores,
    distance_scores,
    nearest_training_images,
    prompt_scores,
    style_scores,
    summarized,
)

# Distance in 32 × 32 pixels below which two images count as the same, perhaps re-encoded: one grey level in 256.
SAME_IMAGE = PIXELS_ACROSS * 3**0.5 / 255


class AllScores(TypedDict):
    """The content of `scores.json`.

    Attributes:
        settings: What determines the pictures and their scores: models, seeds, steps, references and others.
        prompts: Text and group of each prompt.
        models: The scores of each model, by its name.
        styles: Zero-shot shares of styles of each set of pictures, and their distance to the first set's.
        notes: Remarks on images that were left out, and the like.
    """

    settings: dict[str, Any]
    prompts: list[dict[str, str | None]]
    models: dict[str, dict[str, Any]]
    styles: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A gallery and the networks and images that score it, as `load_comparison` loads them.

    Attributes:
        gallery: The pictures.
        scorer: The CLOOB that scores all models.
        batch_size: Pictures at once.
        training: Images that the models may have memorized.
        held_out: Images of the same kind that were not trained on.
        open_clip: A second scorer.
        inception_weights: Weights of torch-fidelity's Inception network.
        feature_network: Another network, for the Fréchet distance in its features.
        styles: A caption for each style.
    """

    gallery: Gallery
    scorer: CLOOBScorer
    batch_size: int
    training: ChosenImages | None
    held_out: ChosenImages | None
    open_clip: OpenCLIPScorer | None
    inception_weights: Path | None
    feature_network: FeatureNetwork | None
    styles: dict[str, str]

    def run(self) -> Path:
        """Samples missing pictures, scores all, and writes the sheets, `scores.json` and the page; returns the page.

        Meanwhile, no other process can write the folder.

        Raises:
            FolderInUseError: If another process writes the folder.
            ValueError: If too few held-out images remain without those that are also training images, or a model
                samples values that are not finite.
        """
        gallery = self.gallery
        with exclusive(gallery.folder):
            gallery.sample_missing(self.scorer.device, self.batch_size)
            gallery.save_sheets()
            scores, pairs = self.score()
            write_text(gallery.folder / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
            page = gallery.folder / "index.html"
            write_text(page, self._page(scores, pairs))
        return page

    # Scores

    def score(self) -> tuple[AllScores, dict[str, list[Pair]]]:
        """Scores sampled pictures; returns the content of `scores.json` and each model's closest pairs."""
        gallery, notes = self.gallery, []
        training, held_out = self._references(notes)
        references = {"training images": training, "held-out images": held_out}
        embeds = {name: images.features.embeds for name, images in references.items() if images is not None}
        baseline = nearest_training_images(held_out.features, training.features) if training and held_out else None
        text_embeds, clip_embeds = self._text_embeds()
        inception, held_out_features = self._inception(held_out), self._held_out_features(held_out)

        models, pairs, first = {}, {}, None
        for model in tqdm(gallery.models, desc="Scoring", unit="model", disable=None):
            features = features_of(self._images(model), self.scorer, self.batch_size)
            embeds[model.name] = features.embeds
            per_prompt = prompt_scores(features, text_embeds)
            if clip_embeds is not None:
                per_prompt["open_clip_similarity"] = self._open_clip_similarity(model, clip_embeds)
            scores = summarized(per_prompt, first, [prompt.group for prompt in gallery.prompts])
            first = per_prompt if first is None else first
            if training is not None:
                nearest = nearest_training_images(features, training.features)
                scores["copying"] = copying_scores(nearest, baseline, len(gallery.prompts))
                pairs[model.name] = self._pairs(model, nearest, training)
            if held_out is not None and len(features.embeds) > 1:
                scores |= self._distances(model, features, held_out, inception)
                if held_out_features is not None:
                    mine = self.feature_network(self._images(model), self.batch_size)
                    scores["frechet_feature_distance"] = frechet_distance(mine, held_out_features)
            if held_out is not None and held_out.captions is not None:
                gap = gap_scores(model.folder, self.scorer.device, held_out, self.batch_size)
                if gap is None:
                    notes.append(f"{model.name} does not have an image encoder, and so its gap was not measured.")
                scores |= gap or {}
            scores["per_prompt"] = {name: values.tolist() for name, values in per_prompt.items()}
            models[model.name] = scores

        style_embeds = self.scorer.embed_texts(list(self.styles.values()))
        scores = AllScores(
            settings=self._settings(),
            prompts=[prompt._asdict() for prompt in gallery.prompts],
            models=models,
            styles=style_scores(embeds, style_embeds, list(self.styles)),
            notes=notes,
        )
        return scores, pairs

    def _settings(self) -> dict[str, Any]:
        gallery, open_clip = self.gallery, self.open_clip
        return {
            "models": {model.name: model.source for model in gallery.models},
            "identities": {model.name: model.identity for model in gallery.models},
            "seeds": list(gallery.seeds),
            "steps": {model.name: gallery.steps_of(model) for model in gallery.models},
            "guidance_scale": {model.name: gallery.guidance_of(model) for model in gallery.models},
            "variation": {model.name: gallery.variation_of(model) for model in gallery.models},
            "algorithm": gallery.algorithm,
            "dtype": gallery.dtype,
            "scorer": str(self.scorer.folder),
            "open_clip": None if open_clip is None else [open_clip.name, str(open_clip.weights)],
            "feature_network": None if self.feature_network is None else str(self.feature_network.folder),
            "training_images": None if self.training is None else self.training.source,
            "held_out_images": None if self.held_out is None else self.held_out.source,
            "styles": self.styles,
            "version": gallery.version,
        }

    def _images(self, model: ComparedModel) -> Iterator[Image.Image]:
        return map(self.gallery.image, self.gallery.keys(model))

    def _text_embeds(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        texts = [prompt.text for prompt in self.gallery.prompts]
        return self.scorer.embed_texts(texts), None if self.open_clip is None else self.open_clip.embed_texts(texts)

    def _open_clip_similarity(self, model: ComparedModel, text_embeds: torch.Tensor) -> torch.Tensor:
        parts = [self.open_clip.embed_images(batch) for batch in batches(self._images(model), self.batch_size)]
        return prompt_similarity(torch.cat(parts).unflatten(0, (len(text_embeds), -1)), text_embeds)

    def _distances(
        self,
        model: ComparedModel,
        features: Features,
        held_out: ReferenceImages,
        inception: FrechetInceptionDistance | None,
    ) -> dict[str, float]:
        distances = distance_scores(features.embeds, held_out.features.embeds)
        if inception is not None:
            pictures = _as_tensors(self._images(model), self.batch_size)
            distances["frechet_inception_distance"] = frechet_inception_distance(inception, pictures)
        return distances

    def _references(self, notes: list[str]) -> tuple[ReferenceImages | None, ReferenceImages | None]:
        """Reads the training and the held-out images, where given; appends remarks on them to the notes."""
        first = PictureKey(self.gallery.models[0], self.gallery.prompts[0], self.gallery.seeds[0])
        size, scorer_name = min(self.gallery.image(first).size), folder_identity(self.scorer.folder)
        cache = self.gallery.folder / "cache"
        references = []
        for chosen, name in ((self.training, "training"), (self.held_out, "held-out")):
            if chosen is None:
                references.append(None)
                continue
            images = read_reference_images(chosen, size, self.scorer, scorer_name, cache, self.batch_size)
            notes += [f"{name} images, {line}." for line in chosen.description.splitlines()[1:]]
            if len(chosen.images) < chosen.total:
                notes.append(f"{len(chosen.images):,} of {chosen.total:,} {name} images were used.")
            if num_damaged := len(chosen.images) - len(images.indices):
                notes.append(f"{num_damaged:,} {name} images are damaged or tiny, and were left out.")
            references.append(images)
        training, held_out = references
        if training is not None and held_out is not None:
            same = nearest_images(held_out.features.pixels, training.features.pixels).distances < SAME_IMAGE
            if same.any():
                notes.append(f"{int(same.sum()):,} held-out images are training images, and were left out.")
                held_out = held_out.without(same)
            if len(held_out.indices) < FEWEST_HELD_OUT:
                few = f"{len(held_out.indices)} held-out images are too few"
                raise ValueError(f"{few}; give {FEWEST_HELD_OUT} or more that were not trained on.")
        return training, held_out

    def _inception(self, held_out: ReferenceImages | None) -> FrechetInceptionDistance | None:
        if self.inception_weights is None:
            return None
        images = map(held_out.image, range(len(held_out.indices)))
        return inception_metric(self.inception_weights, _as_tensors(images, self.batch_size))

    def _held_out_features(self, held_out: ReferenceImages | None) -> torch.Tensor | None:
        if self.feature_network is None:
            return None
        return self.feature_network(map(held_out.image, range(len(held_out.indices))), self.batch_size)

    # The page

    def _shown(self, key: PictureKey) -> Shown:
        path = self.gallery.path(key)
        title = f"{key.model.name}: {key.prompt.text} (seed {key.seed})"
        return Shown(self.gallery.image(key), link_to(path, self.gallery.folder), title)

    def _pairs(self, model: ComparedModel, nearest: Copying, training: ReferenceImages) -> list[Pair]:
        keys, pairs = self.gallery.keys(model), []
        for i in nearest.closest(len(self.gallery.seeds)):
            key, row = keys[i], int(nearest.in_pixels.indices[i])
            generated = self._shown(key)._replace(title=f"{key.prompt.text}, seed {key.seed}")
            image = Shown(training.image(row), None, training.name(row))
            pairs.append(Pair(generated, image, *(float(space.ratios[i]) for space in nearest)))
        return pairs

    def _page(self, scores: dict[str, Any], pairs: dict[str, list[Pair]]) -> str:
        gallery, rows = self.gallery, []
        for i, prompt in enumerate(gallery.prompts):
            models = []
            for model in gallery.models:
                similarity = float(np.mean(scores["models"][model.name]["per_prompt"]["prompt_similarity"][i]))
                shown = [self._shown(PictureKey(model, prompt, seed)) for seed in gallery.seeds]
                models.append((model.name, similarity, shown))
            rows.append(PromptRow(prompt.text, prompt.group, models))
        seeds = gallery.seeds
        facts = [
            f"prompts: {len(rows)}",
            f"seeds: {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed: {seeds[0]}",
            f"steps: {gallery.num_inference_steps or 'each model’s own'}",
            f"guidance scale: {_of_all(map(gallery.guidance_of, gallery.models))}",
            f"variation: {_of_all(map(gallery.variation_of, gallery.models))}",
            f"sampler: {gallery.algorithm or 'each model’s own'}",
        ]
        title = " and ".join(model.name for model in gallery.models) if len(gallery.models) < 4 else "Models compared"
        return comparison_page(title, " · ".join(facts), scores, pairs, rows)


def load_comparison(
    gallery: Gallery,
    scorer_folder: Path,
    device: torch.device,
    *,
    batch_size: int = 4,
    training_images: str | None = None,
    held_out_images: str | None = None,
    max_images: int = 2000,
    caption_columns: Sequence[str] | None = None,
    open_clip: tuple[str, Path] | None = None,
    inception_weights: Path | None = None,
    feature_network: Path | None = None,
    styles: dict[str, str] | None = None,
) -> Comparison:
    """Loads and checks everything that a comparison needs, before any picture is sampled.

    Args:
        gallery: The pictures.
        scorer_folder: Folder of the pipeline whose CLOOB scores all models.
        device: Device to compute on.
        batch_size: Pictures at once.
        training_images: Images that the models may have memorized: a folder, a dataset saved to disk, …
        held_out_images: Images of the same kind that were not trained on.
        max_images: Number of images to use of each of the two; of more, a random choice.
        caption_columns: Columns of the held-out images with captions, to measure the gap between texts and images.
        open_clip: Name and weights of an open_clip model that scores the pictures as well.
        inception_weights: Weights of torch-fidelity's Inception network; needs held-out images.
        feature_network: Folder of a vision model of transformers, such as DINOv2; needs held-out images.
        styles: A caption for each style; by default `STYLES`.

    Raises:
        ValueError: If something is missing or unusable.
    """
    scorer = CLOOBScorer.from_pretrained(scorer_folder, device)
    open_clip_scorer = None if open_clip is None else OpenCLIPScorer.load(*open_clip, device)
    training = _chosen(training_images, "--train-images", 2, max_images)
    if caption_columns is not None and held_out_images is None:
        raise ValueError("--caption-columns are columns of --held-out-images: give both.")
    held_out = _chosen(held_out_images, "--held-out-images", FEWEST_HELD_OUT, max_images, caption_columns)
    if inception_weights is not None:
        if held_out is None:
            raise ValueError("--inception-weights needs --held-out-images to measure the distance to.")
        inception_metric(inception_weights, [])  # raises if the file is not what it should be
    if feature_network is not None and held_out is None:
        raise ValueError("--feature-network needs --held-out-images to measure the distance to.")
    return Comparison(
        gallery=gallery,
        scorer=scorer,
        batch_size=batch_size,
        training=training,
        held_out=held_out,
        open_clip=open_clip_scorer,
        inception_weights=inception_weights,
        feature_network=feature_network and FeatureNetwork.from_pretrained(feature_network, device),
        styles=dict(STYLES) if styles is None else styles,
    )


def _chosen(
    source: str | None, option: str, fewest: int, max_images: int, caption_columns: Sequence[str] | None = None
) -> ChosenImages | None:
    if source is None:
        return None
    chosen = choose_images(source, max_images, caption_columns)
    if len(chosen.images) < fewest:
        raise ValueError(f"{option} {source}: {len(chosen.images)} images are too few; give {fewest} or more.")
    return chosen


def parse_styles(path: Path) -> dict[str, str]:
    """Reads one style a line, as `read_entries` does: "name: caption", or a caption that is its own name.

    Raises:
        ValueError: If the file holds fewer than two styles, or a name twice.
    """
    styles: dict[str, str] = {}
    for _, line in read_entries(path):
        name, _, caption = map(str.strip, line.partition(":"))
        if name in styles:
            raise ValueError(f"{path}: the style {name!r} occurs twice.")
        styles[name] = caption or name
    if len(styles) < 2:
        raise ValueError(f"{path}: at least two styles are needed.")
    return styles


def _of_all(values: Iterator[float]) -> str:
    """The value that all models share, or a remark that they differ."""
    distinct = {f"{value:g}" for value in values}
    return distinct.pop() if len(distinct) == 1 else "each model’s own"


def _as_tensors(images: Iterator[Image.Image], batch_size: int) -> Iterator[torch.Tensor]:
    """Yields batches (N, 3, H, W), uint8, of pictures of one size."""
    for batch in batches(images, batch_size):
        yield torch.from_numpy(np.stack([np.asarray(image) for image in batch])).permute(0, 3, 1, 2)
