#!/usr/bin/env python3
"""Trains a small U-Net, the student, to predict what a large one, the teacher, predicts.

    accelerate launch training/distill.py --teacher DIR --model STUDENT --dataset FOLDER --output-dir DIR
    accelerate launch training/distill.py --teacher DIR --model STUDENT --cache DIR --output-dir DIR

Make the student with training/create_student.py. By default it learns from the teacher's predictions and from the
images. With --max-guidance-scale it learns guided predictions, which need one evaluation instead of two. With
--student-steps it learns to sample in few steps. An interrupted run saves a checkpoint, and --resume latest continues
it to the bit. The result is a pipeline folder with the averaged weights.
"""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.encoding import model_fingerprint
from diffusers_ccld.models.inference_autoencoder import use_inference_autoencoder
from diffusers_ccld.models.prediction import is_guidance_distilled
from diffusers_ccld.sharing.base_models import model_name
from diffusers_ccld.training.accelerator import make_accelerator
from diffusers_ccld.training.batches import load_training_data, make_batches
from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.components import (
    IMAGE_COMPONENTS,
    TEXT_COMPONENTS,
    UNET_COMPONENTS,
    load_components,
    load_defaults,
    network_identity,
)
from diffusers_ccld.training.config import TrainingConfig, setting
from diffusers_ccld.training.distillation import (
    Batch,
    OtherConditions,
    Prediction,
    ProgressiveSchedule,
    Student,
    Teacher,
    draw_guidance_scales,
    feature_losses,
    long_step_velocity,
    make_projections,
)
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.inputs import (
    encode_batch,
    make_draw,
    make_inputs,
    training_resolution,
)
from diffusers_ccld.training.log import describe_run
from diffusers_ccld.training.losses import loss_by_quartile, loss_weights, v_prediction_losses
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.pipeline import PipelineInTraining, read_prompts
from diffusers_ccld.training.run import start_run
from diffusers_ccld.training.state import make_state
from diffusers_ccld.training.validation import VALIDATION_SEED, DiffusionValidation

PROMPTS_AT_ONCE = 64

# Precision of the teacher, by accelerate's name of the run's precision.
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(kw_only=True)
class DistillConfig(TrainingConfig):
    """Settings of this script. `model` is the student's pipeline."""

    teacher: str = setting(dataclasses.MISSING, "folder or Hub name of the teacher's pipeline")

    task_weight: float = setting(1.0, "weight of the error against the images, as in training without a teacher")
    output_weight: float = setting(1.0, "weight of the error against the teacher's prediction")
    feature_weight: float = setting(0.0, "weight of the error against the teacher's features, between levels")

    other_conditions: float = setting(0.0, "share of the images that get a condition other than their own")
    condition_prompts: str | None = setting(
        None, "text file of prompts for other conditions, one on every line (default: random directions)"
    )
    max_guidance_scale: float | None = setting(
        None, "learn predictions guided by any scale from 1 to this (default: unguided ones)"
    )
    student_steps: int | None = setting(None, "learn to sample in this many DDIM steps")
    teacher_steps: int | None = setting(None, "number of the teacher's DDIM steps, a multiple of student_steps")

    def __post_init__(self):
        if self.student_steps is not None and self.demo_inference_steps is None:
            self.demo_inference_steps = self.student_steps
        super().__post_init__()
        weights = (self.task_weight, self.output_weight, self.feature_weight)
        if min(weights) < 0 or not max(self.output_weight, self.feature_weight):
            raise ValueError(
                "Weights must not be negative, and output_weight or feature_weight must be positive: use finetune.py "
                "to train without a teacher."
            )
        if not 0 <= self.other_conditions <= 1:
            raise ValueError("other_conditions must lie between 0 and 1.")
        if self.condition_prompts is not None and not self.other_conditions:
            raise ValueError("condition_prompts needs other_conditions: the share of images that get one.")
        if self.max_guidance_scale is not None and not 1 < self.max_guidance_scale < math.inf:
            raise ValueError("max_guidance_scale must be larger than 1.")
        if (self.demo_guidance_scale or 0.0) > (self.max_guidance_scale or math.inf):
            raise ValueError("demo_guidance_scale is beyond max_guidance_scale, the largest that the student learns.")
        if (self.student_steps is None) != (self.teacher_steps is None):
            raise ValueError("student_steps and teacher_steps belong together: give both or neither.")
        if self.task_weight and self.max_guidance_scale is not None:
            raise ValueError("The images do not give guided targets: with max_guidance_scale, give task_weight 0.")
        if self.student_steps is not None:
            self._check_steps()

    def _check_steps(self):
        if self.max_guidance_scale is None:
            raise ValueError(
                "student_steps needs max_guidance_scale: long steps cannot be guided by combining predictions."
            )
        if self.feature_weight:
            raise ValueError(
                "A long step of the teacher does not have features: with student_steps, give feature_weight 0."
            )
        if self.snr_gamma is not None:
            raise ValueError("snr_gamma gives the student's first step the weight zero: leave it out.")
        if self.demo_inference_steps != self.student_steps:
            raise ValueError(f"demo_inference_steps can only be student_steps, {self.student_steps}.")


