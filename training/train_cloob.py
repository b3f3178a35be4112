#!/usr/bin/env python3
"""Trains CLOOB, an image encoder and a text encoder with a common space, on images with captions.

    accelerate launch training/train_cloob.py --cloob_config JSON --dataset FOLDER --output_dir DIR

With InfoLOOB of Hopfield retrievals, after a first part with InfoNCE, which is quicker to begin with. In a last part
the text encoder alone is fitted to the image embeddings, whose place a diffusion model gives it later. Or a new image
encoder learns the space of a text encoder that stays as it is (--trained_towers image). Interrupted, it
saves a checkpoint and goes on from there with --resume latest. The result is OUTPUT_DIR/cloob, with the folders
text_encoder, tokenizer, image_encoder and feature_extractor that a pipeline has.
"""

import dataclasses
import hashlib
import json
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
from diffusers_ccld.data.sources import canonical_source, load_examples, select_images
from diffusers_ccld.models.losses_cloob import cloob_loss, cosine_distance, info_nce_loss
from diffusers_ccld.sharing.hub import forget_places
from diffusers_ccld.sharing.model_cards import CLOOB, PLOT_NAME, shareable
from diffusers_ccld.training.accelerator import make_accelerator
from diffusers_ccld.training.batches import make_batches, make_training_data
from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.components import load_components, read_json
from diffusers_ccld.training.config import RunConfig, setting
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.result import plot_log, save_training_card, training_facts
from diffusers_ccld.training.run import start_run
from diffusers_ccld.training.state import make_state
from diffusers_ccld.training.tokenizer import train_tokenizer
from diffusers_ccld.utils.errors import first_line
from diffusers_ccld.utils.files import folder_moved_into_place

PARTS = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor")


@dataclasses.dataclass(kw_only=True)
class CLOOBTrainingConfig(RunConfig):
    """Settings of this script."""

    model: str | None = setting(None, "folder or Hub name of the pipeline whose CLOOB is trained further")
    inverse_temperature: float = setting(30.0, "inverse temperature of both losses")
    hopfield_scale: float = setting(15.0, "inverse temperature of the Hopfield retrieval")
    cloob_config: str | None = setting(
        None, "begin from scratch, with a CLOOB of this configuration (JSON); beside model with a new image encoder"
    )
    trained_towers: str = setting(
        "both",
        "encoders that are trained: both, image or text; the other keeps its weights, and the space its meaning",
    )
    vocabulary_size: int | None = setting(
        None, "make a tokenizer of so many tokens from the captions (default: CLIP's, of 49,408)"
    )
    caption_columns: list[str] = setting(["caption"], "columns with captions, of which one is drawn every time")
    kind_columns: list[str] = setting(
        [], "images that agree in these columns are kept out of each other's batches, where they can be"
    )
    info_nce_steps: int = setting(0, "steps at the beginning that are taken with InfoNCE")
    refit_steps: int = setting(
        0,
        "steps at the end that fit the text encoder alone to the image embeddings (the image encoder, if only that "
        "is trained, to the text embeddings)",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.model is None and self.cloob_config is None:
            raise ValueError("Give model, to go on with its CLOOB, or cloob_config, to begin from scratch.")
        if self.trained_towers not in ("both", "image", "text"):
            raise ValueError(f"trained_towers={self.trained_towers!r}: choose both, image or text.")
        if self.trained_towers != "both" and self.model is None:
            raise ValueError("trained_towers needs a model: an encoder that is not trained has to be a trained one.")
        if self.model is not None and self.cloob_config is not None and self.trained_towers != "image":
            raise ValueError("A new image encoder for a trained text encoder needs trained_towers image.")
        if self.model is not None and self.vocabulary_size is not None:
            raise ValueError("A CLOOB that has been trained has its vocabulary: leave out vocabulary_size.")
        if self.dataset is None:
            raise ValueError("Give a dataset of images with captions.")
        if self.info_nce_steps < 0 or self.refit_steps < 0 or self.info_nce_steps + self.refit_steps > self.max_steps:
            raise ValueError("info_nce_steps and refit_steps must not be negative, nor together more than max_steps.")
        if not self.inverse_temperature > 0 or not self.hopfield_scale > 0:
            raise ValueError("inverse_temperature and hopfield_scale must be positive.")
        if self.train_batch_size < 2:
            raise ValueError("train_batch_size must be at least 2: a pair is contrasted with the others.")

    def part_at(self, step: int) -> str:
        """Which of the run's three parts the step after `step` others belongs to."""
        if step >= self.max_steps - self.refit_steps:
            return "refit"
        return "info_nce" if step < self.info_nce_steps else "cloob"


def make_cloob(
    config: CLOOBTrainingConfig, captions: list[list[str]]
) -> tuple[CLOOBModel, CLOOBTokenizer, CLOOBImageProcessor]:
    """The model to be trained, its tokenizer and its image processor.

    Raises:
        ValueError: If there is none, or its configuration is wrong.
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
    """The settings of text and image encoder in a JSON file.

    Raises:
        ValueError: If it has others.
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
    """A model with random weights, of the settings of a `CLOOBConfig`.

    Raises:
        ValueError: If there is none; `source` is what is to blame.
    """
    try:
        model = CLOOBModel(CLOOBConfig(**settings))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"{source} describes no CLOOB: {first_line(error)}") from error
    for tower in (model.config.text_config, model.config.vision_config):
        if tower.hidden_size % tower.num_attention_heads:
            raise ValueError(
                f"{source}: a hidden_size of {tower.hidden_size} does not divide into "
                f"{tower.num_attention_heads} heads."
            )
    return model


