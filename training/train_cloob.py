#!/usr/bin/env python3
"""Trains CLOOB, an image encoder and a text encoder with a common space, on images with captions.

    python training/train_cloob.py --cloob-config JSON --dataset FOLDER --output-dir DIR

The loss is InfoLOOB of Hopfield retrievals. A first part with InfoNCE learns faster at the start. A last part fits the
text encoder alone to the image embeddings, because a diffusion model is trained with image embeddings and sampled with
text embeddings. At the end, its last layer is fitted to them in closed form (--fit-images), as training/fit_text.py
does it for any model. Alternatively, a new image encoder learns the space of a frozen text encoder (--trained-towers
image). An interrupted run saves a checkpoint, and --resume latest continues it. The result is OUTPUT_DIR/cloob, with a
pipeline's folders text_encoder, tokenizer, image_encoder and feature_extractor.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from diffusers_ccld import (
    CLOOBConfig,
    CLOOBImageProcessor,
    CLOOBModel,
    CLOOBTextConfig,
    CLOOBTokenizer,
    CLOOBVisionConfig,
)
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.captions import CaptionedImages, kinds_of, load_captions
from diffusers_ccld.data.sources import canonical_source, find_examples, select_images
from diffusers_ccld.models.losses_cloob import cloob_loss, cosine_distance, info_nce_loss
from diffusers_ccld.sharing.base_models import model_name
from diffusers_ccld.sharing.hub import forget_places
from diffusers_ccld.sharing.model_cards import CLOOB, PLOT_NAME
from diffusers_ccld.training.accelerator import make_accelerator
from diffusers_ccld.training.batches import TrainingData, make_batches, make_training_data
from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.components import load_components, read_json
from diffusers_ccld.training.config import RunConfig, setting
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.result import plot_log, save_training_card, training_facts
from diffusers_ccld.training.run import TrainingRun, start_run
from diffusers_ccld.training.state import make_state
from diffusers_ccld.training.text_fit import TextFit
from diffusers_ccld.training.text_pairs import PairEncoder, fit_text_encoder, gap_of_encoder
from diffusers_ccld.training.text_report import fit_table, gap_table, save_report
from diffusers_ccld.training.tokenizer import train_tokenizer
from diffusers_ccld.utils.errors import first_line
from diffusers_ccld.utils.files import folder_moved_into_place

PARTS = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor")
RUN_PARTS = ("info_nce", "cloob", "refit")
FEWEST_FOR_FIT = 8
IMAGES_OF_GAP = 1_000


@dataclasses.dataclass(kw_only=True)
class CLOOBTrainingConfig(RunConfig):
    """Settings of this script."""

    model: str | None = setting(None, "folder or Hub name of the pipeline whose CLOOB is trained further")
    inverse_temperature: float = setting(30.0, "inverse temperature of both losses")
    hopfield_scale: float = setting(15.0, "inverse temperature of the Hopfield retrieval")
    cloob_config: str | None = setting(
        None, "train a new CLOOB of this configuration (JSON); together with model, a new image encoder"
    )
    trained_towers: str = setting(
        "both",
        "encoders to train: both, image or text; the other one keeps its weights and the meaning of the space",
    )
    vocabulary_size: int | None = setting(
        None, "make a tokenizer of this many tokens from the captions (default: CLIP's, of 49,408)"
    )
    caption_columns: list[str] = setting(["caption"], "columns with captions; a batch has one caption an image")
    kind_columns: list[str] = setting(
        [], "columns that spread similar images: those that agree in all of them share few batches"
    )
    info_nce_steps: int = setting(0, "first steps, which use InfoNCE")
    refit_steps: int = setting(
        0,
        "last steps, which fit the text encoder alone to the image embeddings (or the image encoder to the text "
        "embeddings, if only that one is trained)",
    )

    fit_images: int = setting(
        20_000,
        "at the end, fit the last layer of the text encoder in closed form to this many images at most, drawn by the "
        "seed; 0 for no fit. A text encoder that is not trained keeps it",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.fit_images != 0 and self.fit_images < FEWEST_FOR_FIT:
            raise ValueError(f"fit_images must be 0, or at least {FEWEST_FOR_FIT}.")
        if self.model is None and self.cloob_config is None:
            raise ValueError("Give model, to train its CLOOB further, or cloob_config, to train a new one.")
        if self.trained_towers not in ("both", "image", "text"):
            raise ValueError(f"trained_towers={self.trained_towers!r}: choose both, image or text.")
        if self.trained_towers != "both" and self.model is None:
            raise ValueError("trained_towers needs a model: an encoder that keeps its weights must be a trained one.")
        if self.model is not None and self.cloob_config is not None and self.trained_towers != "image":
            raise ValueError("A new image encoder for a trained text encoder needs trained_towers image.")
        if self.model is not None and self.vocabulary_size is not None:
            raise ValueError("A trained CLOOB has its own vocabulary: leave out vocabulary_size.")
        if self.dataset is None:
            raise ValueError("Give a dataset of images with captions.")
        if self.info_nce_steps < 0 or self.refit_steps < 0 or self.info_nce_steps + self.refit_steps > self.max_steps:
            raise ValueError("info_nce_steps and refit_steps must not be negative, nor together more than max_steps.")
        if not self.inverse_temperature > 0 or not self.hopfield_scale > 0:
            raise ValueError("inverse_temperature and hopfield_scale must be positive.")
        if self.train_batch_size < 2:
            raise ValueError("train_batch_size must be at least 2: a pair is contrasted with the others.")

    @property
    def fits_text(self) -> bool:
        """True if the run ends with a fit of the text encoder."""
        return self.fit_images > 0 and self.trained_towers != "image"

    def part_at(self, step: int) -> str:
        """The part of the run, of `RUN_PARTS`, that contains the step after `step` others."""
        if step >= self.max_steps - self.refit_steps:
            return "refit"
        return "info_nce" if step < self.info_nce_steps else "cloob"


def make_cloob(
    config: CLOOBTrainingConfig, captions: list[list[str]]
) -> tuple[CLOOBModel, CLOOBTokenizer, CLOOBImageProcessor]:
    """Loads or makes the model, its tokenizer and its image processor.

    Raises:
        ValueError: If a part is missing, or the configuration is wrong.
    """
    scales = {"inverse_temperature": config.inverse_temperature, "hopfield_scale": config.hopfield_scale}
    text, vision = ({}, {}) if config.cloob_config is None else read_towers(config.cloob_config)
    if config.model is not None:
        if text:
            raise ValueError(f"{config.cloob_config}: the text encoder is the model's; leave out text_config.")
        parts = load_components(config.model, PARTS)
        new = config.cloob_config is not None
        towers = {
            "text_config": parts["text_encoder"].config,
            "vision_config": vision if new else parts["image_encoder"].config,
        }
        model = make_model(config.cloob_config or config.model, **towers, **scales)
        model.text_model = parts["text_encoder"]
        if new:
            return model, parts["tokenizer"], CLOOBImageProcessor(size=model.config.vision_config.image_size)
        model.vision_model = parts["image_encoder"]
        return model, parts["tokenizer"], parts["feature_extractor"]

    length = text.get("max_position_embeddings", 77)
    if config.vocabulary_size is None:
        tokenizer = CLOOBTokenizer(model_max_length=length)
    else:
        texts = (caption for texts in captions for caption in texts)
        tokenizer = train_tokenizer(texts, config.vocabulary_size, model_max_length=length)
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text |= {"vocab_size": len(tokenizer), **tokens}
    model = make_model(config.cloob_config, text_config=text, vision_config=vision, **scales)
    return model, tokenizer, CLOOBImageProcessor(size=model.config.vision_config.image_size)


def read_towers(path: str) -> tuple[dict, dict]:
    """Reads the settings of text and image encoder from a JSON file.

    Raises:
        ValueError: If it has other settings.
    """
    values = read_json(path)
    towers = {"text_config": CLOOBTextConfig, "vision_config": CLOOBVisionConfig}
    known = {key: {field.name for field in dataclasses.fields(towers[key])} for key in towers}
    for key, tower in values.items():
        if key not in towers or not isinstance(tower, dict):
            raise ValueError(f"{path}: {key} is not a mapping called text_config or vision_config.")
        if unknown := tower.keys() - known[key]:
            raise ValueError(f"{path}: {key} has unknown settings: {', '.join(sorted(unknown))}.")
    text, vision = ({**values.get(key, {})} for key in towers)
    return text, vision


def make_model(source: str, **settings: Any) -> CLOOBModel:
    """A model with random weights.

    Args:
        source: File or folder of the settings, for the message.
        settings: Arguments of `CLOOBConfig`.

    Raises:
        ValueError: If the settings are wrong.
    """
    try:
        model = CLOOBModel(CLOOBConfig(**settings))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"{source} does not describe a CLOOB: {first_line(error)}") from error
    for tower in (model.config.text_config, model.config.vision_config):
        if tower.hidden_size % tower.num_attention_heads:
            raise ValueError(
                f"{source}: a hidden_size of {tower.hidden_size} does not divide into "
                f"{tower.num_attention_heads} heads."
            )
    return model


class Embedding(nn.Module):
    """Both encoders as one module. It returns image and text embeddings of unit length, (N, D) each."""

    def __init__(self, model: CLOOBModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image_embeds = self.model.vision_model(pixel_values=pixel_values).image_embeds
        return image_embeds, self.model.text_model(input_ids=input_ids).text_embeds


def gather_with_gradient(accelerator: Accelerator, embeds: torch.Tensor) -> torch.Tensor:
    """Gathers embeddings (N, D) of all processes: (world · N, D). Those of this process keep their graph.

    Every process computes the loss of the joint batch. Its gradient has the part that flows through its own
    embeddings. The parts add up to the gradient of the joint batch.
    """
    if accelerator.num_processes == 1:
        return embeds
    parts = list(gather(embeds.detach()).chunk(accelerator.num_processes))
    parts[accelerator.process_index] = embeds
    return torch.cat(parts)


def load_data(
    config: CLOOBTrainingConfig, accelerator: Accelerator
) -> tuple[CLOOBModel, CLOOBTokenizer, CLOOBImageProcessor, TrainingData]:
    """Loads images and captions, and makes the model, its tokenizer and its image processor.

    Raises:
        ValueError: If something is missing, or the model's configuration is wrong.
    """
    source = canonical_source(config.dataset)
    with accelerator.main_process_first():
        found = find_examples(source, config.dataset_split)
    accelerator.print(found.description)
    examples = found.examples
    images = select_images(examples, source, config.image_column)
    captions = load_captions(examples, config.caption_columns)
    if config.fits_text and len(images) < FEWEST_FOR_FIT:
        raise ValueError(f"The fit of the text encoder needs {FEWEST_FOR_FIT} images; without it, give fit_images 0.")
    kinds = kinds_of(examples, config.kind_columns) if config.kind_columns else None
    model, tokenizer, processor = make_cloob(config, captions)
    size = config.resolution or processor.size
    data = make_training_data(config, accelerator, images, source, size, found.passed_over)
    texts = json.dumps([captions, None if kinds is None else kinds.tolist(), tokenizer.get_vocab()], sort_keys=True)
    identity = {
        **data.identity,
        "captions": hashlib.sha256(texts.encode()).hexdigest(),
        "network": {name: list(weight.shape) for name, weight in model.named_parameters()},
    }
    dataset = CaptionedImages(images, captions, data.dataset.preparation, config.seed, kinds)
    return model, tokenizer, processor, data._replace(dataset=dataset, identity=identity)


def make_losses(model: CLOOBModel) -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """The loss of each part of a run, a function of image and text embeddings (N, D)."""
    return {
        "info_nce": partial(info_nce_loss, inverse_temperature=model.config.inverse_temperature),
        "cloob": partial(
            cloob_loss,
            inverse_temperature=model.config.inverse_temperature,
            hopfield_scale=model.config.hopfield_scale,
        ),
        "refit": cosine_distance,
    }


def finish_cloob(
    run: TrainingRun, model: CLOOBModel, tokenizer: CLOOBTokenizer, processor: CLOOBImageProcessor, data: TrainingData
) -> None:
    """Fits the averaged model's text encoder, reports the gap, and saves the model; all processes must take part."""
    config, dataset, device = run.config, data.dataset, run.accelerator.device
    encoder = PairEncoder(
        images=dataset.images,
        captions=dataset.captions,
        preparation=dataset.preparation,
        text_encoder=model.text_model,
        tokenizer=tokenizer,
        image_encoder=model.vision_model,
        feature_extractor=processor,
        seed=config.seed,
        num_workers=config.dataloader_num_workers,
        max_bad_share=config.max_bad_share,
        device=device,
    )
    model.eval()
    model.text_model.set_residual_factor(None)  # that of a former model
    with run.ema.applied():
        if config.fits_text:
            fit = fit_text_encoder(encoder, config.fit_images, seed=config.seed)
            table = fit_table(fit)
        else:
            fit, gap = None, gap_of_encoder(encoder, IMAGES_OF_GAP, config.seed)
            table = "" if gap is None else gap_table("pairs of training", {"": gap})
        if run.accelerator.is_main_process:
            save_cloob(run, model, tokenizer, processor, data, fit, table)
            print(f"\n{table}\n")