def require_same_pipeline(components: dict[str, Any], teacher: str) -> None:
    """Checks that student and teacher have the same latents and embeddings.

    Raises:
        ValueError: If the teacher's pipeline has another autoencoder or image encoder.
    """
    theirs = load_components(teacher, ("vae", "image_encoder"))
    factors = [parts["vae"].config.scaling_factor for parts in (components, theirs)]
    differing = [
        name for name, part in theirs.items() if model_fingerprint(part) != model_fingerprint(components[name])
    ]
    if differing or factors[0] != factors[1]:
        raise ValueError(
            f"The student's {' and '.join(differing) or 'scaling factor'} differs from the teacher's: their "
            f"latents or embeddings mean different pictures. Make a student with "
            f"training/create_student.py --teacher {teacher}."
        )


def load_prompt_embeds(path: str | None, pipe: CCLDPipeline) -> torch.Tensor | None:
    """Embeddings (M, D) of the prompts in a file; `None` without a file.

    Raises:
        ValueError: If the file is missing or empty.
    """
    if path is None:
        return None
    prompts = read_prompts(path)
    batches = [prompts[first : first + PROMPTS_AT_ONCE] for first in range(0, len(prompts), PROMPTS_AT_ONCE)]
    with torch.no_grad():
        return torch.cat([pipe.encode_prompt(batch)[0] for batch in batches]).float()


class Targets(NamedTuple):
    """The targets of a batch of N images.

    Attributes:
        prediction: The teacher's prediction, or the v of one long step that ends where the teacher's steps end.
        velocity: v of the images, (N, C, H, W).
        is_own: (N,) booleans: True if the condition is the image's own. Only then is `velocity` its target.
        t: The times, (N,).
    """

    prediction: Prediction
    velocity: torch.Tensor
    is_own: torch.Tensor
    t: torch.Tensor


def loss_terms(prediction: Prediction, targets: Targets, config: DistillConfig) -> dict[str, torch.Tensor]:
    """The terms of the student's loss, (N,) each, by the name of their weight."""
    terms = {"output": v_prediction_losses(prediction.velocity, targets.prediction.velocity)}
    if config.task_weight:
        terms["task"] = v_prediction_losses(prediction.velocity, targets.velocity) * targets.is_own
    if config.feature_weight:
        terms["feature"] = feature_losses(prediction.features, targets.prediction.features)
    return terms


def weighted_sum(terms: dict[str, torch.Tensor], config: DistillConfig) -> torch.Tensor:
    """The student's losses, (N,)."""
    return sum(getattr(config, f"{name}_weight") * term for name, term in terms.items())


def gather_terms(accelerator: Accelerator, terms: dict[str, torch.Tensor], targets: Targets) -> dict[str, list[float]]:
    """Gathers the terms of all processes for the log. "task" contains only images with their own condition."""
    gathered = accelerator.gather({name: term.detach() for name, term in terms.items()})
    if "task" in gathered:
        gathered["task"] = gathered["task"][accelerator.gather(targets.is_own)]
    return {name: values.tolist() for name, values in gathered.items()}


