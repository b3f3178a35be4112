#!/usr/bin/env python3
"""Trains or fine-tunes the autoencoder of a latent diffusion model on images.

    python training/train_autoencoder.py --vae-config JSON --dataset FOLDER --output-dir DIR
    python training/train_autoencoder.py --model DIR --dataset FOLDER --output-dir DIR

An interrupted run saves a checkpoint, and --resume latest continues it. The result is OUTPUT_DIR/vae, an AutoencoderKL
for pipelines. It has averaged weights and a scaling factor measured on the images.
"""

import dataclasses
import pickle
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn
from torch.nn import functional as F

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.images import as_pictures
from diffusers_ccld.data.randomness import Purpose, generator_at, normal_at
from diffusers_ccld.evaluation.metrics import frechet_distance
from diffusers_ccld.sharing.base_models import model_name
from diffusers_ccld.sharing.model_cards import AUTOENCODER, PLOT_NAME
from diffusers_ccld.training.accelerator import clip_gradient, make_accelerator
from diffusers_ccld.training.batches import TrainingData, load_training_images, make_batches
from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.components import (
    load_autoencoder,
    load_components,
    make_from_json,
    network_settings,
)
from diffusers_ccld.training.config import ValidationConfig, setting
from diffusers_ccld.training.discriminators import (
    DiscriminatorKind,
    adversarial_weight,
    discriminator_identity,
    discriminator_loss,
    make_discriminator,
)
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.inputs import training_resolution
from diffusers_ccld.training.latent_scale import measure_scale
from diffusers_ccld.training.log import VALIDATION_PREFIX
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.reconstruction import Reconstructing, kl_divergence, peak_signal_to_noise
from diffusers_ccld.training.reconstruction_losses import (
    CLOOBFeatureLoss,
    PerceptualLoss,
    StyleLoss,
    chroma_loss,
    pooled_loss,
    texture_loss,
)
from diffusers_ccld.training.result import plot_log, save_training_card, training_facts
from diffusers_ccld.training.run import TrainingRun, start_run
from diffusers_ccld.training.state import RunState, make_state
from diffusers_ccld.training.validation import load_held_out_images
from diffusers_ccld.utils.errors import first_line
from diffusers_ccld.utils.files import folder_moved_into_place
from diffusers_ccld.utils.pictures import image_grid
from diffusers_ccld.utils.suggestions import path_suggestion

NUM_SHOWN = 8
IMAGES_MEASURED = 512
VALIDATION_PANELS = {
    "validation_psnr": "PSNR of held-out images, dB",
    "validation_frechet": "Fréchet distance, held out",
}
PLOTTED_TERMS = ("pixel", "pooled", "chroma", "texture", "perceptual", "feature", "style", "kl", "discriminator")


