#!/usr/bin/env python3
"""Trains a small U-Net, the student, to say what a large one says, the teacher.

    accelerate launch training/distill.py --teacher DIR --model STUDENT --dataset FOLDER --output_dir DIR
    accelerate launch training/distill.py --teacher DIR --model STUDENT --cache DIR --output_dir DIR

The student comes from training/create_student.py. By default it learns the teacher's predictions and the images; with
--max_guidance_scale to do with one evaluation where guidance needs two, with --student_steps to paint in few steps.
Interrupted, it saves a checkpoint and goes on from there with --resume latest, to the bit. The result is a pipeline
folder with the averaged weights.
"""

import dataclasses
import math
from contextlib import closing
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.data.encoding import model_fingerprint
from diffusers_ccld.inference.optimization import use_channels_last
from diffusers_ccld.models.prediction import is_told_guidance
from diffusers_ccld.schedulers.noise_schedule import t_to_alpha_sigma
from diffusers_ccld.sharing.model_cards import shareable
from diffusers_ccld.training.batches import load_training_data, make_batches
from diffusers_ccld.training.components import (
    IMAGE_COMPONENTS,
    TEXT_COMPONENTS,
    UNET_COMPONENTS,
    load_components,
    network_identity,
)
from diffusers_ccld.training.config import TrainingConfig, parse_config, setting
from diffusers_ccld.training.distillation import (
    Answer,
    OtherConditions,
    Question,
    Strides,
    Student,
    Teacher,
    draw_guidance_scales,
    feature_losses,
    make_projections,
    stride_velocity,
)
from diffusers_ccld.training.ema import WeightAverage
from diffusers_ccld.training.inputs import (
    TrainingTimes,
    draw_for_training,
    encode_batch,
    make_inputs,
    training_resolution,
)
from diffusers_ccld.training.log import describe_run
from diffusers_ccld.training.losses import loss_by_quartile, min_snr_weights, v_prediction_losses
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.pipeline import PipelineInTraining, read_prompts
from diffusers_ccld.training.run import TrainingRun

PROMPTS_AT_ONCE = 64

# Of a network that is not trained, by what accelerate calls the precision of one that is.
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(kw_only=True)
class DistillConfig(TrainingConfig):
    """Settings of this script. `model` is the student's pipeline."""

    teacher: str = setting(dataclasses.MISSING, "folder or Hub name of the teacher's pipeline")

    task_weight: float = setting(1.0, "weight of the error against the images, as in training without a teacher")
    output_weight: float = setting(1.0, "weight of the error against the teacher's prediction")
    feature_weight: float = setting(0.0, "weight of the error against the teacher's features, between levels")

    other_conditions: float = setting(0.0, "share of the images for which the teacher is asked with another condition")
    condition_prompts: str | None = setting(
        None, "text file of prompts, one on every line, to take other conditions from (default: random directions)"
    )
    max_guidance_scale: float | None = setting(
        None, "learn guided predictions, told the scale, of all scales from 1 to this (default: unguided ones)"
    )
    student_steps: int | None = setting(None, "learn to paint in so many DDIM steps")
    teacher_steps: int | None = setting(None, "DDIM steps of the teacher that they stand for, a multiple")

    def __post_init__(self):
        super().__post_init__()
        weights = (self.task_weight, self.output_weight, self.feature_weight)
        if min(weights) < 0 or not max(self.output_weight, self.feature_weight):
            raise ValueError(
                "Weights must not be negative, and output_weight or feature_weight positive: training without a "
                "teacher is finetune.py's."
            )
        if not 0 <= self.other_conditions <= 1:
            raise ValueError("other_conditions must lie between 0 and 1.")
        if self.condition_prompts is not None and not self.other_conditions:
            raise ValueError("condition_prompts needs other_conditions: the share of images that get one.")
        if self.max_guidance_scale is not None and not 1 < self.max_guidance_scale < math.inf:
            raise ValueError("max_guidance_scale must be larger than 1.")
        if self.max_guidance_scale is not None and self.demo_guidance_scale > self.max_guidance_scale:
            raise ValueError("demo_guidance_scale is beyond max_guidance_scale, the largest that the student learns.")
        if (self.student_steps is None) != (self.teacher_steps is None):
            raise ValueError("student_steps and teacher_steps belong together: give both or neither.")
        if self.task_weight and self.max_guidance_scale is not None:
            raise ValueError("The images do not tell guided predictions: with max_guidance_scale give task_weight 0.")
        if self.student_steps is not None:
            self._check_steps()

    def _check_steps(self):
        if self.max_guidance_scale is None:
            raise ValueError(
                "student_steps needs max_guidance_scale: long steps cannot be guided afterwards, by combining them."
            )
        if self.feature_weight:
            raise ValueError("The teacher has no features of a long step: with student_steps give feature_weight 0.")
        if self.snr_gamma is not None:
            raise ValueError("With snr_gamma the first of the student's steps would not be learnt: leave it out.")
        if self.demo_inference_steps not in (self.student_steps, TrainingConfig.demo_inference_steps):
            raise ValueError(f"demo_inference_steps can only be student_steps, {self.student_steps}.")
        self.demo_inference_steps = self.student_steps


