#!/usr/bin/env python3
"""Distils a pipeline's autoencoder into a small one that decodes in a fraction of the time.

    python training/distill_decoder.py --model DIR --cache CACHE --output-dir OUT
    python training/distill_decoder.py --model DIR --dataset FOLDER --output-dir OUT

The student is diffusers' AutoencoderTiny. It learns from latents: to decode them to the pictures that the pipeline's
decoder makes of them, and to encode these pictures to the latents. With --cache, which precompute.py makes, no image
is read. The result is OUT/tiny_vae, for `pipe.vae = AutoencoderTiny.from_pretrained("OUT/tiny_vae")`.
"""

import dataclasses
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from torch import nn
from torch.nn import functional as F

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.encoding import encode_latents, model_fingerprint
from diffusers_ccld.data.images import as_pictures
from diffusers_ccld.data.randomness import Purpose, normal_at
from diffusers_ccld.models.inference_autoencoder import use_inference_autoencoder
from diffusers_ccld.sharing.base_models import model_name
from diffusers_ccld.sharing.model_cards import PLOT_NAME, TINY_AUTOENCODER
from diffusers_ccld.training.accelerator import make_accelerator
from diffusers_ccld.training.batches import TrainingData, load_training_data, make_batches
from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.components import IMAGE_COMPONENTS, TEXT_COMPONENTS, UNET_COMPONENTS, load_components
from diffusers_ccld.training.config import DemoConfig, require, setting
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.inputs import training_resolution
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.reconstruction_losses import CLOOBFeatureLoss, chroma_loss, pooled_loss, texture_loss
from diffusers_ccld.training.result import plot_log, save_training_card, training_facts
from diffusers_ccld.training.run import TrainingRun, start_run
from diffusers_ccld.training.state import make_state
from diffusers_ccld.utils.files import folder_moved_into_place
from diffusers_ccld.utils.pictures import image_grid

NUM_SHOWN = 8
BLOCKS = 3  # residual blocks of a resolution; the full resolution has one
PLOTTED_TERMS = ("pixel", "pooled", "chroma", "texture", "feature", "encoder")


@dataclasses.dataclass(kw_only=True)
class DistillDecoderConfig(DemoConfig):
    """Settings of this script."""

    model: str = setting(dataclasses.MISSING, "folder or Hub name of the pipeline whose autoencoder is the teacher")
    cache: str | None = setting(None, "train on the cache of precompute.py in this folder")
    streaming: bool = setting(False, "read the dataset as a stream, without downloading it first")
    channels: int = setting(64, "width of the student; 64 makes a decoder of 1.2 million parameters, 96 one of 2.7")

    pixel_weight: float = setting(1.0, "weight of the absolute error of pixels")
    pooled_weight: float = setting(1.0, "weight of the absolute error of smaller versions of the picture")
    chroma_weight: float = setting(1.0, "weight of the absolute error of colour differences")
    texture_weight: float = setting(1.0, "weight of the difference in local contrast")
    feature_weight: float = setting(
        0.0, "weight of the distance in the features of the pipeline's CLOOB image encoder"
    )
    encoder_weight: float = setting(1.0, "weight of the squared error of the student's latents")

    def __post_init__(self):
        super().__post_init__()
        weights = [getattr(self, f.name) for f in dataclasses.fields(self) if f.name.endswith("_weight")]
        require(min(weights) >= 0, "weights must not be negative")
        require(self.channels >= 1, "channels must be positive")
        require(not (self.cache and self.streaming), "a cache is not streamed: give either cache or streaming")


class Guess(NamedTuple):
    """Pictures (N, 3, H, W) of latents, and scaled latents (N, C, h, w) of pictures."""

    pictures: torch.Tensor
    latents: torch.Tensor


class Student(nn.Module):
    """Decodes scaled latents and encodes pictures, in one call: a module that accelerate can distribute.

    Args:
        vae: The small autoencoder.
    """

    def __init__(self, vae: AutoencoderTiny):
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor, pictures: torch.Tensor) -> Guess:
        return Guess(self.vae.decode(latents).sample, self.vae.encode(pictures).latents)


