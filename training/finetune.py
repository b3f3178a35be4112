#!/usr/bin/env python3
"""Trains or fine-tunes a CCLD U-Net on images without captions.

    python training/finetune.py --config training/configs/finetune_wikiart.yaml
    python training/finetune.py --model DIR --dataset FOLDER --output-dir DIR

On several GPUs, `accelerate launch` takes the place of `python`. An interrupted run saves a checkpoint, and --resume
latest continues it to the bit. The result is a pipeline folder with the averaged weights, or with --lora-rank a LoRA.
"""

import dataclasses
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from diffusers_ccld import CCLDPipeline, CCLDScheduler, CCLDUNet2DConditionModel
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.models.inference_autoencoder import use_inference_autoencoder
from diffusers_ccld.models.prediction import is_guidance_distilled
from diffusers_ccld.original.training_state import read_training_state
from diffusers_ccld.schedulers.scheduling_ccld import RECOMMENDED_ALGORITHM
from diffusers_ccld.sharing.base_models import model_name
from diffusers_ccld.training.accelerator import attention_for_training, make_accelerator
from diffusers_ccld.training.batches import load_training_data, make_batches
from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.components import (
    IMAGE_COMPONENTS,
    TEXT_COMPONENTS,
    UNET_COMPONENTS,
    load_components,
    load_defaults,
    make_from_json,
    make_lora_config,
    network_identity,
)
from diffusers_ccld.training.config import TrainingConfig, setting
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.inputs import InputMaker, make_draw, training_resolution
from diffusers_ccld.training.log import describe_run
from diffusers_ccld.training.losses import loss_by_quartile, loss_weights, v_prediction_losses
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.pipeline import PipelineInTraining
from diffusers_ccld.training.run import start_run
from diffusers_ccld.training.state import make_state
from diffusers_ccld.training.validation import VALIDATION_SEED, DiffusionValidation