class BatchMaker:
    """Makes the inputs and targets of the student from batches of images.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        pipe: The student's pipeline, on its device.
        teacher: The teacher.
        schedule: The progressive-distillation schedule; `None` for single predictions.
        others: Conditions that are not the images' own.
        latent_shape: (C, H, W) of the latents.
    """

    def __init__(
        self,
        config: DistillConfig,
        accelerator: Accelerator,
        pipe: CCLDPipeline,
        teacher: Teacher,
        schedule: ProgressiveSchedule | None,
        others: OtherConditions,
        latent_shape: tuple[int, int, int],
    ):
        self.config, self.accelerator, self.pipe = config, accelerator, pipe
        self.teacher, self.schedule = teacher, schedule
        self.others, self.latent_shape = others, latent_shape
        self.draw = make_draw(config, pipe.unet, latent_shape)

    def make(self, images: dict[str, Any], positions: range) -> tuple[Batch, Targets]:
        """Makes the inputs and targets of N images.

        Args:
            images: A batch of images or of a cache.
            positions: The images' positions in the run.
        """
        config, device = self.config, self.accelerator.device
        draws = self.draw(positions)
        times = None if self.schedule is None else self.schedule.times(draws.t).to(device)
        draws = draws.to(device) if times is None else draws.to(device)._replace(t=times[0])
        encoded = encode_batch(images, self.pipe, self.accelerator)
        inputs = make_inputs(encoded, draws, self.pipe.scheduler, self.pipe.vae.config.scaling_factor)
        condition, is_own = self.others.draw(inputs.condition, positions)
        scales = None
        if config.max_guidance_scale is not None:
            scales = draw_guidance_scales(config.seed, positions, config.max_guidance_scale).to(device)
        batch = Batch(inputs.noisy_latents, inputs.timesteps, condition, scales)
        if times is None:
            prediction = self.teacher(*batch)
        else:
            velocity = long_step_velocity(self.teacher, inputs.noisy_latents, times, condition, scales)
            prediction = Prediction(velocity, [])
        return batch, Targets(prediction, inputs.target, is_own, draws.t)


def losses_at(
    student: Student, maker: BatchMaker, unet: torch.nn.Module, images: dict[str, Any], positions: range
) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's losses on N images, and their times, (N,) each; `unet` is that of the student."""
    batch, targets = maker.make(images, positions)
    return weighted_sum(loss_terms(student(*batch), targets, maker.config), maker.config), targets.t


def make_validation(
    config: DistillConfig,
    student: Student,
    maker: BatchMaker,
    prompt_embeds: torch.Tensor | None,
    trained_on: str,
    size: int,
) -> DiffusionValidation:
    """The run's validation: the loss of training on images that are not those of the source `trained_on`.

    Args:
        config: The run's settings.
        student: The student.
        maker: Makes the batches of training.
        prompt_embeds: Embeddings of other conditions' prompts.
        trained_on: Source of the training images.
        size: Height and width of the images in pixels.
    """
    fixed = dataclasses.replace(config, seed=VALIDATION_SEED, condition_noise=0.0)
    others = OtherConditions(fixed.seed, config.other_conditions, prompt_embeds)
    checker = BatchMaker(
        fixed, maker.accelerator, maker.pipe, maker.teacher, maker.schedule, others, maker.latent_shape
    )
    losses = partial(losses_at, student, checker)
    return DiffusionValidation(config, maker.accelerator, maker.pipe, trained_on, size, losses)


def make_schedule(config: DistillConfig, scheduler: CCLDScheduler) -> ProgressiveSchedule | None:
    """The progressive-distillation schedule of the settings; `None` without `student_steps`."""
    if config.student_steps is None:
        return None
    return ProgressiveSchedule(config.student_steps, config.teacher_steps, scheduler.config.timestep_schedule)


def facts_of(config: DistillConfig, student: torch.nn.Module, teacher: torch.nn.Module) -> dict[str, str]:
    """Facts about a distillation for the model card, by name."""
    share = student.num_parameters() / teacher.num_parameters()
    teacher_fact = f"{model_name(config.teacher)}; the student has {share:.1%} of its parameters"
    facts = {"teacher": teacher_fact, "began from": model_name(config.model)}
    if config.max_guidance_scale is not None:
        facts["guidance"] = f"takes the scale, 1 to {config.max_guidance_scale:g}, as an input: one evaluation a step"
    if config.student_steps is not None:
        facts["sampling"] = (
            f"num_inference_steps={config.student_steps}, the default and the only number it was trained for"
        )
    return facts


def load_student(config: DistillConfig) -> tuple[CCLDPipeline, int, tuple[int, int, int]]:
    """Loads the student's pipeline, with the sampler that it is trained for.

    Returns:
        The pipeline, the size of the training images in pixels, and (C, H, W) of their latents.

    Raises:
        ValueError: If a part is missing, or student, teacher and settings do not fit together.
    """
    components = load_components(config.model, (*IMAGE_COMPONENTS, *TEXT_COMPONENTS, *UNET_COMPONENTS))
    unet = components["unet"]
    if (config.max_guidance_scale is not None) != is_guidance_distilled(unet):
        raise ValueError(
            "max_guidance_scale needs a student with an input for the guidance scale, and such a student needs "
            "max_guidance_scale: make one with training/create_student.py --guidance-embedding-dim."
        )
    require_same_pipeline(components, config.teacher)
    size, latent_shape = training_resolution(config.resolution, unet.config.sample_size, components["vae"])
    unet.register_to_config(sample_size=latent_shape[-1])
    settings = load_defaults(config.model) | {"max_guidance_scale": config.max_guidance_scale}
    if config.student_steps is not None:
        # The student learns the steps of DDIM, and other samplers take different ones.
        components["scheduler"] = CCLDScheduler.from_config(components["scheduler"].config, algorithm_type="ddim")
        settings["default_num_inference_steps"] = config.student_steps
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return CCLDPipeline(**components, **settings), size, latent_shape


