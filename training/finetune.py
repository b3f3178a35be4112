#!/usr/bin/env python3
"""Trains or fine-tunes a CCLD U-Net on images without captions.

    accelerate launch training/finetune.py --config training/configs/finetune_wikiart.yaml
    accelerate launch training/finetune.py --model DIR --dataset FOLDER --output_dir DIR

Interrupted, it saves a checkpoint and goes on from there with --resume latest, to the bit. The result is a pipeline
folder with the averaged weights, or with --lora_rank a LoRA.
"""

import dataclasses
import functools
from contextlib import closing

from diffusers_ccld import CCLDPipeline, CCLDScheduler, CCLDUNet2DConditionModel
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.losses import min_snr_weights, v_prediction_losses
from diffusers_ccld.noise_schedule import t_to_alpha_sigma
from diffusers_ccld.original.training_state import read_training_state
from diffusers_ccld.training_checkpoints import WeightAverage, averaged_network
from diffusers_ccld.training_config import TrainingConfig, parse_config, setting
from diffusers_ccld.training_data import (
    encode_batch,
    load_training_data,
    make_batches,
    make_inputs,
    training_resolution,
)
from diffusers_ccld.training_log import loss_by_quartile
from diffusers_ccld.training_randomness import TrainingTimes, draw_for_training
from diffusers_ccld.training_result import create_repository, push_folder, save_result
from diffusers_ccld.training_run import TrainingRun
from diffusers_ccld.training_utils import (
    IMAGE_COMPONENTS,
    TEXT_COMPONENTS,
    UNET_COMPONENTS,
    describe_hardware,
    describe_run,
    load_components,
    make_from_json,
    make_lora_config,
    make_optimizer,
    paint_demo,
    read_prompts,
)


@dataclasses.dataclass(kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Settings of this script."""

    unet_config: str | None = setting(None, "begin from scratch, with a network of this configuration (a JSON file)")
    original_checkpoint: str | None = setting(
        None, "go on with a training checkpoint of the original's, optimiser and all; `model` is converted from it"
    )
    lora_rank: int = setting(0, "train a LoRA of this rank, not the network; 0 for the network")
    lora_alpha: float | None = setting(None, "scale of the LoRA (default: its rank)")

    def __post_init__(self):
        super().__post_init__()
        if self.lora_rank < 0 or (self.lora_alpha is not None and not self.lora_rank):
            raise ValueError("lora_rank must not be negative, and lora_alpha needs one.")
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise ValueError("lora_alpha must be positive.")
        if self.original_checkpoint and (self.unet_config or self.lora_rank):
            raise ValueError("original_checkpoint goes on with a whole network: leave out unet_config and lora_rank.")


def finetune(config: FinetuneConfig) -> None:
    run = TrainingRun(config, may_shard=True)
    accelerator = run.accelerator
    prompts = read_prompts(config.demo_prompts)

    # The pipeline, what of it is trained, and on which images
    components = load_components(config.model, (*IMAGE_COMPONENTS, *TEXT_COMPONENTS))
    if config.unet_config is None:
        components |= load_components(config.model, UNET_COMPONENTS)
    else:
        unet = make_from_json(CCLDUNet2DConditionModel, config.unet_config)
        components |= {"unet": unet, "scheduler": CCLDScheduler()}
    unet = components["unet"]
    size, latent_shape = training_resolution(config.resolution, unet.config.sample_size, components["vae"])
    unet.register_to_config(sample_size=latent_shape[-1])
    network_config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    make_whole = functools.partial(type(unet).from_config, network_config)
    pipe = CCLDPipeline(**components).to(accelerator.device)
    if config.lora_rank:
        unet.requires_grad_(False)
        unet.add_adapter(make_lora_config(config))
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    data = load_training_data(config, accelerator, pipe, size)

    # Where it goes on from
    run.identify({**data.identity, "network": network_config, "lora": [config.lora_rank, config.lora_alpha]})
    batches = make_batches(config, accelerator, data, size, run.progress)
    optimizer = make_optimizer(config, [p for p in unet.parameters() if p.requires_grad])
    original = None
    if config.original_checkpoint is not None and run.checkpoint is None:
        original = read_training_state(config.original_checkpoint, unet)
        original.load_into(unet, optimizer)
        run.set_out_from(original.step)
    if config.compile:
        unet.compile()
    network, optimizer = accelerator.prepare(unet, optimizer)
    average = WeightAverage(unet)
    if original is not None:
        average.assign(original.average)
    run.restore(average, [optimizer])
    accelerator.print(describe_run(config, accelerator, unet, data.num_images, latent_shape))
    hub_name = config.hub_model_id or run.output_dir.resolve().name
    if config.push_to_hub and accelerator.is_main_process and not config.dry_run:
        hub_name = create_repository(hub_name)
    run.begin(data.num_images, data.bad)
    grid = None

    def paint() -> None:
        nonlocal grid
        with averaged_network(accelerator, unet, average, make_whole) as averaged:
            if averaged is None:
                return
            pipe.unet = averaged
            grid = paint_demo(
                pipe,
                prompts,
                config.seed,
                batch_size=config.train_batch_size,
                num_inference_steps=config.demo_inference_steps,
                guidance_scale=config.demo_guidance_scale,
            )
            pipe.unet = unet
            run.show("demo", grid)

    times = TrainingTimes(config.seed)
    with closing(batches), run:
        while run.goes_on:
            for batch, positions in run.micro_batches(batches):
                draws = draw_for_training(config.seed, times, positions, latent_shape, config.condition_dropout)
                draws = draws.to(accelerator.device)
                encoded = encode_batch(batch, pipe, accelerator.device)
                inputs = make_inputs(encoded, draws, pipe.scheduler, pipe.vae.config.scaling_factor)

                with accelerator.accumulate(network):
                    prediction = network(inputs.noisy_latents, inputs.timesteps, inputs.condition).sample
                    losses = v_prediction_losses(prediction, inputs.target)
                    weights = 1.0
                    if config.snr_gamma is not None:
                        weights = min_snr_weights(*t_to_alpha_sigma(draws.t), config.snr_gamma)
                    all_losses = run.backward((weights * losses).mean(), losses, **inputs._asdict())
                    run.clip_gradient(average.weights.values(), losses=losses, **inputs._asdict())
                    optimizer.step()
                    optimizer.zero_grad()
                by_quartile = loss_by_quartile(all_losses, accelerator.gather(draws.t))
                run.log.add(len(all_losses), loss=all_losses.tolist(), **by_quartile)
            run.finish_step(config.demo_every, paint)

    # What comes of it
    if run.end():
        if config.demo_every and run.step < run.first_step:  # there was nothing left to train
            paint()
        with averaged_network(accelerator, unet, average, make_whole) as averaged:
            if averaged is not None:
                folder = run.output_dir / ("lora" if config.lora_rank else "pipeline")
                facts = {
                    "began from": config.original_checkpoint or config.unet_config or config.model,
                    "images": f"{data.source} ({data.num_images or 'a stream'})",
                    "steps": f"{run.step:,}, {run.images_seen:,} images seen",
                    "parameters": f"{sum(weight.numel() for weight in average.averages.values()):,} trained",
                    "hardware": describe_hardware(accelerator),
                }
                save_result(folder, pipe, averaged, config, data.source, facts, run.log_path, prompts, grid)
                print(f"wrote {folder}")
                if config.push_to_hub:
                    print(f"uploaded to {push_folder(folder, hub_name)}")
        accelerator.end_training()


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: finetune(parse_config(FinetuneConfig, __doc__))))
