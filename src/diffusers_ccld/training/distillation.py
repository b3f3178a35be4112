"""Distillation of a student from a teacher: features, guided predictions, and several steps in one."""

import math
from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional as F

from ..data.randomness import Purpose, generator_at
from ..models.prediction import is_guidance_distilled, predict_velocity
from ..models.unet_ccld import CCLDUNet2DConditionModel
from ..schedulers.noise_schedule import sampling_times, t_to_timestep

# Features


class FeatureRecorder:
    """Records the output of every level of a CCLD U-Net, down and up, except the prediction.

    Entering it as a context returns a list, which one evaluation of the network fills with features (N, C, H, W).
    """

    def __init__(self, unet: CCLDUNet2DConditionModel):
        self._features: list[torch.Tensor] | None = None
        for level in (*unet.down_blocks, *unet.up_blocks[:-1]):
            level.register_forward_hook(self._note)

    def __enter__(self) -> list[torch.Tensor]:
        self._features = []
        return self._features

    def __exit__(self, *_) -> None:
        self._features = None

    def _note(self, module: nn.Module, arguments: tuple, output: torch.Tensor) -> None:
        if self._features is not None:
            self._features.append(output)


def boundary_channels(unet: CCLDUNet2DConditionModel) -> list[int]:
    """Channels of the features that a `FeatureRecorder` records, in order."""
    widths = list(unet.config.block_out_channels)
    return widths + widths[-2::-1]


def make_projections(student: UNet2DConditionModel, teacher: UNet2DConditionModel) -> nn.ModuleList:
    """1×1 convolutions from the student's features to the teacher's, one for each boundary of levels.

    Raises:
        ValueError: If their levels do not correspond.
    """
    ours = all(isinstance(unet, CCLDUNet2DConditionModel) for unet in (student, teacher))
    if not ours or len(student.config.block_out_channels) != len(teacher.config.block_out_channels):
        raise ValueError("feature_weight needs student and teacher to be CCLD U-Nets with equally many levels.")
    channels = zip(boundary_channels(student), boundary_channels(teacher))
    return nn.ModuleList(nn.Conv2d(narrow, wide, 1) for narrow, wide in channels)


