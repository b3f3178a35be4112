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
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from PIL import Image
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline, CCLDUNet2DConditionModel
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
)
from diffusers_ccld.training_config import TrainingConfig, parse_config, save_config, setting
from diffusers_ccld.training_data import encode_batch, load_training_data, make_inputs, training_resolution
from diffusers_ccld.training_log import (
    BadImages,
    TrainingLog,
    gather_bad_images,
    log_image,
    loss_by_quartile,
    peak_memory_gib,
)
from diffusers_ccld.training_randomness import TrainingTimes, draw_for_training
from diffusers_ccld.training_result import create_repository, push_folder, save_result
from diffusers_ccld.training_utils import (
    Interruption,
    clip_gradient,
    describe_hardware,
    describe_run,
    gather_stream_positions,
    load_components,
    make_accelerator,
    make_optimizer,
    paint_demo,
    read_prompts,
    read_unet_config,
)

DRY_RUN_STEPS = 3
LORA_MODULES = ["to_q", "to_k", "to_v", "to_out.0", "proj", "conv1", "conv2", "linear1", "linear2"]


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
        if self.original_checkpoint and (self.unet_config or self.lora_rank):
            raise ValueError("original_checkpoint goes on with a whole network: leave out unet_config and lora_rank.")


def finetune(config: FinetuneConfig) -> None:
    # Where it runs, and where it goes on from
    accelerator = make_accelerator(config)
    is_main = accelerator.is_main_process
    torch.manual_seed(config.seed)
    output_dir = Path(config.output_dir)
    checkpoint = find_checkpoint(output_dir / "checkpoints", config.resume)
    progress = {"step": 0, "images_seen": 0, "log": {}, "stream": None}
    if checkpoint is not None:
        progress = read_progress(checkpoint)
    prompts = read_prompts(config.demo_prompts)
    hub_name = config.hub_model_id or output_dir.resolve().name
    if config.push_to_hub and not config.dry_run and is_main:
        hub_name = create_repository(hub_name)

    # The pipeline, and what of it is trained
    components = load_components(config.model, with_unet=config.unet_config is None)
    if config.unet_config is not None:
        components["unet"] = CCLDUNet2DConditionModel.from_config(read_unet_config(config.unet_config))
    unet = components["unet"]
    size, latent_shape = training_resolution(config.resolution, unet.config.sample_size, components["vae"])
    unet.register_to_config(sample_size=latent_shape[-1])
    pipe = CCLDPipeline(**components).to(accelerator.device)
    if config.lora_rank:
        from peft import LoraConfig

        unet.requires_grad_(False)
        alpha = config.lora_alpha or config.lora_rank
        unet.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=alpha, target_modules=LORA_MODULES))
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()

    data = load_training_data(config, accelerator, pipe, size, progress)
    optimizer = make_optimizer(config, [p for p in unet.parameters() if p.requires_grad])
    original = None
    if config.original_checkpoint is not None and checkpoint is None:
        original = read_training_state(config.original_checkpoint, unet)
        original.load_into(unet, optimizer)
        progress["step"] = original.step
    lr_scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_steps,
        last_epoch=progress["step"] - 1,
    )
    if config.compile:
        unet.compile()
    make_unet = functools.partial(CCLDUNet2DConditionModel.from_config, dict(unet.config))
    network, optimizer = accelerator.prepare(unet, optimizer)
    accelerator.register_for_checkpointing(lr_scheduler)
    average = WeightAverage(unet)
    if original is not None:
        average.assign(original.average)
    if checkpoint is not None:
        load_checkpoint(accelerator, average, checkpoint)

    # What it reports, and where
    step, images_seen = progress["step"], progress["images_seen"]
    last_step = config.max_steps
    if config.dry_run:
        last_step = min(step + DRY_RUN_STEPS, last_step)
    elif is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, output_dir / "config.yaml")
    accelerator.wait_for_everyone()
    accelerator.print(describe_run(config, accelerator, unet, data.num_images, latent_shape))
    if not config.dry_run:
        accelerator.init_trackers(config.run_name, config=config.for_trackers())
    log_path = output_dir / "metrics.jsonl"
    log = TrainingLog(accelerator, None if config.dry_run else log_path)
    log.resume(step, progress["log"])
    bad_path = output_dir / "bad_images.jsonl" if is_main and not config.dry_run else None
    bad_images = BadImages(config.max_bad_share, data.num_images, bad_path)
    bad_images.add([], data.bad)

    def save_run(folder: Path, limit: int = 0) -> None:
        position = {"step": step, "images_seen": images_seen, "log": log.sums, "data": data.identity}
        position["stream"] = gather_stream_positions(accelerator, batch)
        save_checkpoint(accelerator, average, position, folder, limit)

    def stop_if_not_finite(values: torch.Tensor, what: str) -> None:
        if torch.isfinite(values).all():
            return
        aside = output_dir / f"failed-step-{step + 1:08d}"
        if not config.dry_run:
            save_run(aside)
            tensors = {**inputs._asdict(), "losses": losses}
            save_batch(aside / f"batch-{accelerator.process_index}.safetensors", tensors)
        raise ValueError(
            f"The {what} of step {step + 1} is not finite. What led to it is in {aside}; the newest checkpoint is of "
            f"an earlier step. Try a lower learning rate, max_grad_norm, or more precision."
        )

    def paint() -> Image.Image | None:
        with averaged_network(accelerator, unet, average, make_unet) as averaged:
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
            (output_dir / "demos").mkdir(exist_ok=True)
            save_image(grid, output_dir / "demos" / f"step-{step:08d}.png")
            log_image(accelerator, "demo", grid, step)
            return grid

    times = TrainingTimes(config.seed)
    batches = iter(data.loader)
    looked_at, bad, grid = [], [], None
    first_step, started = step + 1, time.monotonic()
    progress_bar = tqdm(initial=step, total=last_step, desc="Training", unit="step", disable=not is_main)
    with Interruption() as interruption, progress_bar:
        is_interrupted = False
        while step < last_step and not is_interrupted:
            for _ in range(config.gradient_accumulation_steps):
                batch = next(batches)
                looked_at += batch["looked_at"]
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

            average.update(config.ema_decay_at(step))
            learning_rate = lr_scheduler.get_last_lr()[0]
            lr_scheduler.step()
            step += 1
            log.add(grad_norm=grad_norm.tolist())
            progress_bar.update()
            is_interrupted = interruption.requested(accelerator)
            if config.dry_run:
                started = time.monotonic() if step == first_step else started  # the first step warms up
                continue

            is_due = step == last_step or is_interrupted
            if step % config.logging_steps == 0 or step % config.checkpointing_steps == 0 or is_due:
                gather_bad_images(accelerator, bad_images, looked_at, bad)
                looked_at, bad = [], []
            if step % config.logging_steps == 0 or step == last_step:
                entry = log.write(
                    step,
                    learning_rate=learning_rate,
                    ema_decay=config.ema_decay_at(step - 1),
                    bad_images=len(bad_images.reasons),
                    images_seen=images_seen,
                )
                progress_bar.set_postfix(loss=f"{entry['loss']:.4f}", bad_images=len(bad_images.reasons))
            is_first = checkpoint is None and step == first_step
            if config.demo_every and (step % config.demo_every == 0 or is_first or step == last_step):
                grid = paint()
            if step % config.checkpointing_steps == 0 or is_due:
                name = f"step-{step:08d}"
                save_run(output_dir / "checkpoints" / name, config.checkpoints_total_limit)

    # What comes of it
    if config.dry_run:
        seconds = (time.monotonic() - started) / max(step - first_step, 1)
        accelerator.print(
            f"time: {seconds:.2f} s a step, {seconds * (config.max_steps - first_step + 1) / 3600:.2f} hours for all\n"
            f"memory used so far: {peak_memory_gib():.2f} GiB; nothing was written"
        )
    elif is_interrupted:
        accelerator.print(f"stopped after step {step}; go on with --resume latest")
        accelerator.end_training()
        raise KeyboardInterrupt
    else:
        if config.demo_every and first_step > last_step:  # there was nothing left to train
            grid = paint()
        with averaged_network(accelerator, unet, average, make_unet) as averaged:
            if averaged is not None:
                folder = output_dir / ("lora" if config.lora_rank else "pipeline")
                facts = {
                    "began from": config.original_checkpoint or config.unet_config or config.model,
                    "images": f"{data.identity['source']} ({data.num_images or 'a stream'})",
                    "steps": f"{step:,}, {images_seen:,} images seen",
                    "parameters": f"{sum(weight.numel() for weight in average.averages.values()):,} trained",
                    "hardware": describe_hardware(accelerator),
                }
                save_result(folder, pipe, averaged, config, facts, log_path, prompts, grid)
                print(f"wrote {folder}")
                if config.push_to_hub:
                    print(f"uploaded to {push_folder(folder, hub_name)}")
    accelerator.end_training()


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: finetune(parse_config(FinetuneConfig, __doc__))))
