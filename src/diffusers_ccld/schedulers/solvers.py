"""The sampling algorithms as tables and pure functions that move a sample from one time to another.

A network's prediction at time t splits the sample, x = α·x₀ + σ·ε. The pseudo numerical methods extrapolate ε over a
step, DPM-Solver++ and UniPC x₀. Without extrapolation both are DDIM.

Samples may be tensors of torch or arrays of numpy: only arithmetic is used, and torch is not imported.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

Sample = Any  # a tensor or an array

# Adams–Bashforth weights of the newest noise prediction and its predecessors, by their number.
ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class Stage(NamedTuple):
    """One stage of a Runge–Kutta step over an interval.

    Attributes:
        at: Place in the interval at which the network is evaluated: 0 is its beginning, 1 its end.
        to: Place in the interval to which the sample then moves, from the beginning.
        weights: Weights of the step's noise predictions in that move, the newest first.
    """

    at: float
    to: float
    weights: tuple[float, ...]


# Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds", and its second-order relative.
PSEUDO_RUNGE_KUTTA = (
    Stage(0, 0.5, (1.0,)),
    Stage(0.5, 0.5, (1.0,)),
    Stage(0.5, 1, (1.0,)),
    Stage(1, 1, (1 / 6, 2 / 6, 2 / 6, 1 / 6)),
)
PSEUDO_IMPROVED_EULER = (Stage(0, 1, (1.0,)), Stage(1, 1, (1 / 2, 1 / 2)))
SINGLE_EVALUATION = (Stage(0, 1, (1.0,)),)


@dataclass(frozen=True)
class Method:
    """A family of samplers.

    Attributes:
        scheme: Stages of its Runge–Kutta steps.
        warm_up: Number of Runge–Kutta steps before the steps of one evaluation; `None` for all.
        order: Number of predictions that a step of one evaluation mixes, its own included.
        extrapolates: The mixed quantity, "epsilon" or "denoised".
        corrects: True if an evaluation also corrects the step that led to it.
        num_steps: Usual number of steps; docs/performance.md has the measurements.
    """

    scheme: tuple[Stage, ...] = SINGLE_EVALUATION
    warm_up: int | None = 0
    order: int = 1
    extrapolates: str = "epsilon"
    corrects: bool = False
    num_steps: int = 50


METHODS = {
    "ddpm": Method(),
    "ddim": Method(),
    "prk": Method(PSEUDO_RUNGE_KUTTA, None),
    "plms": Method(PSEUDO_RUNGE_KUTTA, 3, 4),
    "pie": Method(PSEUDO_IMPROVED_EULER, None),
    "plms2": Method(PSEUDO_IMPROVED_EULER, 1, 2),
    "iplms": Method(order=4),
    "dpmpp": Method(order=2, extrapolates="denoised", num_steps=10),
    "unipc": Method(order=2, extrapolates="denoised", corrects=True, num_steps=10),
}


class Evaluation(NamedTuple):
    """One network evaluation of a run: stage number `stage` of `scheme` in the interval from t1 to t2."""

    scheme: tuple[Stage, ...]
    stage: int
    t1: float
    t2: float

    def time(self, fraction: float) -> float:
        return self.t1 + fraction * (self.t2 - self.t1)

    @property
    def t(self) -> float:
        return self.time(self.scheme[self.stage].at)


def alpha_sigma(t: float) -> tuple[float, float]:
    """Signal and noise coefficients at one time."""
    return math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)


def ddim_noise_scale(t1: float, t2: float, eta: float) -> float:
    """Standard deviation of a step's noise, with a share `eta` of DDPM's: Song et al. 2021, equation 16."""
    if t2 >= t1:  # an inversion adds no noise
        return 0.0
    (alpha1, sigma1), (alpha2, sigma2) = alpha_sigma(t1), alpha_sigma(t2)
    return eta * sigma2 / sigma1 * (1 - alpha1**2 / alpha2**2) ** 0.5


def ddim_step(newest: "Prediction", t2: float, noise_scale: float, noise: Sample | None) -> Sample:
    """Song et al. 2021, equation 12: x at time t2. The step to t = 0 returns the denoised sample."""
    alpha2, sigma2 = alpha_sigma(t2)
    x = alpha2 * newest.denoised + (sigma2**2 - noise_scale**2) ** 0.5 * newest.epsilon
    return x if noise is None else x + noise_scale * noise


def split_prediction(output: Sample, x: Sample, t: float, prediction_type: str) -> "Prediction":
    """Splits a sample by a network's output, "v_prediction" or "epsilon", at time t."""
    alpha, sigma = alpha_sigma(t)
    if prediction_type == "epsilon":
        return Prediction(t, x, (x - sigma * output) / alpha, output)
    return Prediction(t, x, alpha * x - sigma * output, sigma * x + alpha * output)