@dataclasses.dataclass(kw_only=True)
class AutoencoderConfig(ValidationConfig):
    """Settings of this script."""

    model: str | None = setting(None, "folder or Hub name of the pipeline whose autoencoder is trained further")
    vae_config: str | None = setting(None, "train a new AutoencoderKL of this configuration (JSON)")
    streaming: bool = setting(False, "read the dataset as a stream, without downloading it first")

    pixel_weight: float = setting(1.0, "weight of the absolute error of pixels")
    pooled_weight: float = setting(1.0, "weight of the absolute error of smaller versions of the picture")
    chroma_weight: float = setting(1.0, "weight of the absolute error of colour differences")
    texture_weight: float = setting(1.0, "weight of the difference in local contrast")
    perceptual_weight: float = setting(1.0, "weight of the perceptual distance, if there is a perceptual_network")
    perceptual_network: str | None = setting(
        None, "file of torchvision's vgg16 weights for the perceptual distance (default: none; texture instead)"
    )
    feature_weight: float = setting(1.0, "weight of the distance in CLOOB's features, if there is a feature_network")
    feature_network: str | None = setting(
        None,
        "folder or Hub name of a pipeline whose CLOOB image encoder compares pictures: by the maps of its "
        "convolutional stem, or by its layers if it has none",
    )
    style_weight: float = setting(
        0.0, "weight of the difference between the statistics of these features, in each sixteenth of the picture"
    )
    kl_weight: float = setting(1e-6, "weight of the latents' divergence from a normal distribution, per number")
    trained_part: Literal["both", "decoder"] = setting(
        "both", "decoder: keep encoder and scaling factor, so that diffusion models of the latents remain valid"
    )
    latent_noise: float = setting(
        0.0,
        "decode latents with noise of up to this share of their deviation, so that small errors do not become blur",
    )
    scale_equivariance: float = setting(
        0.0,
        "share of the steps that decode the means of 2 × 2 latents to the picture of half the size, so that latents "
        "keep coarse forms in their low frequencies",
    )
    discriminator_start: int | None = setting(None, "first step that also trains a discriminator")
    discriminator_weight: float = setting(0.5, "strength of its gradient, relative to the other losses")
    discriminator_channels: int = setting(32, "width of its first layer")
    discriminator_kind: DiscriminatorKind = setting(
        "patch",
        "detail: sees amplified details beside blurred colours, and learns much sooner; projected: sees the features "
        "of the feature_network, and pixels",
    )
    discriminator_learning_rate: float | None = setting(
        None, "its largest learning rate (default: learning_rate); both follow the same schedule"
    )
    discriminator_warmup_steps: int = setting(
        0, "steps over which its weight rises from zero, so that it does not pull before it has learnt"
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.model is None) == (self.vae_config is None):
            raise ValueError("Give either model, to train its autoencoder further, or vae_config, to train a new one.")
        weights = [getattr(self, f.name) for f in dataclasses.fields(self) if f.name.endswith("_weight")]
        if min(weights) < 0 or self.latent_noise < 0:
            raise ValueError("Weights and latent_noise must not be negative.")
        if not 0 <= self.scale_equivariance <= 1:
            raise ValueError("scale_equivariance must be a share, from 0 to 1.")
        if self.trained_part == "decoder" and self.model is None:
            raise ValueError("trained_part=decoder needs a model, whose encoder has been trained.")
        if self.perceptual_network is not None and not Path(self.perceptual_network).is_file():
            advice = path_suggestion(self.perceptual_network)
            raise ValueError(f"perceptual_network: {self.perceptual_network} is not a file.{advice}")
        if self.style_weight and self.feature_network is None:
            raise ValueError("style_weight needs a feature_network, whose features it compares.")
        if self.discriminator_kind == "projected" and self.feature_network is None:
            raise ValueError("discriminator_kind=projected needs a feature_network, whose features it sees.")
        if self.discriminator_channels < 8 or self.discriminator_channels % 8:
            raise ValueError("discriminator_channels must be a multiple of 8.")
        if self.discriminator_start is not None and self.discriminator_start < 0:
            raise ValueError("discriminator_start must not be negative.")
        if self.discriminator_warmup_steps < 0:
            raise ValueError("discriminator_warmup_steps must not be negative.")
        if self.discriminator_learning_rate is not None and not self.discriminator_learning_rate > 0:
            raise ValueError("discriminator_learning_rate must be positive.")
        if self.discriminator_start is not None and self.mixed_precision == "fp16":
            # accelerate's loss scaling supports one optimiser a step.
            raise ValueError("A discriminator is trained in bf16 or float32, not in fp16.")

    def scale_at(self, step: int) -> int:
        """Factor by which latents and pictures are reduced in the step after `step` others: 1 or 2.

        After Kouzelis et al. 2025 (arXiv 2502.09509) and Skorokhodov et al. 2025 (arXiv 2502.14831).
        """
        return 1 + int(generator_at(self.seed, Purpose.SCALE, step).random() < self.scale_equivariance)

    def discriminates_at(self, step: int) -> bool:
        """True if the discriminator trains in the step after `step` others. It sees only pictures of the full size."""
        started = self.discriminator_start is not None and step >= self.discriminator_start
        return started and self.scale_at(step) == 1

    def discriminator_weight_at(self, step: int) -> float:
        """The discriminator's weight in the step after `step` others, of those that it trains in."""
        return self.discriminator_weight * min(
            1.0, (step - self.discriminator_start + 1) / (self.discriminator_warmup_steps + 1)
        )