def require_same_pipeline(components: dict[str, Any], teacher: str) -> None:
    """Makes sure that student and teacher speak of the same latents and embeddings.

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
            f"The student's {' and '.join(differing) or 'scaling factor'} differs from the teacher's, so that they do "
            f"not speak of the same pictures. Make a student with training/create_student.py --teacher {teacher}."
        )


def load_prompt_embeds(path: str | None, pipe: CCLDPipeline) -> torch.Tensor | None:
    """Embeddings (M, D) of the prompts in a file; `None` without one.

    Raises:
        ValueError: If there are none.
    """
    if path is None:
        return None
    try:
        prompts = read_prompts(path)
    except OSError as error:
        raise ValueError(f"--condition_prompts {path}: there is no such file.") from error
    batches = [prompts[first : first + PROMPTS_AT_ONCE] for first in range(0, len(prompts), PROMPTS_AT_ONCE)]
    with torch.no_grad():
        return torch.cat([pipe.encode_prompt(batch)[0] for batch in batches]).float()


class Lesson(NamedTuple):
    """A question for the student, and what its answer is compared with.

    Attributes:
        question: What both networks are asked, of N images.
        wanted: The teacher's answer, or what one long step has to be to lead where the teacher's steps lead.
        target: v of the images, (N, C, H, W).
        is_own: Whether the condition is the image's own, (N,); the images tell nothing of others.
        t: The times, (N,).
    """

    question: Question
    wanted: Answer
    target: torch.Tensor
    is_own: torch.Tensor
    t: torch.Tensor

    def terms(self, answer: Answer, config: DistillConfig) -> dict[str, torch.Tensor]:
        """The terms of the student's loss, (N,) each, by the name of their weight."""
        terms = {"output": v_prediction_losses(answer.velocity, self.wanted.velocity)}
        if config.task_weight:
            terms["task"] = v_prediction_losses(answer.velocity, self.target) * self.is_own
        if config.feature_weight:
            terms["feature"] = feature_losses(answer.features, self.wanted.features)
        return terms


class Lessons:
    """Makes lessons of batches of images.

    Args:
        config: The run's settings.
        accelerator: Knows the device and the precision.
        pipe: The student's pipeline, on this device.
        teacher: The teacher.
        strides: The student's steps, if they are to be few.
        others: Conditions that are not the images' own.
        latent_shape: (C, H, W) of the latents.
    """

    def __init__(
        self,
        config: DistillConfig,
        accelerator: Accelerator,
        pipe: CCLDPipeline,
        teacher: Teacher,
        strides: Strides | None,
        others: OtherConditions,
        latent_shape: tuple[int, int, int],
    ):
        self.config, self.accelerator, self.pipe = config, accelerator, pipe
        self.teacher, self.strides = teacher, strides
        self.others, self.latent_shape, self.times = others, latent_shape, TrainingTimes(config.seed)

    def of(self, batch: dict[str, Any], positions: range) -> Lesson:
        """The lesson of a batch of images or of a cache, at these positions of the run."""
        config, device = self.config, self.accelerator.device
        draws = draw_for_training(config.seed, self.times, positions, self.latent_shape, config.condition_dropout)
        times = None if self.strides is None else self.strides.times(draws.t).to(device)
        draws = draws.to(device) if times is None else draws.to(device)._replace(t=times[0])
        encoded = encode_batch(batch, self.pipe, self.accelerator)
        inputs = make_inputs(encoded, draws, self.pipe.scheduler, self.pipe.vae.config.scaling_factor)
        condition, is_own = self.others.draw(inputs.condition, positions)
        scales = None
        if config.max_guidance_scale is not None:
            scales = draw_guidance_scales(config.seed, positions, config.max_guidance_scale).to(device)
        question = Question(inputs.noisy_latents, inputs.timesteps, condition, scales)
        if times is None:
            wanted = self.teacher(*question)
        else:
            wanted = Answer(stride_velocity(self.teacher, inputs.noisy_latents, times, condition, scales), [])
        return Lesson(question, wanted, inputs.target, is_own, draws.t)


