"""The meaning of a network's output, v or ε, at one time."""

from dataclasses import dataclass

import torch
from diffusers.schedulers import SchedulerMixin

from .noise_schedule import timestep_to_t
from .solvers import alpha_sigma, split_prediction


@dataclass(frozen=True)
class Parameterization:
    """The meaning of a network's output for a sample x = α·x₀ + σ·ε at one time.

    Attributes:
        t: The time, 0 to 1.
        prediction_type: The network's output: "v_prediction" or "epsilon".
    """

    t: float
    prediction_type: str = "v_prediction"

    @classmethod
    def at(cls, timestep: torch.Tensor, scheduler: SchedulerMixin) -> "Parameterization":
        """The parameterization of a scheduler's network at a timestep, a scalar in diffusers' units."""
        config = scheduler.config
        return cls(timestep_to_t(timestep.double(), config.num_train_timesteps).item(), config.prediction_type)

    def denoised(self, output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The denoised sample x₀, (N, C, H, W); of ε infinite where α is zero."""
        return split_prediction(output, x, self.t, self.prediction_type).denoised

    def along_denoised(self, output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A positive multiple of x₀, (N, C, H, W), which is finite at every time: α·x₀ of ε, x₀ of v."""
        if self.prediction_type == "epsilon":
            return x - alpha_sigma(self.t)[1] * output
        return self.denoised(output, x)

    @property
    def score_weight(self) -> float:
        """Weight of −∇ log p(x) in the output: ε = −σ·∇ log p(x), and v = (ε − σ·x) / α; of v infinite at α = 0."""
        alpha, sigma = alpha_sigma(self.t)
        return sigma if self.prediction_type == "epsilon" else sigma / alpha