def draw_latent_noise(
    config: AutoencoderConfig, positions: range, latent_shape: tuple[int, int, int], device: torch.device
) -> torch.Tensor | None:
    """Normal noise (N, C, h, w), each image's with a deviation between 0 and `latent_noise`; `None` if that is 0."""
    if not config.latent_noise:
        return None
    deviations = [
        generator_at(config.seed, Purpose.LATENT_NOISE, position).uniform(0, config.latent_noise)
        for position in positions
    ]
    noise = normal_at(config.seed, Purpose.NOISE, positions, latent_shape)
    return (noise * torch.tensor(deviations).float()[:, None, None, None]).to(device)


@torch.no_grad()
def validate(
    vae: AutoencoderKL, batches: list[torch.Tensor], feature: CLOOBFeatureLoss | None, accelerator: Accelerator
) -> dict[str, float]:
    """Figures of held-out pictures that are decoded from the mean of their latents, by name.

    Args:
        vae: The autoencoder.
        batches: Pictures, (N, 3, H, W), uint8.
        feature: The network in whose embeddings the Fréchet distance to the pictures is measured, if there is one.
        accelerator: The run's accelerator.
    """
    decibels, embeds = [], []
    vae.eval()
    with accelerator.autocast():
        for pixel_values in batches:
            pictures = as_pictures({"pixel_values": pixel_values}, accelerator.device)
            made = vae.decode(vae.encode(pictures).latent_dist.mean).sample.float().clamp(-1, 1)
            decibels.append(peak_signal_to_noise(made, pictures))
            if feature is not None:
                embeds.append(torch.stack([feature.embed(made), feature.embed(pictures)]))
    vae.train()
    figures = {"psnr": torch.cat(decibels).mean().item()}
    if feature is not None:
        figures["frechet"] = frechet_distance(*torch.cat(embeds, dim=1))
    return {VALIDATION_PREFIX + name: value for name, value in figures.items()}


@torch.no_grad()
def reconstruction_grid(vae: AutoencoderKL, pictures: torch.Tensor) -> Image.Image:
    """A grid of pictures (N, 3, H, W) in one row, each above its reconstruction."""
    reconstructed = vae.decode(vae.encode(pictures).latent_dist.mean).sample
    rows = torch.cat([pictures, reconstructed]).add(1).mul(127.5).round().clamp(0, 255).byte()
    images = [Image.fromarray(np.ascontiguousarray(row)) for row in rows.permute(0, 2, 3, 1).cpu().numpy()]
    return image_grid(images, columns=len(pictures))