class Embedding(nn.Module):
    """Both towers as one call: image and text embeddings of unit length, (N, D) each."""

    def __init__(self, model: CLOOBModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image_embeds = self.model.vision_model(pixel_values=pixel_values).image_embeds
        return image_embeds, self.model.text_model(input_ids=input_ids).text_embeds


def gather_with_gradient(accelerator: Accelerator, embeds: torch.Tensor) -> torch.Tensor:
    """Embeddings (N, D) of all processes, (world · N, D); those of this process keep their graph.

    Every process computes the loss of the whole batch. Of its gradient each has the part that flows through its own
    embeddings; the sum of the parts is the whole.
    """
    if accelerator.num_processes == 1:
        return embeds
    parts = list(gather(embeds.detach()).chunk(accelerator.num_processes))
    parts[accelerator.process_index] = embeds
    return torch.cat(parts)


def train_cloob(config: CLOOBTrainingConfig) -> int:
    accelerator = make_accelerator(config)
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)

    # The images, their captions, and the model
    source = canonical_source(config.dataset)
    with accelerator.main_process_first():
        examples = load_examples(source, config.dataset_split)
    images = select_images(examples, source, config.image_column)
    captions = load_captions(examples, config.caption_columns)
    kinds = kinds_of(examples, config.kind_columns) if config.kind_columns else None
    model, tokenizer, processor = make_cloob(config, captions)
    size = config.resolution or processor.size
    found = make_training_data(config, accelerator, images, source, size)
    data = CaptionedImages(images, captions, found.dataset.preparation, config.seed, kinds)
    told = json.dumps([captions, None if kinds is None else kinds.tolist(), tokenizer.get_vocab()], sort_keys=True)
    identity = {
        **found.identity,
        "captions": hashlib.sha256(told.encode()).hexdigest(),
        "network": {name: list(weight.shape) for name, weight in model.named_parameters()},
    }
    state = make_state(checkpoint, identity, accelerator.is_main_process)
    batches = make_batches(config, accelerator, found._replace(dataset=data), size, state)
    model.train()
    model.text_model.requires_grad_(config.trained_towers != "image")
    model.vision_model.requires_grad_(config.trained_towers != "text")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = make_optimizer(config, trained)
    network, optimizer = accelerator.prepare(Embedding(model), optimizer)
    ema = EMA(model)
    accelerator.print(f"parameters: {model.num_parameters():,}, images: {len(data):,}, tokens: {len(tokenizer):,}")

    losses = {
        "info_nce": partial(info_nce_loss, inverse_temperature=model.config.inverse_temperature),
        "cloob": partial(
            cloob_loss,
            inverse_temperature=model.config.inverse_temperature,
            hopfield_scale=model.config.hopfield_scale,
        ),
        "refit": cosine_distance,
    }
    with start_run(config, accelerator, state, ema, [optimizer], batches, num_images=len(data)) as run:
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
                        # Of no weight, but part of the graph: several processes expect a gradient of every weight.
                        image_embeds = image_embeds.detach() + 0 * image_embeds
                    loss = losses[part](image_embeds, text_embeds)
                    # Processes average their gradients; the parts that they have are to be added.
                    run.backward(loss * accelerator.num_processes, loss, pictures=pictures, input_ids=input_ids)
                    if text_alone:  # what has no gradient is not decayed either
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

        if run.is_complete and accelerator.is_main_process:
            folder = run.output_dir / "cloob"
            with ema.applied(), folder_moved_into_place(folder) as temporary:
                for name, part in zip(PARTS, (model.text_model, tokenizer, model.vision_model, processor)):
                    part.save_pretrained(temporary / name)
                plot_log(run.log.path, temporary / PLOT_NAME, tuple(losses), "loss", yscale="linear")
                forget_places(temporary)
                facts = {
                    "began from": shareable(config.model or config.cloob_config),
                    **training_facts(run, source, len(data)),
                    "tokens": f"{len(tokenizer):,}",
                }
                save_training_card(temporary, CLOOB, run, run.public_name(folder), facts, source)
            run.publish(folder)
    return run.exit_status


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: train_cloob(parse_config(CLOOBTrainingConfig, __doc__))))