def along_epsilon(x: Sample, epsilon: Sample, t1: float, t2: float) -> Sample:
    """Moves x from t1 to t2 along a noise prediction: denoise, then noise again."""
    alpha1, sigma1 = alpha_sigma(t1)
    alpha2, sigma2 = alpha_sigma(t2)
    return alpha2 / alpha1 * x + (sigma2 - alpha2 / alpha1 * sigma1) * epsilon


class Prediction(NamedTuple):
    """A network's prediction for the sample x at time t: x₀ (`denoised`) and ε (`epsilon`)."""

    t: float
    x: Sample
    denoised: Sample
    epsilon: Sample

    def moved(self, t2: float, change: Sample | float = 0.0) -> Sample:
        """x at time t2, if x₀ is `denoised` + `change` between t and t2."""
        alpha, sigma = alpha_sigma(self.t)
        alpha2, sigma2 = alpha_sigma(t2)
        # Without a change, nothing is divided by σ: an inversion begins at σ = 0.
        x = alpha2 * self.denoised + sigma2 * self.epsilon
        return x if isinstance(change, float) else x + (alpha2 - sigma2 * alpha / sigma) * change

    def at(self, x: Sample) -> "Prediction":
        """The prediction of the same x₀ for another sample."""
        alpha, sigma = alpha_sigma(self.t)
        return Prediction(self.t, x, self.denoised, (x - alpha * self.denoised) / sigma)


def log_ratio(t: float) -> float:
    """ln(α/σ), the time variable of DPM-Solver++ and UniPC; ∞ at t = 0 and −∞ at t = 1."""
    alpha, sigma = alpha_sigma(t)
    if min(alpha, sigma) < 1e-12:
        return math.copysign(math.inf, alpha - sigma)
    return math.log(alpha / sigma)


def slope(newest: Prediction, previous: Prediction) -> Sample | float:
    """Change of x₀ between two predictions over that of ln(α/σ); 0 if the interval is infinite."""
    interval = log_ratio(newest.t) - log_ratio(previous.t)
    return 0.0 if math.isinf(interval) else (newest.denoised - previous.denoised) / interval


def extrapolated_step(newest: Prediction, previous: Prediction | None, t2: float) -> Sample:
    """A step of DPM-Solver++(2M), algorithm 2 of Lu et al. 2022 (arXiv:2211.01095): x at time t2.

    The first step of a run is a step of DDIM, as are steps to t = 0 and from t = 1.
    """
    interval = log_ratio(t2) - log_ratio(newest.t)
    if previous is None or math.isinf(interval):
        return newest.moved(t2)
    return newest.moved(t2, interval / 2 * slope(newest, previous))


def corrected(start: Prediction, previous: Prediction | None, end: Prediction) -> Prediction:
    """UniPC's corrector with B₂, algorithm 1 of Zhao et al. 2023 (arXiv:2302.04867): `end` with a better sample.

    It repeats a step with the prediction at its end, which the step itself did not have. A step from t = 0 is not
    corrected.

    Args:
        start: The prediction at the beginning of the step.
        previous: The prediction before it, if any.
        end: The prediction at the end of the step.
    """
    h = log_ratio(end.t) - log_ratio(start.t)
    if h == -math.inf:
        return end
    change = end.denoised - start.denoised
    if previous is None:
        return end.at(start.moved(end.t, change / 2))
    # These weights make the step exact if x₀ is quadratic in ln(α/σ): equation 9 of the paper.
    ratio = (log_ratio(previous.t) - log_ratio(start.t)) / h
    decay = math.expm1(-h)
    sum_of_weights = -1 / h - 1 / decay
    past = (sum_of_weights + 2 * sum_of_weights / h + 1 / decay) / (1 - ratio)
    change = past * h * slope(start, previous) + (sum_of_weights - past) * change
    return end.at(start.moved(end.t, change))