def feature_losses(projected: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
    """Relative squared error of each image's features, the mean over all boundaries: (N,).

    Args:
        projected: The student's features (N, C, H, W), projected, one for each boundary.
        targets: The teacher's features.
    """
    losses = []
    for mine, theirs in zip(projected, targets, strict=True):
        error = F.mse_loss(mine.float(), theirs.float(), reduction="none").mean(dim=(1, 2, 3))
        losses.append(error / theirs.float().square().mean(dim=(1, 2, 3)).clamp(min=1e-6))
    return torch.stack(losses).mean(dim=0)


# Networks


class Batch(NamedTuple):
    """The networks' inputs for N images.

    Attributes:
        noisy_latents: (N, C, H, W).
        timesteps: In diffusers' units, (N,).
        condition: CLOOB embeddings, (N, 1, D); zero for no condition.
        guidance_scales: (N,); `None` for unguided predictions.
    """

    noisy_latents: torch.Tensor
    timesteps: torch.Tensor
    condition: torch.Tensor
    guidance_scales: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, without those that are `None`."""
        return {name: tensor for name, tensor in self._asdict().items() if tensor is not None}


class Prediction(NamedTuple):
    """A network's outputs for N images: v, (N, C, H, W), and the features if they are compared."""

    velocity: torch.Tensor
    features: list[torch.Tensor]


class Student(nn.Module):
    """A student and the projections of its features as one module.

    Args:
        unet: The student.
        projections: The result of `make_projections`; empty if features are not compared.
    """

    def __init__(self, unet: UNet2DConditionModel, projections: nn.ModuleList):
        super().__init__()
        self.unet, self.projections = unet, projections
        self._recorder = FeatureRecorder(unet) if len(projections) else nullcontext([])

    def forward(
        self,
        noisy_latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: torch.Tensor,
        guidance_scales: torch.Tensor | None = None,
    ) -> Prediction:
        with self._recorder as features:
            velocity = predict_velocity(self.unet, noisy_latents, timesteps, condition, guidance_scales)
        return Prediction(velocity, [project(f) for project, f in zip(self.projections, features)])


class Teacher:
    """The frozen network whose predictions the student learns.

    Args:
        unet: The network.
        compares_features: True to record its features.
    """

    def __init__(self, unet: UNet2DConditionModel, compares_features: bool = False):
        self.unet = unet.requires_grad_(False).eval()
        self._recorder = FeatureRecorder(unet) if compares_features else nullcontext([])

    @torch.no_grad()
    def __call__(
        self,
        noisy_latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: torch.Tensor,
        guidance_scales: torch.Tensor | None = None,
    ) -> Prediction:
        """The network's prediction; its velocity is float32.

        Args:
            noisy_latents: (N, C, H, W).
            timesteps: In diffusers' units, (N,).
            condition: CLOOB embeddings, (N, 1, D).
            guidance_scales: (N,); `None` for unguided predictions. A network that is not guidance-distilled is
                evaluated a second time, without the condition.
        """
        dtype = self.unet.dtype
        inputs = (noisy_latents.to(dtype), timesteps, condition.to(dtype))
        with self._recorder as features:
            velocity = predict_velocity(self.unet, *inputs, guidance_scales).float()
        if guidance_scales is not None and not is_guidance_distilled(self.unet):
            unguided = predict_velocity(self.unet, *inputs[:2], torch.zeros_like(inputs[2])).float()
            velocity = unguided + guidance_scales.view(-1, 1, 1, 1) * (velocity - unguided)
        return Prediction(velocity, features)


# Few steps


class ProgressiveSchedule:
    """The progressive-distillation schedule: each step of the student is as long as several steps of its teacher.

    In one step, the student learns to arrive where several DDIM steps of the teacher arrive. After Salimans and Ho
    (2022), "Progressive Distillation for Fast Sampling of Diffusion Models". They repeat this with fewer and fewer
    steps.

    Args:
        num_steps: Steps of the student from noise to image.
        teacher_steps: Steps of the teacher, a multiple of `num_steps`.
        schedule: The sampler's `timestep_schedule`.

    Raises:
        ValueError: If the teacher's steps are not a multiple of the student's.
    """

    def __init__(self, num_steps: int, teacher_steps: int, schedule: str):
        if not 1 <= num_steps <= teacher_steps or teacher_steps % num_steps:
            raise ValueError(f"teacher_steps={teacher_steps} must be a multiple of student_steps={num_steps}.")
        self.num_steps, self.substeps = num_steps, teacher_steps // num_steps
        self._times = torch.cat([sampling_times(teacher_steps, schedule), torch.zeros(1)]).float()

    def times(self, t: torch.Tensor) -> torch.Tensor:
        """The teacher's times within the student's steps that contain times (N,): (substeps + 1, N), descending."""
        step = (t * self.num_steps).long().clamp(max=self.num_steps - 1)
        first = (self.num_steps - 1 - step) * self.substeps
        offsets = torch.arange(self.substeps + 1, device=t.device)
        return self._times.to(t.device)[first + offsets[:, None]]


def ddim_step(x: torch.Tensor, velocity: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """x_s from x_t (N, C, H, W) and v: a rotation in the plane of x₀ and ε by the angle between the times (N,)."""
    angle = ((t - s) * math.pi / 2).view(-1, 1, 1, 1)
    return angle.cos() * x - angle.sin() * velocity


def long_step_velocity(
    teacher: Teacher,
    noisy_latents: torch.Tensor,
    times: torch.Tensor,
    condition: torch.Tensor,
    guidance_scales: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes the v with which one DDIM step ends where several steps of the teacher end: (N, C, H, W), float32.

    Args:
        teacher: The teacher.
        noisy_latents: x_t at the first of the times, (N, C, H, W).
        times: The teacher's times, from `ProgressiveSchedule.times`.
        condition: CLOOB embeddings, (N, 1, D).
        guidance_scales: As for the teacher.
    """
    x = noisy_latents
    for t, s in pairwise(times):
        x = ddim_step(x, teacher(x, t_to_timestep(t), condition, guidance_scales).velocity, t, s)
    angle = ((times[0] - times[-1]) * math.pi / 2).view(-1, 1, 1, 1)
    return (angle.cos() * noisy_latents - x) / angle.sin()


# Conditions and guidance scales


class OtherConditions:
    """Conditions that are not the images' own, so that the student also learns prompts that no image shows.

    Args:
        seed: The run's seed.
        share: Share of the images that get another condition.
        prompt_embeds: Embeddings to choose from, (M, D). By default, the image's own embedding is rotated by up to 90°
            in a random direction.
    """

    def __init__(self, seed: int, share: float, prompt_embeds: torch.Tensor | None = None):
        self.seed, self.share, self.prompt_embeds = seed, share, prompt_embeds

    def draw(self, condition: torch.Tensor, positions: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Replaces a share of the conditions. Zero conditions stay.

        Args:
            condition: The images' own, (N, 1, D).
            positions: The images' positions in the run.

        Returns:
            Conditions, (N, 1, D), and (N,) booleans: True where they are still the images' own.
        """
        if not self.share:
            return condition, torch.ones(len(condition), dtype=torch.bool, device=condition.device)
        drawn, is_own = condition.clone(), condition.flatten(1).abs().amax(dim=1) == 0
        for i, position in enumerate(positions):
            random = generator_at(self.seed, Purpose.CONDITION, position)
            if random.random() >= self.share:
                is_own[i] = True
            elif not is_own[i]:
                drawn[i, 0] = self._another(condition[i, 0], random)
        return drawn, is_own

    def _another(self, own: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        if self.prompt_embeds is not None:
            return self.prompt_embeds[int(random.integers(len(self.prompt_embeds)))].to(own)
        direction = torch.from_numpy(random.standard_normal(len(own), dtype=np.float32)).to(own)
        length = own.norm()
        direction = direction - (direction @ own) / length**2 * own
        angle = random.uniform(0, math.pi / 2)
        return math.cos(angle) * own + math.sin(angle) * length * F.normalize(direction, dim=0)


def draw_guidance_scales(seed: int, positions: range, highest: float) -> torch.Tensor:
    """Uniform guidance scales from 1 (no guidance) to `highest`, one for each of N positions: (N,), float32."""
    draws = [generator_at(seed, Purpose.GUIDANCE, position).uniform(1, highest) for position in positions]
    return torch.tensor(draws, dtype=torch.float32)