def distill(config: DistillConfig) -> None:
    run = TrainingRun(config)
    accelerator = run.accelerator

    # Student and teacher
    components = load_components(config.model, (*IMAGE_COMPONENTS, *TEXT_COMPONENTS, *UNET_COMPONENTS))
    unet = components["unet"]
    if (config.max_guidance_scale is not None) != is_told_guidance(unet):
        raise ValueError(
            "max_guidance_scale and a student that is told the scale belong together: make one with "
            "training/create_student.py --told_guidance."
        )
    require_same_pipeline(components, config.teacher)
    teacher_unet = load_components(config.teacher, ["unet"])["unet"]
    teacher_fingerprint = model_fingerprint(teacher_unet)
    # Not by diffusers' own `to`, which warns: what has to stay in float32 does.
    torch.nn.Module.to(teacher_unet, accelerator.device, PRECISIONS.get(accelerator.mixed_precision, torch.float32))
    projections = torch.nn.ModuleList()
    if config.feature_weight:
        projections = make_projections(unet, teacher_unet)
    teacher = Teacher(teacher_unet, compares_features=len(projections) > 0)
    student = Student(unet, projections)

    # What they are asked
    size, latent_shape = training_resolution(config.resolution, unet.config.sample_size, components["vae"])
    unet.register_to_config(sample_size=latent_shape[-1])
    strides = None
    if config.student_steps is not None:
        # The only sampler whose steps are those that the student learns.
        scheduler = CCLDScheduler.from_config(components["scheduler"].config, algorithm_type="ddim")
        strides = Strides(config.student_steps, config.teacher_steps, scheduler.config.timestep_schedule)
        components["scheduler"] = scheduler
    taught = {"max_guidance_scale": config.max_guidance_scale}
    if config.student_steps is not None:
        taught["default_num_inference_steps"] = config.student_steps
    pipe = CCLDPipeline(**components, **taught).to(accelerator.device)
    use_channels_last(pipe.vae)
    prompt_embeds = load_prompt_embeds(config.condition_prompts, pipe)
    others = OtherConditions(config.seed, config.other_conditions, prompt_embeds)
    pipeline = PipelineInTraining(run, pipe)
    data = load_training_data(config, accelerator, pipe, size)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()

    # Where it goes on from
    run.identify(
        {
            **data.identity,
            "network": network_identity(unet),
            "teacher": teacher_fingerprint,
            "features": len(projections),
            "guidance": config.max_guidance_scale,
            "steps": [config.student_steps, config.teacher_steps],
            "conditions": [config.other_conditions, len(prompt_embeds) if prompt_embeds is not None else None],
        }
    )
    batches = make_batches(config, accelerator, data, size, run.progress)
    optimizer = make_optimizer(config, [p for p in student.parameters() if p.requires_grad])
    if config.compile:
        unet.compile()
    network, optimizer = accelerator.prepare(student, optimizer)
    average = WeightAverage(student)
    run.restore(average, [optimizer])
    accelerator.print(describe_run(config, accelerator, student, data.num_images, latent_shape, teacher_unet))
    run.begin(data.num_images, data.bad)

    lessons = Lessons(config, accelerator, pipe, teacher, strides, others, latent_shape)
    with closing(batches), run:
        while run.goes_on:
            for batch, positions in run.micro_batches(batches):
                lesson = lessons.of(batch, positions)
                with accelerator.accumulate(network):
                    terms = lesson.terms(network(*lesson.question), config)
                    losses = sum(getattr(config, f"{name}_weight") * term for name, term in terms.items())
                    weights = 1.0
                    if config.snr_gamma is not None:
                        weights = min_snr_weights(*t_to_alpha_sigma(lesson.t), config.snr_gamma)
                    tensors = lesson.question.tensors()
                    all_losses = run.backward((weights * losses).mean(), losses, **tensors)
                    run.clip_gradient(average.weights.values(), losses=losses, **tensors)
                    optimizer.step()
                    optimizer.zero_grad()
                by_quartile = loss_by_quartile(all_losses, accelerator.gather(lesson.t))
                by_term = accelerator.gather({name: term.detach() for name, term in terms.items()})
                if "task" in by_term:  # the mean of the images that were asked about
                    by_term["task"] = by_term["task"][accelerator.gather(lesson.is_own)]
                by_term = {name: values.tolist() for name, values in by_term.items()}
                run.log.add(len(all_losses), loss=all_losses.tolist(), **by_quartile, **by_term)
            run.finish_step(config.demo_every, pipeline.paint)

    # What comes of it
    if run.end():
        share = unet.num_parameters() / teacher_unet.num_parameters()
        teacher_fact = f"{shareable(config.teacher)}, of whose parameters it has {share:.1%}"
        facts = {"teacher": teacher_fact, "began from": shareable(config.model)}
        if config.max_guidance_scale is not None:
            facts["guidance"] = f"told the scale, 1 to {config.max_guidance_scale:g}: one evaluation a step"
        if config.student_steps is not None:
            facts["sampling"] = f"num_inference_steps={config.student_steps}, its default; it has learnt no others"
        pipeline.save(data, facts)
        accelerator.end_training()


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: distill(parse_config(DistillConfig, __doc__))))