def load_vae(config: AutoencoderConfig) -> tuple[AutoencoderKL, int, tuple[int, int, int]]:
    """Loads or makes the autoencoder.

    Returns:
        The autoencoder, the size of the training images in pixels, and (C, H, W) of their latents.

    Raises:
        ValueError: If it is missing, or the size does not fit.
    """
    vae = load_autoencoder(config.model) if config.model else make_from_json(AutoencoderKL, config.vae_config)
    vae.requires_grad_(True).train()
    if config.trained_part == "decoder":
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size, latent_shape = training_resolution(config.resolution, vae.config.sample_size // factor, vae)
    smallest = 64 if config.scale_equivariance else 32
    if size < smallest:
        raise ValueError(
            f"--resolution must be at least {smallest}: the losses compare smaller versions of the picture."
        )
    return vae, size, latent_shape


def make_optimizers(
    config: AutoencoderConfig, vae: AutoencoderKL, discriminator: nn.Module
) -> list[torch.optim.Optimizer]:
    """The optimisers of autoencoder and discriminator."""
    factor = (config.discriminator_learning_rate or config.learning_rate) / config.learning_rate
    critics = [{"params": list(discriminator.parameters()), "lr_factor": factor}]
    return [
        make_optimizer(config, [p for p in vae.parameters() if p.requires_grad], betas=(0.9, 0.99)),
        make_optimizer(config, critics, betas=(0.5, 0.9)),
    ]


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """The weights in a file of torch. Raises `ValueError` if it cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from error


def load_loss_networks(config: AutoencoderConfig, device: torch.device) -> dict[str, nn.Module | None]:
    """The losses with frozen networks, by the name of their weight; `None` for those not given.

    Raises:
        ValueError: If a network is missing, or cannot be read.
    """
    perceptual = feature = None
    if config.perceptual_network is not None:
        perceptual = PerceptualLoss(read_weights(config.perceptual_network)).to(device)
    if config.feature_network is not None:
        parts = load_components(config.feature_network, ["image_encoder", "feature_extractor"])
        feature = CLOOBFeatureLoss(**parts).to(device)
    style = StyleLoss(feature) if config.style_weight else None
    return {"perceptual": perceptual, "feature": feature, "style": style}


def reconstruction_terms(
    made: torch.Tensor,
    pictures: torch.Tensor,
    **networks: nn.Module | None,
) -> dict[str, torch.Tensor]:
    """The terms of the reconstruction loss of pictures (N, 3, H, W), scalars by the name of their weight.

    Args:
        made: The reconstructions.
        pictures: The pictures.
        networks: Losses with a network, by the name of their weight, or `None`.
    """
    terms = {
        "pixel": (made - pictures).abs().mean(),
        "pooled": pooled_loss(made, pictures),
        "chroma": chroma_loss(made, pictures),
        "texture": texture_loss(made, pictures),
    }
    return terms | {name: loss(made, pictures) for name, loss in networks.items() if loss is not None}


def gather_terms(accelerator: Accelerator, terms: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Scalar terms of all processes for the log."""
    gathered = accelerator.gather({name: term.detach()[None] for name, term in terms.items()})
    return {name: values.tolist() for name, values in gathered.items()}


def first_pictures(
    config: AutoencoderConfig, accelerator: Accelerator, data: TrainingData, size: int, count: int
) -> list[torch.Tensor]:
    """The run's first pictures, at least `count`, in batches (N, 3, size, size) on the device."""
    with closing(make_batches(config, accelerator, data, size, RunState())) as batches:
        num_batches = -(-count // config.train_batch_size)
        return [as_pictures(next(batches), accelerator.device) for _ in range(num_batches)]


def show_progress(
    run: TrainingRun,
    vae: AutoencoderKL,
    held_out: list[torch.Tensor],
    data: TrainingData,
    size: int,
    feature: CLOOBFeatureLoss | None,
) -> None:
    """Logs figures of held-out pictures and a grid of training pictures after the steps for which they are due."""
    config, accelerator = run.config, run.accelerator
    if run.is_due(config.validation_every):
        with run.ema.applied():
            run.log.note(validate(vae, held_out, feature, accelerator))
    if run.is_due(config.demo_every):
        shown = torch.cat(first_pictures(config, accelerator, data, size, NUM_SHOWN))[:NUM_SHOWN]
        with run.ema.applied():
            run.log.show("reconstructions", reconstruction_grid(vae, shown))


def save_autoencoder(
    run: TrainingRun, vae: AutoencoderKL, data: TrainingData, size: int, latent_shape: tuple[int, int, int]
) -> None:
    """Saves the averaged autoencoder as the folder `vae` with its card, and uploads it if the settings ask for it."""
    config, folder = run.config, run.output_dir / "vae"
    count = min(IMAGES_MEASURED, data.num_images or IMAGES_MEASURED)
    with run.ema.applied(), folder_moved_into_place(folder) as temporary:
        if config.trained_part == "decoder":
            scaling_factor, origin = vae.config.scaling_factor, "that of the model it began from"
        else:
            pictures = first_pictures(config, run.accelerator, data, size, count)
            scaling_factor, origin = 1 / measure_scale(vae, pictures).value, f"measured on {count:,} of the images"
        vae.register_to_config(scaling_factor=scaling_factor, sample_size=size)
        vae.save_pretrained(temporary)
        plot_log(run.log.path, temporary / PLOT_NAME, PLOTTED_TERMS, "loss", panels=VALIDATION_PANELS)
        facts = {
            "began from": model_name(config.model or config.vae_config),
            **training_facts(run, data.source, data.num_images),
            "latents": " × ".join(map(str, latent_shape)),
            "scaling factor": f"{scaling_factor:.6g}, {origin}",
        }
        save_training_card(temporary, AUTOENCODER, run, run.public_name, facts, data.source)
    run.publish(folder)


def train_autoencoder(config: AutoencoderConfig) -> int:
    accelerator = make_accelerator(config)
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)

    # The autoencoder, its images and its discriminator
    vae, size, latent_shape = load_vae(config)
    data = load_training_images(config, accelerator, size, config.streaming)
    networks = load_loss_networks(config, accelerator.device)
    critic_settings = config.discriminator_kind, config.discriminator_channels, networks["feature"]
    discriminator = make_discriminator(*critic_settings)

    # The state to start from, the optimisers and the EMA
    identity = {"network": network_settings(vae), "critic": discriminator_identity(*critic_settings)}
    state = make_state(checkpoint, {**data.identity, **identity}, accelerator.is_main_process)
    batches = make_batches(config, accelerator, data, size, state)
    optimizers = make_optimizers(config, vae, discriminator)
    trained, critic, *optimizers = accelerator.prepare(Reconstructing(vae), discriminator, *optimizers)
    ema = EMA(vae)
    accelerator.print(f"parameters: {vae.num_parameters():,}, images: {data.num_images or 'a stream'}")
    held_out = load_held_out_images(config, data.source, size)
    with start_run(config, accelerator, state, ema, optimizers, batches, data.num_images, data.bad) as run:
        for step in run.steps():
            discriminates, scale = config.discriminates_at(step), config.scale_at(step)
            for batch, positions in run.micro_batches():
                pictures = as_pictures(batch, accelerator.device)
                noise = normal_at(config.seed, Purpose.POSTERIOR, positions, latent_shape).to(accelerator.device)
                latent_noise = draw_latent_noise(config, positions, latent_shape, accelerator.device)
                with accelerator.accumulate(trained, critic):
                    made, mean, logvar = trained(pictures, noise, latent_noise, scale)
                    pictures = F.avg_pool2d(pictures, scale) if scale > 1 else pictures
                    terms = reconstruction_terms(made, pictures, **networks)
                    loss = sum(getattr(config, f"{name}_weight") * term for name, term in terms.items())
                    terms["kl"] = kl_divergence(mean, logvar)
                    total = loss + config.kl_weight * terms["kl"]
                    if discriminates:
                        discriminator.requires_grad_(False)
                        terms["deception"] = -discriminator(made).mean()
                        pull = adversarial_weight(loss, terms["deception"], vae.decoder.conv_out.weight)
                        total = total + config.discriminator_weight_at(step) * pull * terms["deception"]
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
                means = gather_terms(accelerator, terms)
                run.log.add(len(pictures) * accelerator.num_processes, loss=losses.tolist(), **means)
            run.finish_step(grad_norm)
            if accelerator.is_main_process:
                show_progress(run, vae, held_out, data, size, networks["feature"])
        accelerator.wait_for_everyone()
        if run.is_complete and accelerator.is_main_process:
            save_autoencoder(run, vae, data, size, latent_shape)
    return run.exit_status


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: train_autoencoder(parse_config(AutoencoderConfig, __doc__))))
