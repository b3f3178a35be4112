import math

import pytest
import torch

from diffusers_ccld.schedulers.noise_schedule import (
    TIMESTEP_SCHEDULES,
    alpha_sigma_to_t,
    apply_timestep_schedule,
    cosine_betas,
    log_snr_to_t,
    sampling_times,
    t_to_alpha_sigma,
    t_to_timestep,
    timestep_to_t,
)

TIMES = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)


def test_coefficients_lie_on_the_unit_circle_and_lead_back_to_the_time():
    alpha, sigma = t_to_alpha_sigma(TIMES)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(TIMES))
    torch.testing.assert_close(alpha_sigma_to_t(alpha, sigma), TIMES)
    alpha, sigma = t_to_alpha_sigma(TIMES)
    torch.testing.assert_close(log_snr_to_t(2 * (alpha.log() - sigma.log())), TIMES)


def test_timesteps_lead_back_to_times():
    torch.testing.assert_close(timestep_to_t(t_to_timestep(TIMES)), TIMES)
    assert timestep_to_t(999) == 1.0 and timestep_to_t(-1) == 0.0


@pytest.mark.parametrize("schedule", TIMESTEP_SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 5, 50, 1000])
def test_sampling_times_descend_within_the_unit_interval(schedule, num_steps):
    times = sampling_times(num_steps, schedule)
    assert times.shape == (num_steps,) and times.dtype == torch.float64
    assert (times.diff() < 0).all() and times[0] <= 1 and times[-1] > 0


def test_the_first_spliced_time_is_just_below_one():
    first = sampling_times(50, "spliced")[0].item()
    assert 0.99 < first < 1
    assert sampling_times(50, "linear")[0] == 1


def test_the_splice_is_continuous():
    before, after = apply_timestep_schedule(
        torch.tensor([0.80074256, 0.80074258], dtype=torch.float64) / (1 + 0.80074257 - 0.48536712), "spliced"
    )
    assert math.isclose(before, after, abs_tol=1e-6)


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match=r"'karras'.*spliced"):
        apply_timestep_schedule(TIMES, "karras")


def test_betas_multiply_up_to_the_signal():
    alphas_cumprod = (1 - torch.tensor(cosine_betas(), dtype=torch.float64)).cumprod(0)
    expected = t_to_alpha_sigma((torch.arange(1000, dtype=torch.float64) + 1) / 1000)[0] ** 2
    torch.testing.assert_close(alphas_cumprod[:-1], expected[:-1])
    assert 0 < alphas_cumprod[-1] < 1e-8
