#!/usr/bin/env python3
"""Trains or fine-tunes a CCLD U-Net on images without captions.

    accelerate launch training/finetune.py --config training/configs/finetune_wikiart.yaml
    accelerate launch training/finetune.py --model DIR --dataset FOLDER --output_dir DIR

Interrupted, it saves a checkpoint and goes on from there with --resume latest, to the bit. The result is a pipeline
folder with the averaged weights, or with --lora_rank a LoRA.
"""

import dataclasses
import functools
import time
from contextlib import closing
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.cli import run_reporting_errors, save_image
from diffusers_ccld.losses import min_snr_weights, v_prediction_losses
from diffusers_ccld.noise_schedule import t_to_alpha_sigma
from diffusers_ccld.original.training_state import read_training_state
from diffusers_ccld.training_checkpoints import (
    WeightAverage,
    averaged_network,
    find_checkpoint,
    load_checkpoint,
    read_progress,
    save_batch,
    save_checkpoint,
    tidy_checkpoints,
)
from diffusers_ccld.training_config import TrainingConfig, parse_config, save_config, setting
from diffusers_ccld.training_data import (
    encode_batch,
    load_training_data,
    make_batches,
    make_inputs,
    training_resolution,
)
from diffusers_ccld.training_log import (
    BadImages,
    TrainingLog,
    gather_bad_images,
    log_image,
    loss_by_quartile,
)
from diffusers_ccld.training_randomness import TrainingTimes, draw_for_training
from diffusers_ccld.training_result import create_repository, push_folder, save_result
from diffusers_ccld.training_utils import (
    IMAGE_COMPONENTS,
    TEXT_COMPONENTS,
    UNET_COMPONENTS,
    Interruption,
    clip_gradient,
    describe_dry_run,
    describe_hardware,
    describe_run,
    gather_stream_positions,
    learning_rate_schedule,
    load_components,
    make_accelerator,
    make_lora_config,
    make_optimizer,
    make_unet,
    paint_demo,
    read_prompts,
    set_learning_rate,
)

