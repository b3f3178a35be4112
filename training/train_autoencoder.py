#!/usr/bin/env python3
"""Trains or fine-tunes the autoencoder of a latent diffusion model on images.

    accelerate launch training/train_autoencoder.py --vae_config JSON --dataset FOLDER --output_dir DIR
    accelerate launch training/train_autoencoder.py --model DIR --dataset FOLDER --output_dir DIR

Interrupted, it saves a checkpoint and goes on from there with --resume latest. The result is OUTPUT_DIR/vae, with
averaged weights and a scaling factor measured on the images: an AutoencoderKL that a pipeline can have as its part.
"""

import dataclasses
import functools
import pickle
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.images import as_pictures
from diffusers_ccld.data.randomness import Purpose, normal_at
from diffusers_ccld.sharing.model_cards import AUTOENCODER, PLOT_NAME, shareable
from diffusers_ccld.training.accelerator import clip_gradient, make_accelerator
from diffusers_ccld.training.batches import load_training_images, make_batches
from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.components import load_autoencoder, make_from_json
from diffusers_ccld.training.config import DemoConfig, setting
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.inputs import training_resolution
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.reconstruction_losses import (
    PatchDiscriminator,
    PerceptualLoss,
    adversarial_weight,
    chroma_loss,
    discriminator_loss,
    pooled_loss,
    texture_loss,
)
from diffusers_ccld.training.result import plot_log, save_training_card, training_facts
from diffusers_ccld.training.run import start_run
from diffusers_ccld.training.state import RunState, make_state
from diffusers_ccld.utils.errors import first_line
from diffusers_ccld.utils.files import folder_moved_into_place
from diffusers_ccld.utils.pictures import image_grid

NUM_SHOWN = 8
IMAGES_MEASURED = 512


@dataclasses.dataclass(kw_only=True)
class AutoencoderConfig(DemoConfig):
    """Settings of this script."""

    model: str | None = setting(None, "folder or Hub name of the pipeline whose autoencoder is trained further")
    vae_config: str | None = setting(None, "begin from scratch, with an AutoencoderKL of this configuration (JSON)")
    streaming: bool = setting(False, "read the dataset as a stream, in place of downloading it")

    pixel_weight: float = setting(1.0, "weight of the absolute error of pixels")
    pooled_weight: float = setting(1.0, "weight of the absolute error of smaller versions of the picture")
    chroma_weight: float = setting(1.0, "weight of the absolute error of colour differences")
    texture_weight: float = setting(1.0, "weight of the difference in local contrast")
    perceptual_weight: float = setting(1.0, "weight of the perceptual distance, if there is a perceptual_network")
    perceptual_network: str | None = setting(
        None, "file of torchvision's vgg16 weights for the perceptual distance (default: none; texture instead)"
    )
    kl_weight: float = setting(1e-6, "weight of the latents' divergence from a normal distribution, per number")
    discriminator_start: int | None = setting(None, "step from which a patch discriminator trains along")
    discriminator_weight: float = setting(0.5, "how hard it pulls, compared with the reconstruction losses")
    discriminator_channels: int = setting(32, "width of its first layer")

    def __post_init__(self):
        super().__post_init__()
        if (self.model is None) == (self.vae_config is None):
            raise ValueError("Give either model, to go on with its autoencoder, or vae_config, to begin from scratch.")
        weights = [getattr(self, f.name) for f in dataclasses.fields(self) if f.name.endswith("_weight")]
        if min(weights) < 0:
            raise ValueError("Weights must not be negative.")
        if self.perceptual_network is not None and not Path(self.perceptual_network).is_file():
            raise ValueError(f"perceptual_network: there is no file {self.perceptual_network}.")
        if self.discriminator_channels < 8 or self.discriminator_channels % 8:
            raise ValueError("discriminator_channels must be a multiple of 8.")
        if self.discriminator_start is not None and self.discriminator_start < 0:
            raise ValueError("discriminator_start must not be negative.")
        if self.discriminator_start is not None and self.mixed_precision == "fp16":
            # accelerate's loss scaling knows one optimiser a step.
            raise ValueError("A discriminator is trained in bf16 or float32, not in fp16.")

    def discriminates_at(self, step: int) -> bool:
        """Whether the discriminator trains in the step after `step` others."""
        return self.discriminator_start is not None and step >= self.discriminator_start