@dataclasses.dataclass(kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Settings of this script."""

    unet_config: str | None = setting(None, "train a new network of this configuration (a JSON file)")
    original_checkpoint: str | None = setting(
        None, "resume from a training checkpoint of the original code; `model` is the pipeline converted from it"
    )
    lora_rank: int = setting(0, "train a LoRA of this rank; 0 trains the network itself")
    lora_alpha: float | None = setting(None, "scale of the LoRA (default: its rank)")

    def __post_init__(self):
        super().__post_init__()
        if self.lora_rank < 0 or (self.lora_alpha is not None and not self.lora_rank):
            raise ValueError("lora_rank must not be negative, and lora_alpha needs one.")
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise ValueError("lora_alpha must be positive.")
        if self.original_checkpoint and (self.unet_config or self.lora_rank):
            raise ValueError("original_checkpoint has a whole network: leave out unet_config and lora_rank.")


def load_pipeline(config: FinetuneConfig) -> tuple[CCLDPipeline, int, tuple[int, int, int]]:
    """Loads the pipeline and makes its U-Net ready for training.

    Returns:
        The pipeline, the size of the training images in pixels, and (C, H, W) of their latents.

    Raises:
        ValueError: If a part is missing or cannot be trained.
    """
    components = load_components(config.model, (*IMAGE_COMPONENTS, *TEXT_COMPONENTS))
    if config.unet_config is None:
        components |= load_components(config.model, UNET_COMPONENTS)
    else:
        unet = make_from_json(CCLDUNet2DConditionModel, config.unet_config)
        components |= {"unet": unet, "scheduler": CCLDScheduler(algorithm_type=RECOMMENDED_ALGORITHM)}
    unet = components["unet"]
    size, latent_shape = training_resolution(config.resolution, unet.config.sample_size, components["vae"])
    unet.register_to_config(sample_size=latent_shape[-1])
    if is_guidance_distilled(unet):
        raise ValueError("The U-Net is guidance-distilled, so only a teacher can train it: use distill.py.")
    return CCLDPipeline(**components, **load_defaults(config.model)), size, latent_shape


def losses_at(
    maker: InputMaker, unet: torch.nn.Module, batch: dict[str, Any], positions: range
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of a network on N images, and their times, (N,) each."""
    inputs, t = maker.make(batch, positions)
    prediction = unet(inputs.noisy_latents, inputs.timesteps, inputs.condition).sample
    return v_prediction_losses(prediction, inputs.target), t


def make_validation(
    config: FinetuneConfig,
    accelerator: Accelerator,
    pipe: CCLDPipeline,
    trained_on: str,
    size: int,
    latent_shape: tuple[int, int, int],
) -> DiffusionValidation:
    """The run's validation: the loss of training on images that are not those of the source `trained_on`."""
    fixed = dataclasses.replace(config, seed=VALIDATION_SEED, condition_noise=0.0)
    maker = InputMaker(make_draw(fixed, pipe.unet, latent_shape), accelerator, pipe)
    return DiffusionValidation(config, accelerator, pipe, trained_on, size, partial(losses_at, maker))


def finetune(config: FinetuneConfig) -> int:
    accelerator = make_accelerator(config, may_shard=True)
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)

    # The pipeline and the images
    pipe, size, latent_shape = load_pipeline(config)
    unet = pipe.to(accelerator.device).unet
    use_inference_autoencoder(pipe.vae)
    pipeline = PipelineInTraining(config, pipe)
    if config.lora_rank:
        unet.requires_grad_(False)
        unet.add_adapter(make_lora_config(config))
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    data = load_training_data(config, accelerator, pipe, size)

    # The state to start from, the optimiser and the EMA
    identity = {**data.identity, "network": network_identity(unet), "lora": [config.lora_rank, config.lora_alpha]}
    state = make_state(checkpoint, identity, accelerator.is_main_process)
    batches = make_batches(config, accelerator, data, size, state)
    optimizer = make_optimizer(config, [p for p in unet.parameters() if p.requires_grad])
    original = None
    if config.original_checkpoint is not None and checkpoint is None:
        original = read_training_state(config.original_checkpoint, unet)
        original.load_into(unet, optimizer)
        state.step = original.step
    if config.compile:
        unet.compile()
    network, optimizer = accelerator.prepare(unet, optimizer)
    ema = EMA(unet)
    if original is not None:
        ema.assign(original.average)
    accelerator.print(describe_run(config, accelerator, unet, data.num_images, latent_shape))

    maker = InputMaker(make_draw(config, unet, latent_shape), accelerator, pipe)
    validation = make_validation(config, accelerator, pipe, data.source, size, latent_shape)
    with start_run(config, accelerator, state, ema, [optimizer], batches, data.num_images, data.bad) as run:
        for _ in run.steps():
            for batch, positions in run.micro_batches():
                inputs, t = maker.make(batch, positions)
                with accelerator.accumulate(network), attention_for_training(accelerator):
                    prediction = network(inputs.noisy_latents, inputs.timesteps, inputs.condition).sample
                    losses = v_prediction_losses(prediction, inputs.target)
                    weights = loss_weights(t, config.snr_gamma)
                    all_losses = run.backward((weights * losses).mean(), losses, **inputs._asdict())
                    grad_norm = run.clip_gradient(ema.weights.values(), losses=losses, **inputs._asdict())
                    optimizer.step()
                    optimizer.zero_grad()
                by_quartile = loss_by_quartile(all_losses, accelerator.gather(t))
                run.log.add(len(all_losses), loss=all_losses.tolist(), **by_quartile)
            run.finish_step(grad_norm)
            if run.is_due(config.validation_every):
                pipeline.validate(run, validation.measure)
            if run.is_due(config.demo_every):
                pipeline.show(run)

        if run.is_complete:
            began = config.original_checkpoint or config.unet_config or config.model
            pipeline.save(run, data, {"began from": model_name(began)}, "lora" if config.lora_rank else "pipeline")
    return run.exit_status


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: finetune(parse_config(FinetuneConfig, __doc__))))
