"""All samplers as one diffusers scheduler, with one network evaluation per `step`."""

import itertools
import json
import math
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .names import ALGORITHMS, SINGLE_STEP, is_ccld_scheduler
from .noise_schedule import (
    cosine_betas,
    sampling_times,
    sigmas_to_t,
    t_to_alpha_sigma,
    t_to_timestep,
    timestep_to_t,
)
from .short_lists import ShortList, printed_config
from .solvers import (
    ADAMS_BASHFORTH,
    METHODS,
    SINGLE_EVALUATION,
    Evaluation,
    along_epsilon,
    corrected,
    ddim_noise_scale,
    ddim_step,
    extrapolated_step,
    split_prediction,
)

PREDICTION_TYPES = ("v_prediction", "epsilon")

# As good in 10 steps of one evaluation as the original's "plms" in 50: docs/performance.md.
RECOMMENDED_ALGORITHM = "dpmpp"
USUAL_STEPS = 50

# Closer to t = 1, α is so close to zero that the multistep samplers, which divide by it, lose all precision.
LATEST_TIME = 0.9999

# Values of `algorithm_type` in diffusers' schedulers. A config with one of them does not name our algorithm.
STOCK_ALGORITHMS = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis")

# The configuration's second key for the algorithm, which diffusers' schedulers carry along unread.
ALGORITHM_KEY = "_ccld_algorithm_type"

# Options of diffusers' schedulers with defaults that are wrong here; docs/schedulers.md has the measurements.
FOR_STOCK_SCHEDULERS = {
    "timestep_spacing": "trailing",  # even steps from t = 1 to 0; "leading" starts later, though from pure noise
    "clip_sample": False,  # DDIM and DDPM would clip the denoised sample to [−1, 1]; latents exceed it
    "sigma_max": math.exp(5),  # start of Karras and exponential sigmas, at a log-SNR of −10 like our own
}