class Reconstruction(NamedTuple):
    """Pictures (N, 3, H, W) and the latents (N, C, h, w), as mean and logarithm of the variance, they come from."""

    pictures: torch.Tensor
    mean: torch.Tensor
    logvar: torch.Tensor


class Reconstructing(nn.Module):
    """The autoencoder as one call: pictures, and the noise that chooses their latents, to a `Reconstruction`."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, pictures: torch.Tensor, noise: torch.Tensor) -> Reconstruction:
        posterior = self.vae.encode(pictures).latent_dist
        return Reconstruction(
            self.vae.decode(posterior.mean + posterior.std * noise).sample, posterior.mean, posterior.logvar
        )


def kl_divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Divergence of the latents from a standard normal distribution, in nats, mean of all numbers."""
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()


@torch.no_grad()
def measure_scaling_factor(vae: AutoencoderKL, batches: list[torch.Tensor]) -> float:
    """One over the deviation of the latents of pictures, in batches of (N, 3, H, W)."""
    posteriors = [vae.encode(pictures.to(vae.device)).latent_dist for pictures in batches]
    variance = torch.cat([p.mean for p in posteriors]).var() + torch.cat([p.var for p in posteriors]).mean()
    return 1 / variance.sqrt().item()


@torch.no_grad()
def reconstruction_grid(vae: AutoencoderKL, pictures: torch.Tensor) -> Image.Image:
    """Each picture of (N, 3, H, W) above its reconstruction, N in a row."""
    reconstructed = vae.decode(vae.encode(pictures).latent_dist.mean).sample
    rows = torch.cat([pictures, reconstructed]).add(1).mul(127.5).round().clamp(0, 255).byte()
    images = [Image.fromarray(np.ascontiguousarray(row)) for row in rows.permute(0, 2, 3, 1).cpu().numpy()]
    return image_grid(images, columns=len(pictures))


