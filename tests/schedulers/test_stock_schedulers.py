"""diffusers' schedulers, made from our scheduler's config, solve our equation and sample our distribution."""

import json

import diffusers
import pytest
import torch

from diffusers_ccld import CCLDScheduler
from diffusers_ccld.evaluation.scheduler_accuracy import (
    BROKEN,
    CONSISTENCY,
    DEVIATION,
    MEAN,
    SAMPLERS,
    SOLVERS,
    SchedulerCase,
    make_noise,
    sample,
    sampled_moments,
    smooth_velocity,
    solution,
    solver_errors,
)

STOCK = [case for case in (*SOLVERS, *SAMPLERS, CONSISTENCY) if case.name != "CCLDScheduler"]

# Root mean square error over the solution's standard deviation, at 15 and at 50 steps.
LIMITS = {
    "CCLDScheduler, algorithm_type=plms": (0.008, 0.008),
    "CCLDScheduler, algorithm_type=ddim": (0.13, 0.045),
    "CCLDScheduler, algorithm_type=dpmpp": (0.03, 0.01),
    "CCLDScheduler, algorithm_type=unipc": (0.02, 0.01),
    "CCLDScheduler, algorithm_type=unipc, timestep_schedule=linear": (0.006, 0.002),
    "UniPCMultistepScheduler": (0.004, 0.001),
    "DPMSolverMultistepScheduler": (0.024, 0.003),
    "DPMSolverMultistepScheduler, use_karras_sigmas=True": (0.08, 0.009),
    "DPMSolverSinglestepScheduler": (0.05, 0.008),
    "DEISMultistepScheduler": (0.03, 0.005),
    "LMSDiscreteScheduler": (0.036, 0.0045),
    "KDPM2DiscreteScheduler": (0.008, 0.001),
    "DDIMScheduler": (0.11, 0.035),
    "EulerDiscreteScheduler": (0.11, 0.035),
    "PNDMScheduler": (0.11, 0.035),
    "HeunDiscreteScheduler, use_exponential_sigmas=True": (0.03, 0.008),
    "HeunDiscreteScheduler, use_karras_sigmas=True": (0.045, 0.008),
}

# Largest difference of the sampled standard deviation from 0.5, at 15 and at 50 steps. Ours and DDPM are of first
# order; LCM draws from the distribution exactly.
DEVIATION_LIMITS = {
    "CCLDScheduler, algorithm_type=ddpm": (0.12, 0.05),
    "DDPMScheduler": (0.1, 0.04),
    "EulerAncestralDiscreteScheduler": (0.1, 0.04),
    "KDPM2AncestralDiscreteScheduler": (0.09, 0.01),
    "DPMSolverMultistepScheduler, algorithm_type=sde-dpmsolver++": (0.03, 0.02),
    "DPMSolverSinglestepScheduler, algorithm_type=sde-dpmsolver++": (0.11, 0.06),
    "DPMSolverSDEScheduler, noise_sampler_seed=0": (0.03, 0.01),
    "LCMScheduler": (0.01, 0.01),
}


@pytest.fixture(scope="module", params=["constructed", "loaded"])
def config(request, tmp_path_factory):
    scheduler = CCLDScheduler()
    if request.param == "loaded":
        folder = tmp_path_factory.mktemp("scheduler")
        scheduler.save_pretrained(folder)
        scheduler = CCLDScheduler.from_pretrained(folder)
    return scheduler.config


@pytest.fixture(scope="module")
def noise():
    return make_noise(4)


@pytest.fixture(scope="module")
def expected(noise):
    return solution(noise)


@pytest.mark.parametrize("case", STOCK, ids=str)
def test_the_network_and_its_noise_are_taken_for_what_they_are(case, config):
    scheduler = case.make(config)
    assert scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(scheduler.alphas_cumprod, CCLDScheduler().alphas_cumprod, atol=1e-6, rtol=1e-3)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == pytest.approx(999, abs=5)
    back = CCLDScheduler.from_config(scheduler.config)
    assert back.config.algorithm_type == config["algorithm_type"]


def test_the_fine_solution_is_what_our_scheduler_approaches(noise, expected):
    """Two independent ways to the solution; the scheduler's begins at t = 0.996."""
    ours = SchedulerCase("CCLDScheduler", {"algorithm_type": "prk"}).make(CCLDScheduler().config)
    result = sample(ours, smooth_velocity, noise, 200)
    assert (result - expected).square().mean().sqrt() / expected.std() < 0.008
    torch.testing.assert_close(solution(noise, 200), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", SOLVERS, ids=str)
def test_solvers_solve_the_same_equation(case, config, noise, expected):
    errors = [solver_errors(case, config, n, noise, expected)[0] for n in (15, 50)]
    assert all(error < limit for error, limit in zip(errors, LIMITS[str(case)])), errors


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_what_the_docs_warn_of_is_still_so(case, config, noise, expected):
    assert solver_errors(case, config, 50, noise, expected)[0] > 0.3


@pytest.mark.parametrize("case", [*SAMPLERS, CONSISTENCY], ids=str)
def test_stochastic_schedulers_sample_the_right_distribution(case, config, noise):
    for num_steps, limit in zip((15, 50), DEVIATION_LIMITS[str(case)]):
        mean, deviation = sampled_moments(case, config, num_steps, noise.float())
        assert mean == pytest.approx(MEAN, abs=0.02)
        assert deviation == pytest.approx(DEVIATION, abs=limit)


def test_what_a_user_chose_survives_the_way_through_ours(config):
    chosen = SchedulerCase("DDIMScheduler", {"timestep_spacing": "leading"}).make(config)
    back = CCLDScheduler.from_config(chosen.config)
    assert SchedulerCase("EulerDiscreteScheduler").make(back.config).config.timestep_spacing == "leading"
    assert SchedulerCase("DDIMScheduler").make(CCLDScheduler().config).config.timestep_spacing == "trailing"


@pytest.mark.parametrize("copy", [dict, lambda config: {**config}, lambda config: json.loads(json.dumps(config))])
@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler"]
)
def test_a_plain_copy_of_the_config_serves_as_well(name, copy):
    config = CCLDScheduler(algorithm_type="unipc").config
    stock, expected = (getattr(diffusers, name).from_config(c) for c in (copy(config), config))
    assert stock.config.algorithm_type == expected.config.algorithm_type in ("dpmsolver++", "deis")
    assert stock.config.prediction_type == "v_prediction" and stock.config.trained_betas == config["trained_betas"]
    assert CCLDScheduler.from_config(copy(stock.config)).config.algorithm_type == "unipc"
    assert CCLDScheduler.from_config(copy(config)).config.algorithm_type == "unipc"
    assert CCLDScheduler.from_config(copy(config), algorithm_type="ddim").config.algorithm_type == "ddim"