@dataclass
class CCLDSchedulerOutput(BaseOutput):
    """Output of `CCLDScheduler.step`.

    Attributes:
        prev_sample: The sample for the next network evaluation; after the last step, the result.
        pred_original_sample: The denoised sample that this evaluation alone predicts.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


class CCLDScheduler(SchedulerMixin, ConfigMixin):
    """The samplers of CCLD: DDPM, DDIM, the pseudo numerical methods of second and fourth order, and newer ones.

    Each network evaluation is one entry of `timesteps` and one call of `step`; Runge–Kutta stages repeat times.
    For n steps the network is evaluated n times with "ddpm", "ddim", "iplms", "dpmpp" and "unipc", n + 1 times with
    "plms2", n + 9 with "plms", 2n with "pie" and 4n with "prk". Timesteps are floats in diffusers' units, 1000·t − 1.

    diffusers' schedulers can be made from this one's config, as in `DDIMScheduler.from_config(scheduler.config)`, and
    this one from theirs.

    After `diffusion/sampling.py` of crowsonkb/v-diffusion-pytorch; Song et al. 2021 (DDIM), Liu et al. 2022 (PNDM),
    Zhang & Chen 2022 (iPNDM, here "iplms"). Beyond the original: Lu et al. 2022 (DPM-Solver++(2M), "dpmpp"), Zhao et
    al. 2023 (UniPC of second order, "unipc").

    Args:
        num_train_timesteps: Number of timesteps in the unit interval of time.
        algorithm_type: One of "ddpm", "ddim", "prk", "plms", "pie", "plms2", "iplms", "dpmpp", "unipc".
        timestep_schedule: One of "spliced", "ddpm", "log", "linear"; see `noise_schedule.apply_timestep_schedule`.
            "linear" begins at t = 1, where methods that extrapolate noise predictions are not defined.
        prediction_type: The network's output: "v_prediction" (CCLD) or "epsilon".
        trained_betas: Betas of the discrete chain for diffusers' schedulers made from this config, by default those of
            the cosine schedule. This scheduler's own steps use the continuous schedule.

    Raises:
        ValueError: If an option is unknown, or "linear" meets a sampler that is undefined at t = 1.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        algorithm_type: str = "plms",
        timestep_schedule: str = "spliced",
        prediction_type: str = "v_prediction",
        trained_betas: list[float] | None = None,
    ):
        if algorithm_type in STOCK_ALGORITHMS:
            algorithm_type = "plms"
            self.register_to_config(algorithm_type=algorithm_type)
        if algorithm_type not in ALGORITHMS:
            raise ValueError(f"Unknown algorithm_type {algorithm_type!r}; choose one of {', '.join(ALGORITHMS)}.")
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f"Unknown prediction_type {prediction_type!r}; choose one of {', '.join(PREDICTION_TYPES)}."
            )
        sampling_times(1, timestep_schedule)  # raises if it is unknown
        if timestep_schedule == "linear" and not _can_begin_at_one(algorithm_type, prediction_type):
            raise ValueError(
                f'timestep_schedule="linear" begins at t = 1, where {algorithm_type!r} with {prediction_type} divides '
                f'by zero. Use it with "ddim", "dpmpp" or "unipc" and v_prediction, or take the "spliced" schedule.'
            )
        betas = cosine_betas(num_train_timesteps) if trained_betas is None else [float(beta) for beta in trained_betas]
        self._register_for_stock_schedulers(
            trained_betas=ShortList(betas),
            prediction_type=prediction_type,
            **FOR_STOCK_SCHEDULERS,
            **{ALGORITHM_KEY: algorithm_type},
        )

        self.betas = torch.tensor(betas, dtype=torch.float32)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.cumprod(1.0 - torch.tensor(betas, dtype=torch.float64), dim=0).float()
        self.init_noise_sigma = 1.0

        self.num_inference_steps = None
        self.timesteps = t_to_timestep(torch.linspace(1, 0, num_train_timesteps + 1)[:-1], num_train_timesteps)
        self._plan = []
        self._reset()

    def _register_for_stock_schedulers(self, **values):
        # `from_config` of another class drops values left at a default; the network would then count as one that
        # predicts noise. Values registered here count as given.
        if "_use_default_values" in self.config:
            values["_use_default_values"] = sorted(set(self.config["_use_default_values"]) - values.keys())
        self.register_to_config(**values)

    def register_to_config(self, **kwargs) -> None:
        """Adds to the configuration.

        The `from_config` of diffusers' schedulers skips keys that the configuration lists as left at a default.
        `algorithm_type` is always listed: DPM-Solver and DEIS have an option of that name with other values. A second,
        private key keeps the value; these schedulers carry it along, and `CCLDScheduler.from_config` reads it.
        """
        defaults = kwargs.get(
            "_use_default_values", getattr(self, "_internal_dict", {}).get("_use_default_values", [])
        )
        kwargs["_use_default_values"] = [*(key for key in defaults if key != "algorithm_type"), "algorithm_type"]
        super().register_to_config(**kwargs)

    def to_json_string(self) -> str:
        """The configuration for a file; the algorithm has only its private key, so that others can load it."""
        config = json.loads(super().to_json_string())
        config.pop("algorithm_type", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    @classmethod
    def extract_init_dict(cls, config_dict: dict, **kwargs) -> tuple[dict, dict, dict]:
        """Picks the arguments of `__init__` from a config of ours or of a diffusers' scheduler made from it."""
        config_dict = dict(config_dict)
        algorithm_type = config_dict.pop(ALGORITHM_KEY, None)
        if algorithm_type is not None:
            if config_dict.get("algorithm_type") not in ALGORITHMS:
                config_dict["algorithm_type"] = algorithm_type
            defaults = config_dict.get("_use_default_values", [])
            config_dict["_use_default_values"] = [key for key in defaults if key != "algorithm_type"]
        return super().extract_init_dict(config_dict, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {printed_config(self.config)}"

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @property
    def is_stochastic(self) -> bool:
        """True if the algorithm can add noise in its steps."""
        return self.config.algorithm_type in SINGLE_STEP

    def accepts_eta(self, eta: float) -> bool:
        """True if the algorithm can add this share of noise: "ddim" adds any, "ddpm" all, the others none."""
        return self.config.algorithm_type == "ddim" or (self.config.algorithm_type == "ddpm" and eta == 1)

    @property
    def step_index(self) -> int | None:
        """Index of the next evaluation in `timesteps`; `None` before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index in `timesteps` at which sampling begins, if a pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begins sampling at `timesteps[begin_index]`; a pipeline calls it before the loop.

        Raises:
            ValueError: If the index is out of range.
        """
        if not 0 <= begin_index < len(self.timesteps):
            raise ValueError(f"begin_index={begin_index} is not an index into {len(self.timesteps)} timesteps.")
        self._begin_index = begin_index

    def _reset(self):
        self._step_index = None
        self._begin_index = None
        self._step_start = None  # time and sample at the start of the current step
        self._stages_done = 0  # evaluations made in the current step
        self._epsilons = []  # noise predictions, the newest first: those of the current step, then one per past step
        self._past = []  # predictions of past steps, the newest first, for methods that extrapolate x₀

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[float] | torch.Tensor | None = None,
        sigmas: list[float] | torch.Tensor | None = None,
    ) -> None:
        """Plans a run.

        Args:
            num_inference_steps: Number of steps. They cost `len(scheduler.timesteps)` evaluations.
            device: Device of `timesteps`.
            timesteps: In place of a number of steps, the descending times at which they begin, in diffusers' units;
                the run ends at t = 0. Ascending times make an inversion, from an image to the noise from which it
                would be sampled; it ends at the last of them.
            sigmas: The same times as ratios σ/α of noise to signal, with or without a final 0.

        Raises:
            ValueError: If not exactly one is given, or the times neither descend nor ascend.
        """
        if sum(given is not None for given in (num_inference_steps, timesteps, sigmas)) != 1:
            raise ValueError("Give one of num_inference_steps, timesteps and sigmas.")
        if sigmas is not None:
            times = sigmas_to_t(sigmas).tolist()
        elif timesteps is None:
            if num_inference_steps < 1:
                raise ValueError(f"num_inference_steps={num_inference_steps}: at least one step is needed.")
            times = sampling_times(num_inference_steps, self.config.timestep_schedule).tolist()
        else:
            times = [self._time(float(timestep)) for timestep in timesteps]
        latest = 1.0 if _can_begin_at_one(self.config.algorithm_type, self.config.prediction_type) else LATEST_TIME
        if not all(0 <= t <= latest for t in times):
            raise ValueError(
                f"timesteps must lie between −1 and {t_to_timestep(latest, self.config.num_train_timesteps):g}, "
                f"t = 0 and t = {latest:g}, for {self.config.algorithm_type!r}."
            )
        is_inversion = len(times) > 1 and times[0] < times[1]
        intervals = list(itertools.pairwise(times if is_inversion else [*times, 0.0]))
        if not times or any((t1 < t2) != is_inversion or t1 == t2 for t1, t2 in intervals):
            raise ValueError(
                "timesteps must be a descending list of times above t = 0 (timestep −1), or an ascending one."
            )

        method = METHODS[self.config.algorithm_type]
        self._plan = []
        for i, (t1, t2) in enumerate(intervals):
            is_runge_kutta = method.warm_up is None or i < method.warm_up
            scheme = method.scheme if is_runge_kutta else SINGLE_EVALUATION
            self._plan += [Evaluation(scheme, stage, t1, t2) for stage in range(len(scheme))]

        self.num_inference_steps = len(intervals)
        evaluation_times = torch.tensor([evaluation.t for evaluation in self._plan], dtype=torch.float64)
        self.timesteps = t_to_timestep(evaluation_times, self.config.num_train_timesteps).float().to(device)
        self._reset()

    @property
    def averaged_intervals(self) -> list[tuple[float, float]]:
        """Times at which each planned step of a Runge–Kutta method begins and ends."""
        return [(step.t1, step.t2) for step in self._plan if len(step.scheme) > 1 and step.stage == 0]

    def _time(self, timestep: float) -> float:
        return timestep_to_t(timestep, self.config.num_train_timesteps)

    def index_for_timestep(self, timestep: float | torch.Tensor) -> int:
        """Index in `timesteps` of the entry nearest to `timestep`. Of equal entries, the one that begins a step."""
        distance = (self.timesteps.cpu() - float(timestep)).abs()
        candidates = (distance <= distance.min() + 1e-3).nonzero().flatten().tolist()
        return min(candidates, key=lambda i: (self._plan[i].stage, i))

    def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
        """Returns the sample: the network takes x_t as it is."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> CCLDSchedulerOutput | tuple[torch.Tensor]:
        """Moves the sample to the next time with one network evaluation.

        Args:
            model_output: The network's prediction for `sample` at `timestep`, (N, C, H, W).
            timestep: The current entry of `timesteps`. Only the first call uses it; later calls follow `timesteps`, in
                which times repeat.
            sample: The network's input, (N, C, H, W).
            eta: Share of DDPM's noise that "ddim" adds, 0 to 1; "ddpm" always adds all of it.
            generator: Source of that noise.
            variance_noise: That noise itself, in place of a generator, (N, C, H, W).
            return_dict: Returns an output object if true, else a tuple.

        Returns:
            `CCLDSchedulerOutput`, or a tuple of its two samples.

        Raises:
            ValueError: If `set_timesteps` was not called, the run is over, or the algorithm does not take `eta`.
        """
        if not self._plan:
            raise ValueError("Call set_timesteps before step.")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta} must lie in [0, 1].")
        if eta and not self.accepts_eta(eta):
            raise ValueError(f'eta={eta} is an option of "ddim", not of {self.config.algorithm_type!r}.')
        if self._step_index is None:
            self._step_index = self.index_for_timestep(timestep) if self._begin_index is None else self._begin_index
        if self._step_index >= len(self._plan):
            raise ValueError("All timesteps have been used; call set_timesteps to begin another run.")

        evaluation = self._plan[self._step_index]
        # Differences of noise predictions need more than half precision.
        x, output = sample.to(_working_dtype(sample)), model_output.to(_working_dtype(sample))
        newest = split_prediction(output, x, evaluation.t, self.config.prediction_type)
        if self.is_stochastic:
            eta = 1.0 if self.config.algorithm_type == "ddpm" else eta
            prev_sample = self._ddim(newest, evaluation, eta, generator, variance_noise)
        elif METHODS[self.config.algorithm_type].extrapolates == "denoised":
            prev_sample = self._exponential(newest, evaluation.t2)
        else:
            prev_sample = self._pseudo_numerical(x, newest.epsilon, evaluation)
        self._step_index += 1

        prev_sample, pred_original_sample = prev_sample.to(sample.dtype), newest.denoised.to(sample.dtype)
        if not return_dict:
            return (prev_sample, pred_original_sample)
        return CCLDSchedulerOutput(prev_sample=prev_sample, pred_original_sample=pred_original_sample)

    def _ddim(self, newest, evaluation, eta, generator, variance_noise):
        noise_scale = ddim_noise_scale(evaluation.t1, evaluation.t2, eta)
        if not noise_scale:
            variance_noise = None
        elif variance_noise is None:
            variance_noise = randn_tensor(
                newest.x.shape, generator=generator, device=newest.x.device, dtype=newest.x.dtype
            )
        return ddim_step(newest, evaluation.t2, noise_scale, variance_noise)

    def _pseudo_numerical(self, x, epsilon, evaluation):
        """One stage of a Runge–Kutta step, or one Adams–Bashforth step."""
        order = METHODS[self.config.algorithm_type].order
        scheme, stage = evaluation.scheme, evaluation.scheme[evaluation.stage]
        if self._stages_done == 0:
            self._step_start = (evaluation.t, x)
        self._epsilons.insert(0, epsilon)
        self._stages_done += 1

        is_whole = self._stages_done == evaluation.stage + 1
        if len(scheme) == 1:
            weights = ADAMS_BASHFORTH[min(order, len(self._epsilons))]
        elif is_whole:
            weights = stage.weights
        else:  # Sampling began in the middle of this step; the trapezoidal rule covers the rest of the interval.
            weights = (1.0,) if self._stages_done == 1 else (1 / 2, 1 / 2)
        mixed = sum(weight * noise for weight, noise in zip(weights, self._epsilons))

        t1, x1 = self._step_start
        prev_sample = along_epsilon(x1, mixed, t1, evaluation.time(stage.to))

        if evaluation.stage == len(scheme) - 1:
            # One noise prediction is kept of each past step; of a Runge–Kutta step, the mixture.
            past = self._epsilons[self._stages_done :]
            if is_whole:
                past.insert(0, epsilon if len(scheme) == 1 else mixed)
            self._epsilons = past[: order - 1]
            self._stages_done = 0
        return prev_sample

    def _exponential(self, newest, t2):
        """One step of DPM-Solver++(2M), or of UniPC."""
        method = METHODS[self.config.algorithm_type]
        start, previous = (*self._past, None, None)[:2]
        if method.corrects and start is not None:
            newest = corrected(start, previous, newest)
        self._past = [newest, *self._past][: method.order]
        return extrapolated_step(newest, start, t2)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = α·x₀ + σ·ε.

        Args:
            original_samples: x₀, (N, …).
            noise: ε, of the same shape.
            timesteps: (N,) or (1,), in diffusers' units, whole numbers or not.
        """
        alpha, sigma = self._coefficients(original_samples, timesteps)
        return alpha * original_samples + sigma * noise

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The training target v = α·ε − σ·x₀; arguments as for `add_noise`."""
        alpha, sigma = self._coefficients(sample, timesteps)
        return alpha * noise - sigma * sample

    def _coefficients(self, sample, timesteps):
        t = self._time(torch.as_tensor(timesteps, device=sample.device).to(_working_dtype(sample)))
        shape = (-1,) + (1,) * (sample.ndim - 1)
        return tuple(coefficient.to(sample.dtype).reshape(shape) for coefficient in t_to_alpha_sigma(t))


def usual_num_steps(scheduler: SchedulerMixin, *preferred: int | None) -> int:
    """Returns the first preferred number of steps that is not `None`, or else the usual number of the scheduler.

    Args:
        scheduler: Ours or diffusers' own.
        preferred: Numbers by priority, such as the requested one and the model's own; `None` for missing ones.
    """
    for number in preferred:
        if number is not None:
            return number
    if not is_ccld_scheduler(scheduler):
        return USUAL_STEPS
    return METHODS[scheduler.config.algorithm_type].num_steps


def _working_dtype(sample: torch.Tensor) -> torch.dtype:
    return torch.promote_types(sample.dtype, torch.float32)


def _can_begin_at_one(algorithm_type: str, prediction_type: str) -> bool:
    """True if the first step does not divide by α, which is zero at t = 1."""
    return algorithm_type in ("ddim", "ddpm", "dpmpp", "unipc") and prediction_type == "v_prediction"