def save_cloob(
    run: TrainingRun,
    model: CLOOBModel,
    tokenizer: CLOOBTokenizer,
    processor: CLOOBImageProcessor,
    data: TrainingData,
    fit: TextFit | None,
    table_of_gap: str,
) -> None:
    """Saves the model as the folder `cloob` with its card, and uploads it if the settings ask for it."""
    config, folder = run.config, run.output_dir / "cloob"
    with folder_moved_into_place(folder) as temporary:
        for name, part in zip(PARTS, (model.text_model, tokenizer, model.vision_model, processor)):
            part.save_pretrained(temporary / name)
        plot_log(run.log.path, temporary / PLOT_NAME, RUN_PARTS, "loss", yscale="linear")
        forget_places(temporary)
        facts = {
            "began from": model_name(config.model or config.cloob_config),
            **training_facts(run, data.source, data.num_images),
            "tokens": f"{len(tokenizer):,}",
        }
        if fit is not None:
            save_report(fit, data.source, temporary)
        sections = [f"## The gap between texts and images\n\n{table_of_gap}"] if table_of_gap else []
        save_training_card(temporary, CLOOB, run, run.public_name, facts, data.source, sections=sections)
    run.publish(folder)


def train_cloob(config: CLOOBTrainingConfig) -> int:
    accelerator = make_accelerator(config)
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)

    # The model, the images and their captions
    model, tokenizer, processor, data = load_data(config, accelerator)
    state = make_state(checkpoint, data.identity, accelerator.is_main_process)
    batches = make_batches(config, accelerator, data, config.resolution or processor.size, state)
    model.train()
    model.text_model.requires_grad_(config.trained_towers != "image")
    model.vision_model.requires_grad_(config.trained_towers != "text")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = make_optimizer(config, trained)
    network, optimizer = accelerator.prepare(Embedding(model), optimizer)
    ema = EMA(model)
    accelerator.print(
        f"parameters: {model.num_parameters():,}, images: {data.num_images:,}, tokens: {len(tokenizer):,}"
    )

    losses = make_losses(model)
    with start_run(config, accelerator, state, ema, [optimizer], batches, data.num_images, data.bad) as run:
        for step in run.steps():
            part = config.part_at(step)
            text_alone = part == "refit" and config.trained_towers != "image"
            if text_alone and step == config.max_steps - config.refit_steps:
                ema.copy_to_weights()  # from here on, the image embeddings are those of the result
            for batch, _ in run.micro_batches():
                pictures = batch["pixel_values"].to(accelerator.device).float() / 255
                pixel_values = processor.preprocess_training_images(pictures)
                input_ids = tokenizer(batch["captions"], return_tensors="pt")["input_ids"].to(accelerator.device)
                with accelerator.accumulate(network):
                    image_embeds, text_embeds = network(pixel_values, input_ids)
                    image_embeds, text_embeds = (
                        gather_with_gradient(accelerator, embeds.float()) for embeds in (image_embeds, text_embeds)
                    )
                    if text_alone:
                        # Zero, but part of the graph: DDP expects a gradient of every weight.
                        image_embeds = image_embeds.detach() + 0 * image_embeds
                    loss = losses[part](image_embeds, text_embeds)
                    # DDP averages the gradients of the processes; the factor turns the mean into the sum.
                    run.backward(loss * accelerator.num_processes, loss, pictures=pictures, input_ids=input_ids)
                    if text_alone:  # a weight without a gradient does not decay either
                        model.vision_model.zero_grad(set_to_none=True)
                    grad_norm = run.clip_gradient(trained, pictures=pictures, input_ids=input_ids)
                    optimizer.step()
                    optimizer.zero_grad()
                similarity = image_embeds.detach() @ text_embeds.detach().T
                hits = (similarity.argmax(dim=0) == torch.arange(len(similarity), device=similarity.device)).float()
                run.log.add(
                    len(similarity),
                    loss=loss.item(),
                    **{part: loss.item()},
                    cosine=similarity.diagonal().mean().item(),
                    top_1=hits.mean().item(),
                )
            run.finish_step(grad_norm)

        if run.is_complete:
            finish_cloob(run, model, tokenizer, processor, data)
    return run.exit_status


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: train_cloob(parse_config(CLOOBTrainingConfig, __doc__))))