def train_autoencoder(config: AutoencoderConfig) -> int:
    accelerator = make_accelerator(config)
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)

    # The autoencoder, its images, its critics
    vae = load_autoencoder(config.model) if config.model else make_from_json(AutoencoderKL, config.vae_config)
    vae.requires_grad_(True).train()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size, latent_shape = training_resolution(config.resolution, vae.config.sample_size // factor, vae)
    if size < 32:
        raise ValueError("--resolution must be at least 32: the losses compare smaller versions of the picture.")
    data = load_training_images(config, accelerator, size, config.streaming)
    perceptual = None
    if config.perceptual_network is not None:
        try:
            weights = torch.load(config.perceptual_network, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{config.perceptual_network} cannot be read: {first_line(error)}") from error
        perceptual = PerceptualLoss(weights).to(accelerator.device)
    discriminator = PatchDiscriminator(config.discriminator_channels)
    network = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    identity = {**data.identity, "network": network, "critic": config.discriminator_channels}
    state = make_state(checkpoint, identity, accelerator.is_main_process)
    batches = make_batches(config, accelerator, data, size, state)
    optimizers = [
        make_optimizer(config, part.parameters(), betas=betas)
        for part, betas in ((vae, (0.9, 0.99)), (discriminator, (0.5, 0.9)))
    ]
    trained, critic, *optimizers = accelerator.prepare(Reconstructing(vae), discriminator, *optimizers)
    last_weight = vae.decoder.conv_out.weight
    ema = EMA(vae)
    accelerator.print(f"parameters: {vae.num_parameters():,}, images: {data.num_images or 'a stream'}")

    def first_pictures(count: int) -> list[torch.Tensor]:
        """The run's first pictures, in batches of (N, 3, H, W)."""
        batches = make_batches(config, accelerator, data, size, RunState())
        with closing(batches):
            return [as_pictures(next(batches), "cpu") for _ in range(-(-count // config.train_batch_size))]

    @functools.cache
    def shown() -> torch.Tensor:
        return torch.cat(first_pictures(NUM_SHOWN))[:NUM_SHOWN].to(accelerator.device)

    images = {"num_images": data.num_images, "bad": data.bad}
    with start_run(config, accelerator, state, ema, optimizers, batches, **images) as run:
        for step in run.steps():
            discriminates = config.discriminates_at(step)
            for batch, positions in run.micro_batches():
                pictures = as_pictures(batch, accelerator.device)
                noise = normal_at(config.seed, Purpose.POSTERIOR, positions, latent_shape).to(accelerator.device)
                with accelerator.accumulate(trained, critic):
                    reconstruction = trained(pictures, noise)
                    made = reconstruction.pictures
                    terms = {
                        "pixel": (made - pictures).abs().mean(),
                        "pooled": pooled_loss(made, pictures),
                        "chroma": chroma_loss(made, pictures),
                        "texture": texture_loss(made, pictures),
                    }
                    if perceptual is not None:
                        terms["perceptual"] = perceptual(made, pictures)
                    loss = sum(getattr(config, f"{name}_weight") * term for name, term in terms.items())
                    terms["kl"] = kl_divergence(reconstruction.mean, reconstruction.logvar)
                    total = loss + config.kl_weight * terms["kl"]
                    if discriminates:
                        discriminator.requires_grad_(False)
                        terms["deception"] = -discriminator(made).mean()
                        pull = adversarial_weight(loss, terms["deception"], last_weight)
                        total = total + config.discriminator_weight * pull * terms["deception"]
                        discriminator.requires_grad_(True)
                    losses = run.backward(total, total, pictures=pictures, made=made)
                    if discriminates:
                        logits = critic(torch.cat([pictures, made.detach()]))
                        terms["discriminator"] = discriminator_loss(*logits.chunk(2))
                        run.backward(terms["discriminator"], terms["discriminator"], pictures=pictures, made=made)
                        if accelerator.sync_gradients:
                            clip_gradient(accelerator, discriminator.parameters(), config.max_grad_norm)
                    grad_norm = run.clip_gradient(vae.parameters(), pictures=pictures, made=made)
                    for optimizer in optimizers[: 1 + discriminates]:
                        optimizer.step()
                        optimizer.zero_grad()
                terms["psnr"] = 10 * torch.log10(4 / (made - pictures).square().mean().clamp(min=1e-12))
                means = accelerator.gather({name: term.detach()[None] for name, term in terms.items()})
                run.log.add(
                    len(pictures) * accelerator.num_processes,
                    loss=losses.tolist(),
                    **{name: values.tolist() for name, values in means.items()},
                )
            run.finish_step(grad_norm)
            if run.is_due(config.demo_every) and accelerator.is_main_process:
                with ema.applied():
                    run.log.show("reconstructions", reconstruction_grid(vae, shown()))

        accelerator.wait_for_everyone()
        if run.is_complete and accelerator.is_main_process:
            folder = run.output_dir / "vae"
            count = min(IMAGES_MEASURED, data.num_images or IMAGES_MEASURED)
            with ema.applied(), folder_moved_into_place(folder) as temporary:
                scaling_factor = measure_scaling_factor(vae, first_pictures(count))
                vae.register_to_config(scaling_factor=scaling_factor, sample_size=size)
                vae.save_pretrained(temporary)
                terms = ("pixel", "pooled", "chroma", "texture", "perceptual", "kl", "discriminator")
                plot_log(run.log.path, temporary / PLOT_NAME, terms, "loss")
                facts = {
                    "began from": shareable(config.model or config.vae_config),
                    **training_facts(run, data.source, data.num_images),
                    "latents": " × ".join(map(str, latent_shape)),
                    "scaling factor": f"{scaling_factor:.6g}, measured on {count:,} of the images",
                }
                save_training_card(temporary, AUTOENCODER, run, run.public_name(folder), facts, data.source)
            run.publish(folder)
    return run.exit_status


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: train_autoencoder(parse_config(AutoencoderConfig, __doc__))))