DRY_RUN_STEPS = 3


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
    accelerator = make_accelerator(config)
    is_main = accelerator.is_main_process
    torch.manual_seed(config.seed)
    output_dir = Path(config.output_dir)
    checkpoint = find_checkpoint(output_dir / "checkpoints", config.resume)
    prompts = read_prompts(config.demo_prompts)

    # The pipeline, what of it is trained, and on which images
    components = load_components(config.model, (*IMAGE_COMPONENTS, *TEXT_COMPONENTS))
    if config.unet_config is None:
        components |= load_components(config.model, UNET_COMPONENTS)
    else:
        components |= {"unet": make_unet(config.unet_config), "scheduler": CCLDScheduler()}
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
    identity = {**data.identity, "network": network_config, "lora": [config.lora_rank, config.lora_alpha]}
    progress = {"step": 0, "images_seen": 0, "log": {}, "stream": None}
    if checkpoint is not None:
        progress = read_progress(checkpoint, identity if is_main else {})
    batches = make_batches(config, accelerator, data, size, progress)
    optimizer = make_optimizer(config, [p for p in unet.parameters() if p.requires_grad])
    original = None
    if config.original_checkpoint is not None and checkpoint is None:
        original = read_training_state(config.original_checkpoint, unet)
        original.load_into(unet, optimizer)
        progress["step"] = original.step
    if progress["step"] > config.max_steps:
        raise ValueError(f"The run is at step {progress['step']} already, and max_steps is {config.max_steps}.")
    if config.compile:
        unet.compile()
    network, optimizer = accelerator.prepare(unet, optimizer)
    average = WeightAverage(unet)
    if original is not None:
        average.assign(original.average)
    if checkpoint is not None:
        load_checkpoint(accelerator, average, checkpoint)

    # What it reports, and where
    step, images_seen = progress["step"], progress["images_seen"]
    last_step = min(step + DRY_RUN_STEPS, config.max_steps) if config.dry_run else config.max_steps
    accelerator.print(describe_run(config, accelerator, unet, data.num_images, latent_shape))
    hub_name = config.hub_model_id or output_dir.resolve().name
    if is_main and not config.dry_run:
        if config.push_to_hub:
            hub_name = create_repository(hub_name)
        output_dir.mkdir(parents=True, exist_ok=True)
        tidy_checkpoints(output_dir / "checkpoints", checkpoint)
        save_config(dataclasses.replace(config, resume=None), output_dir / "config.yaml")
    accelerator.wait_for_everyone()
    log_path = None if config.dry_run else output_dir / "metrics.jsonl"
    log = TrainingLog(accelerator, log_path)
    log.resume(step, progress["log"])
    bad_path = output_dir / "bad_images.jsonl" if is_main and not config.dry_run else None
    bad_images = BadImages(config.max_bad_share, data.num_images, bad_path)
    bad_images.record(data.bad)
    if not config.dry_run:
        accelerator.init_trackers(config.run_name, config=config.for_trackers())

    def save_run(folder: Path, limit: int = 0) -> None:
        stream = gather_stream_positions(accelerator, batch)
        position = {"step": step, "images_seen": images_seen, "log": log.sums, "stream": stream, "identity": identity}
        save_checkpoint(accelerator, average, position, folder, limit)

    def stop_if_not_finite(values: torch.Tensor, what: str) -> None:
        if torch.isfinite(values).all():
            return
        where = ""
        if not config.dry_run:
            aside = output_dir / f"failed-step-{step + 1:08d}"
            save_run(aside)
            tensors = {**inputs._asdict(), "losses": losses}
            save_batch(aside / f"batch-{accelerator.process_index}.safetensors", tensors)
            where = f" What led to it is in {aside}; the newest checkpoint is of an earlier step."
        raise ValueError(
            f"The {what} of step {step + 1} is not finite.{where} Try a lower learning rate, max_grad_norm, or more "
            f"precision."
        )

    def paint() -> Image.Image | None:
        with averaged_network(accelerator, unet, average, make_whole) as averaged:
            if averaged is None:
                return None
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
            (output_dir / "demos").mkdir(exist_ok=True)
            save_image(grid, output_dir / "demos" / f"step-{step:08d}.png")
            log_image(accelerator, "demo", grid, step)
            return grid

    times, learning_rate_at = TrainingTimes(config.seed), learning_rate_schedule(config)
    num_looked_at, bad, grid = 0, [], None
    first_step, started = step + 1, time.monotonic()
    progress_bar = tqdm(initial=step, total=last_step, desc="Training", unit="step", disable=not is_main)
    with closing(batches), Interruption() as interruption, progress_bar:
        is_interrupted = False
        while step < last_step and not is_interrupted:
            set_learning_rate(optimizer, learning_rate_at(step), config.weight_decay)
            for _ in range(config.gradient_accumulation_steps):
                batch = next(batches)
                num_looked_at += batch["num_looked_at"]
                bad += batch["bad"]
                first = images_seen + accelerator.process_index * config.train_batch_size
                positions = range(first, first + config.train_batch_size)
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
                    all_losses, all_times = accelerator.gather((losses.detach(), draws.t))
                    stop_if_not_finite(all_losses, "loss")
                    accelerator.backward((weights * losses).mean())
                    if accelerator.sync_gradients:
                        grad_norm = clip_gradient(accelerator, average.weights.values(), config.max_grad_norm)
                        if accelerator.scaler is None:  # which skips such steps, and is there for them
                            stop_if_not_finite(grad_norm, "gradient")
                    optimizer.step()
                    optimizer.zero_grad()
                images_seen += config.train_batch_size * accelerator.num_processes
                log.add(len(all_losses), loss=all_losses.tolist(), **loss_by_quartile(all_losses, all_times))

            if not accelerator.optimizer_step_was_skipped:
                average.update(config.ema_decay_at(step))
                log.add(grad_norm=grad_norm.tolist())
            step += 1
            progress_bar.update()
            is_interrupted = interruption.requested(accelerator)
            if config.dry_run:
                started = time.monotonic() if step == first_step < last_step else started  # the first warms up
                continue

            is_logged = step % config.logging_steps == 0 or step == last_step
            is_saved = step % config.checkpointing_steps == 0 or step == last_step or is_interrupted
            is_first = step == first_step and checkpoint is None
            is_shown = config.demo_every and (step % config.demo_every == 0 or step == last_step or is_first)
            if is_logged or is_saved:
                gather_bad_images(accelerator, bad_images, num_looked_at, bad)
                num_looked_at, bad = 0, []
            if is_logged:
                entry = log.write(
                    step,
                    learning_rate=learning_rate_at(step - 1),
                    ema_decay=config.ema_decay_at(step - 1),
                    bad_images=len(bad_images.reasons),
                    images_seen=images_seen,
                )
                progress_bar.set_postfix(loss=f"{entry['loss']:.4f}", bad_images=len(bad_images.reasons))
            if is_shown:
                grid = paint()
            if is_saved:
                save_run(output_dir / "checkpoints" / f"step-{step:08d}", config.checkpoints_total_limit)

    # What comes of it
    if config.dry_run:
        measured = max(step - first_step, 1)
        accelerator.print(describe_dry_run(config, (time.monotonic() - started) / measured, first_step))
    elif is_interrupted:
        accelerator.print(f"stopped after step {step}; go on with --resume latest")
        accelerator.end_training()
        raise KeyboardInterrupt
    else:
        if config.demo_every and first_step > last_step:  # there was nothing left to train
            grid = paint()
        with averaged_network(accelerator, unet, average, make_whole) as averaged:
            if averaged is not None:
                folder = output_dir / ("lora" if config.lora_rank else "pipeline")
                facts = {
                    "began from": config.original_checkpoint or config.unet_config or config.model,
                    "images": f"{data.source} ({data.num_images or 'a stream'})",
                    "steps": f"{step:,}, {images_seen:,} images seen",
                    "parameters": f"{sum(weight.numel() for weight in average.averages.values()):,} trained",
                    "hardware": describe_hardware(accelerator),
                }
                save_result(folder, pipe, averaged, config, data.source, facts, log_path, prompts, grid)
                print(f"wrote {folder}")
                if config.push_to_hub:
                    print(f"uploaded to {push_folder(folder, hub_name)}")
    accelerator.end_training()


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: finetune(parse_config(FinetuneConfig, __doc__))))