def conditions_identity(config: DistillConfig, prompt_embeds: torch.Tensor | None) -> dict[str, Any]:
    """The settings of guidance, steps and conditions that must not change between resumptions."""
    return {
        "guidance": config.max_guidance_scale,
        "steps": [config.student_steps, config.teacher_steps],
        "conditions": [config.other_conditions, len(prompt_embeds) if prompt_embeds is not None else None],
    }


def load_teacher(config: DistillConfig, accelerator: Accelerator) -> tuple[torch.nn.Module, str]:
    """The teacher's U-Net on the run's device in the run's precision, and its fingerprint in float32."""
    unet = load_components(config.teacher, ["unet"])["unet"]
    fingerprint = model_fingerprint(unet)
    # diffusers' own `to` would warn about modules that stay in float32.
    torch.nn.Module.to(unet, accelerator.device, PRECISIONS.get(accelerator.mixed_precision, torch.float32))
    return unet, fingerprint


def distill(config: DistillConfig) -> int:
    accelerator = make_accelerator(config)
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)

    # Student and teacher
    pipe, size, latent_shape = load_student(config)
    unet = pipe.to(accelerator.device).unet
    use_inference_autoencoder(pipe.vae)
    pipeline = PipelineInTraining(config, pipe)
    teacher_unet, teacher_fingerprint = load_teacher(config, accelerator)
    projections = make_projections(unet, teacher_unet) if config.feature_weight else torch.nn.ModuleList()
    teacher = Teacher(teacher_unet, compares_features=len(projections) > 0)
    student = Student(unet, projections)

    # The images and conditions
    prompt_embeds = load_prompt_embeds(config.condition_prompts, pipe)
    others = OtherConditions(config.seed, config.other_conditions, prompt_embeds)
    data = load_training_data(config, accelerator, pipe, size)

    # The state to start from, the optimiser and the EMA
    identity = {**data.identity, "network": network_identity(unet), "teacher": teacher_fingerprint}
    identity |= {"features": len(projections), **conditions_identity(config, prompt_embeds)}
    state = make_state(checkpoint, identity, accelerator.is_main_process)
    batches = make_batches(config, accelerator, data, size, state)
    optimizer = make_optimizer(config, [p for p in student.parameters() if p.requires_grad])
    if config.compile:
        unet.compile()
    network, optimizer = accelerator.prepare(student, optimizer)
    ema = EMA(student)
    accelerator.print(describe_run(config, accelerator, student, data.num_images, latent_shape, teacher_unet))

    schedule = make_schedule(config, pipe.scheduler)
    maker = BatchMaker(config, accelerator, pipe, teacher, schedule, others, latent_shape)
    validation = make_validation(config, student, maker, prompt_embeds, data.source, size)
    with start_run(config, accelerator, state, ema, [optimizer], batches, data.num_images, data.bad) as run:
        for _ in run.steps():
            for images, positions in run.micro_batches():
                batch, targets = maker.make(images, positions)
                with accelerator.accumulate(network):
                    terms = loss_terms(network(*batch), targets, config)
                    losses = weighted_sum(terms, config)
                    loss = (loss_weights(targets.t, config.snr_gamma) * losses).mean()
                    all_losses = run.backward(loss, losses, **batch.tensors())
                    grad_norm = run.clip_gradient(ema.weights.values(), losses=losses, **batch.tensors())
                    optimizer.step()
                    optimizer.zero_grad()
                groups = loss_by_quartile(all_losses, accelerator.gather(targets.t))
                groups |= gather_terms(accelerator, terms, targets)
                run.log.add(len(all_losses), loss=all_losses.tolist(), **groups)
            run.finish_step(grad_norm)
            if run.is_due(config.validation_every):
                pipeline.validate(run, validation.measure)
            if run.is_due(config.demo_every):
                pipeline.show(run)

        if run.is_complete:
            pipeline.save(run, data, facts_of(config, unet, teacher_unet))
    return run.exit_status


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: distill(parse_config(DistillConfig, __doc__))))