def make_student(teacher: AutoencoderKL | VQModel, channels: int, num_latent_channels: int, seed: int):
    """A small autoencoder of the teacher's scale, with random weights. Its latents are the scaled ones."""
    levels = len(teacher.config.block_out_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderTiny(
            latent_channels=num_latent_channels,
            encoder_block_out_channels=(channels,) * levels,
            decoder_block_out_channels=(channels,) * levels,
            num_encoder_blocks=(1, *(BLOCKS,) * (levels - 1)),
            num_decoder_blocks=(*(BLOCKS,) * (levels - 1), 1),
        )


@torch.no_grad()
def taught(
    batch: dict[str, Any], teacher: AutoencoderKL | VQModel, noise: torch.Tensor, device: torch.device
) -> Guess:
    """Samples the latents of a batch; returns the teacher's pictures of them, and the latents, to be guessed.

    Args:
        batch: Images, or posteriors from a cache.
        teacher: The autoencoder.
        noise: Standard normal, (N, C, h, w); chooses the samples of the posteriors.
        device: Device of the result.
    """
    if "pixel_values" in batch:
        mean, std = encode_latents(teacher, as_pictures(batch, device))
    else:
        mean, std = batch["latent_mean"].to(device), batch["latent_std"].to(device)
    latents = mean + std * noise.to(device)
    pictures = teacher.decode(latents.to(teacher.dtype), return_dict=False)[0].float().clamp(-1, 1)
    return Guess(pictures.contiguous(), latents * teacher.config.scaling_factor)


def distillation_terms(guess: Guess, target: Guess, feature: CLOOBFeatureLoss | None) -> dict[str, torch.Tensor]:
    """The terms of the loss, scalars by the name of their weight."""
    terms = {
        "pixel": (guess.pictures - target.pictures).abs().mean(),
        "pooled": pooled_loss(guess.pictures, target.pictures),
        "chroma": chroma_loss(guess.pictures, target.pictures),
        "texture": texture_loss(guess.pictures, target.pictures),
        "encoder": F.mse_loss(guess.latents, target.latents),
    }
    if feature is not None:
        terms["feature"] = feature(guess.pictures, target.pictures)
    return terms


def load_teacher(config: DistillDecoderConfig) -> tuple[CCLDPipeline, int, tuple[int, int, int]]:
    """Loads the pipeline.

    Returns:
        The pipeline, the size of the training images in pixels, and (C, H, W) of their latents.

    Raises:
        ValueError: If a part is missing, or the size does not fit.
    """
    pipe = CCLDPipeline(**load_components(config.model, (*IMAGE_COMPONENTS, *TEXT_COMPONENTS, *UNET_COMPONENTS)))
    size, latent_shape = training_resolution(config.resolution, pipe.unet.config.sample_size, pipe.vae)
    if size < 32:
        raise ValueError("--resolution must be at least 32: the losses compare smaller versions of the picture.")
    return pipe, size, latent_shape


def gather_terms(accelerator: Accelerator, terms: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Scalar terms of all processes for the log."""
    gathered = accelerator.gather({name: term.detach()[None] for name, term in terms.items()})
    return {name: values.tolist() for name, values in gathered.items()}


@torch.no_grad()
def show(run: TrainingRun, pipe: CCLDPipeline, vae: AutoencoderTiny, target: Guess) -> None:
    """Logs a grid of the teacher's pictures, each above the student's."""
    with run.ema.applied():
        made = vae.decode(target.latents[:NUM_SHOWN]).sample
    rows = torch.cat([target.pictures[:NUM_SHOWN], made])
    run.log.show("decoded", image_grid(pipe.image_processor.postprocess(rows), columns=len(made)))


def save(run: TrainingRun, vae: AutoencoderTiny, data: TrainingData) -> None:
    """Saves the averaged student as the folder `tiny_vae` with its card, and uploads it if the settings ask for it."""
    folder = run.output_dir / "tiny_vae"
    with run.ema.applied(), folder_moved_into_place(folder) as temporary:
        vae.save_pretrained(temporary)
        plot_log(run.log.path, temporary / PLOT_NAME, PLOTTED_TERMS, "loss")
        facts = {
            "teacher": model_name(run.config.model),
            **training_facts(run, data.source, data.num_images),
            "parameters of the decoder": f"{sum(p.numel() for p in vae.decoder.parameters()):,}",
        }
        save_training_card(temporary, TINY_AUTOENCODER, run, run.public_name, facts, data.source)
    run.publish(folder)


def distill_decoder(config: DistillDecoderConfig) -> int:
    accelerator = make_accelerator(config)
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)

    # The teacher, its latents and the student
    pipe, size, latent_shape = load_teacher(config)
    teacher = use_inference_autoencoder(pipe.to(accelerator.device).vae)
    data = load_training_data(config, accelerator, pipe, size)
    feature = CLOOBFeatureLoss(pipe.image_encoder, pipe.feature_extractor) if config.feature_weight else None
    vae = make_student(teacher, config.channels, latent_shape[0], config.seed).train()

    # The state to start from, the optimiser and the EMA
    identity = {**data.identity, "teacher": model_fingerprint(teacher), "channels": config.channels}
    state = make_state(checkpoint, identity, accelerator.is_main_process)
    batches = make_batches(config, accelerator, data, size, state)
    student, optimizer = accelerator.prepare(Student(vae), make_optimizer(config, vae.parameters()))
    ema = EMA(vae)
    accelerator.print(f"parameters: {vae.num_parameters():,}, images: {data.num_images or 'a stream'}")
    with start_run(config, accelerator, state, ema, [optimizer], batches, data.num_images, data.bad) as run:
        for _ in run.steps():
            for batch, positions in run.micro_batches():
                noise = normal_at(config.seed, Purpose.POSTERIOR, positions, latent_shape)
                with accelerator.autocast():
                    target = taught(batch, teacher, noise, accelerator.device)
                with accelerator.accumulate(student):
                    guess = student(target.latents, target.pictures)
                    terms = distillation_terms(guess, target, feature)
                    loss = sum(getattr(config, f"{name}_weight") * term for name, term in terms.items())
                    losses = run.backward(loss, loss, **target._asdict())
                    grad_norm = run.clip_gradient(vae.parameters(), **target._asdict())
                    optimizer.step()
                    optimizer.zero_grad()
                terms["psnr"] = 10 * torch.log10(4 / (guess.pictures - target.pictures).square().mean().clamp(1e-12))
                means = gather_terms(accelerator, terms)
                run.log.add(len(noise) * accelerator.num_processes, loss=losses.tolist(), **means)
            run.finish_step(grad_norm)
            if run.is_due(config.demo_every) and accelerator.is_main_process:
                show(run, pipe, vae, target)
        accelerator.wait_for_everyone()
        if run.is_complete and accelerator.is_main_process:
            save(run, vae, data)
    return run.exit_status


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: distill_decoder(parse_config(DistillDecoderConfig, __doc__))))
