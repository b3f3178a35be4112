"""Sampling in numpy: the times, the guidance formula and the loop. The steps are those of `schedulers.solvers`.

The tests compare every function with its counterpart in torch. `web/sampler.js` does the same in the browser.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..schedulers.names import TIMESTEP_SCHEDULES
from ..schedulers.solvers import (
    METHODS,
    Prediction,
    corrected,
    ddim_noise_scale,
    ddim_step,
    extrapolated_step,
    split_prediction,
)

# Times at which the spliced schedule changes from "cosine" to "ddpm"; see `schedulers.noise_schedule`.
COSINE_CROSSOVER = 0.80074257
DDPM_CROSSOVER = 0.48536712

NEGLIGIBLE_WEIGHT = 1e-6

# Maps latents (N, C, H, W), timesteps (N,), conditions (N, D) and guidance scales (N,) to the network's output.
Network = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def sampling_times(num_steps: int, schedule: str) -> np.ndarray:
    """The descending times, float64, at which the steps of a run begin; see `noise_schedule.apply_timestep_schedule`.

    Raises:
        ValueError: If the schedule is unknown.
    """
    if schedule not in TIMESTEP_SCHEDULES:
        raise ValueError(f"Unknown timestep schedule {schedule!r}; choose one of {', '.join(TIMESTEP_SCHEDULES)}.")
    t = np.linspace(1, 0, num_steps + 1)[:-1]
    if schedule == "spliced":
        t = t * (1 + COSINE_CROSSOVER - DDPM_CROSSOVER)
        ddpm = _time_of_log_snr(_ddpm_log_snr(np.maximum(t + DDPM_CROSSOVER - COSINE_CROSSOVER, 0)))
        return np.where(t < COSINE_CROSSOVER, t, ddpm)
    if schedule == "ddpm":
        return _time_of_log_snr(_ddpm_log_snr(t))
    return _time_of_log_snr(10 - 20 * t) if schedule == "log" else t


def _ddpm_log_snr(t):
    return -np.log(np.expm1(1e-4 + 10 * t**2))


def _time_of_log_snr(log_snr):
    return np.arctan2(np.exp(-log_snr / 2), 1) / np.pi * 2


@dataclass(frozen=True)
class Guidance:
    """The terms of the guidance formula v = (1 − Σ w_i)·v(zero condition) + Σ w_i·v(c_i) for N images.

    Attributes:
        conditions: Embeddings c_i, (N, K, D).
        weights: Weights w_i, (N, K).
        interval: First and last time at which guidance applies, 0 to 1.
        takes_scale: True if the network has the guidance scale as an input.
    """

    conditions: np.ndarray
    weights: np.ndarray
    interval: tuple[float, float] = (0.0, 1.0)
    takes_scale: bool = False

    def weights_at(self, t: float) -> np.ndarray:
        """Returns weights at a time, (N, K). Outside the interval, they are at least 0, and their sum is at most 1."""
        if self.interval[0] <= t <= self.interval[1]:
            return self.weights
        wanted = self.weights.clip(min=0)
        return wanted / wanted.sum(axis=1, keepdims=True).clip(min=1)

    def predict(self, network: Network, latents: np.ndarray, t: float) -> np.ndarray:
        """Returns the guided prediction at time t. One batched call evaluates all terms whose weight is not 0."""
        timestep = np.float32(1000 * t - 1)
        weights = self.weights_at((float(timestep) + 1) / 1000)
        scales = np.ones_like(weights)
        if self.takes_scale:
            used = np.abs(weights) > NEGLIGIBLE_WEIGHT
            is_input = used & (used.sum(axis=1, keepdims=True) == 1) & (weights > 1)
            scales, weights = np.where(is_input, weights, 1), np.where(is_input, 1, weights)
        conditions = np.pad(self.conditions, ((0, 0), (0, 1), (0, 0)))  # the zero condition
        scales = np.pad(scales, ((0, 0), (0, 1)), constant_values=1)
        weights = np.concatenate([weights, 1 - weights.sum(axis=1, keepdims=True)], axis=1).astype(np.float32)
        images, terms = (np.abs(weights) > NEGLIGIBLE_WEIGHT).nonzero()
        output = network(
            latents[images],
            np.full(len(images), timestep),
            conditions[images, terms],
            scales[images, terms].astype(np.float32),
        )
        weighted = np.zeros((*weights.shape, *latents.shape[1:]), dtype=np.float32)
        weighted[images, terms] = output * weights[images, terms][:, None, None, None]
        return weighted.sum(axis=1)


@dataclass(frozen=True)
class Sampler:
    """The sampling loop and its settings.

    Attributes:
        algorithm_type: One of `ONNX_ALGORITHMS`.
        times: Times at which the steps begin, from `sampling_times`.
        prediction_type: The network's output: "v_prediction" or "epsilon".
        eta: Share of DDPM's noise that "ddim" adds, 0 to 1.
    """

    algorithm_type: str
    times: np.ndarray
    prediction_type: str = "v_prediction"
    eta: float = 0.0

    def run(
        self,
        network: Network,
        latents: np.ndarray,
        guidance: Guidance,
        draw: Callable[[], np.ndarray],
        on_step: Callable[[np.ndarray], None] | None = None,
    ) -> np.ndarray:
        """Samples from noise.

        Args:
            network: The U-Net.
            latents: Noise, (N, C, H, W), float32.
            guidance: The terms of the guidance formula.
            draw: Returns fresh noise, (N, C, H, W); called if `eta` is above 0.
            on_step: Called after each step with the denoised latents that its evaluation predicts.

        Returns:
            Latents at t = 0, (N, C, H, W).
        """
        past: list[Prediction] = []
        for t1, t2 in itertools.pairwise([*self.times.tolist(), 0.0]):
            output = guidance.predict(network, latents, t1)
            newest = split_prediction(output, latents, t1, self.prediction_type)
            if self.algorithm_type == "ddim":
                noise_scale = ddim_noise_scale(t1, t2, self.eta)
                latents = ddim_step(newest, t2, noise_scale, draw() if noise_scale else None)
            else:
                start, previous = (*past, None, None)[:2]
                if METHODS[self.algorithm_type].corrects and start is not None:
                    newest = corrected(start, previous, newest)
                past = [newest, *past][:2]
                latents = extrapolated_step(newest, start, t2)
            if on_step is not None:
                on_step(newest.denoised)
        return latents
