import copy
import json

import diffusers
import numpy as np
import pytest
import torch

from diffusers_ccld import CCLDScheduler
from diffusers_ccld.evaluation import scheduler_accuracy
from diffusers_ccld.schedulers.noise_schedule import TIMESTEP_SCHEDULES as SCHEDULES
from diffusers_ccld.schedulers.noise_schedule import (
    cosine_betas,
    inversion_times,
    t_to_alpha_sigma,
    t_to_timestep,
    timestep_to_t,
)
from diffusers_ccld.schedulers.scheduling_ccld import ALGORITHMS
from diffusers_ccld.schedulers.short_lists import ShortList
from support import original_files

REFERENCE = original_files.reference("samplers")
RUNS = [key for key in REFERENCE if "#" not in key and key != "x" and not key.endswith("/steps")]
EVALUATIONS = {
    "ddpm": lambda n: n,
    "ddim": lambda n: n,
    "iplms": lambda n: n,
    "dpmpp": lambda n: n,
    "unipc": lambda n: n,
    "plms2": lambda n: n + 1,
    "plms": lambda n: n + 9,
    "pie": lambda n: 2 * n,
    "prk": lambda n: 4 * n,
}
SHAPE = (2, 4, 8, 8)


def toy_model(x, t):
    """The smooth velocity field of the reference runs."""
    return 0.8 * torch.sin(1.7 * x + 2 * t) - 0.3 * x


def toy_run(scheduler, x, eta=0.0):
    for k, timestep in enumerate(scheduler.timesteps):
        noise = original_files.inputs(f"sampler.noise.{k}", SHAPE).to(x.dtype)
        v = toy_model(x, timestep_to_t(timestep.double()))
        x = scheduler.step(v, timestep, x, eta=eta, variance_noise=noise).prev_sample
    return x


@pytest.mark.parametrize("key", RUNS)
def test_every_sampler_agrees_with_the_original(key):
    kind, num_steps, method = key.split("/")
    algorithm, _, eta = method.partition("_eta")
    scheduler = CCLDScheduler(algorithm_type=algorithm, timestep_schedule=kind if kind in SCHEDULES else "spliced")
    x = torch.from_numpy(REFERENCE["x"]).double()
    steps = torch.from_numpy(REFERENCE[f"{kind}/{num_steps}/steps"])
    if kind == "img2img":
        scheduler.set_timesteps(timesteps=t_to_timestep(steps))
        x = scheduler.add_noise(original_files.inputs("sampler.init", SHAPE).double(), x, scheduler.timesteps[:1])
    elif kind == "reverse":
        np.testing.assert_allclose(inversion_times(int(num_steps), "spliced", 0.9), steps, atol=1e-7)
        scheduler.set_timesteps(timesteps=t_to_timestep(steps))
    else:
        scheduler.set_timesteps(int(num_steps))
    result = toy_run(scheduler, x, float(eta or 0))
    tolerance = max(5 * REFERENCE[f"{key}#float32_error"].item(), 2e-5)
    assert original_files.relative_error(result, REFERENCE[key]) < tolerance


@pytest.mark.parametrize(
    "key", [key for key in REFERENCE if key.endswith("/steps") and key.split("/")[0] in SCHEDULES]
)
def test_schedules_agree_with_the_original(key):
    schedule, num_steps, _ = key.split("/")
    scheduler = CCLDScheduler(algorithm_type="ddim", timestep_schedule=schedule)
    scheduler.set_timesteps(int(num_steps))
    np.testing.assert_allclose(timestep_to_t(scheduler.timesteps.double()), REFERENCE[key], atol=1e-7)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 50])
def test_evaluations_are_as_many_as_the_originals(algorithm, num_steps):
    scheduler = CCLDScheduler(algorithm_type=algorithm)
    scheduler.set_timesteps(num_steps)
    expected = EVALUATIONS[algorithm](num_steps)
    if algorithm == "plms":
        expected = num_steps + 3 * min(num_steps, 3)
    assert len(scheduler.timesteps) == expected


@pytest.mark.parametrize(
    "algorithm, stock",
    [("dpmpp", diffusers.DPMSolverMultistepScheduler), ("unipc", diffusers.UniPCMultistepScheduler)],
)
@pytest.mark.parametrize("schedule", ["spliced", "log"])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
def test_newer_samplers_agree_with_diffusers(algorithm, stock, schedule, num_steps):
    """diffusers' scheduler gets a chain of exactly our times."""
    ours = CCLDScheduler(algorithm_type=algorithm, timestep_schedule=schedule)
    ours.set_timesteps(num_steps)
    times = timestep_to_t(ours.timesteps.double())
    alphas_cumprod = torch.cat([torch.ones(1), t_to_alpha_sigma(times.flip(0))[0] ** 2])
    theirs = stock(
        num_train_timesteps=num_steps,
        trained_betas=(1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).numpy(),
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    theirs.set_timesteps(num_steps)
    x = torch.from_numpy(REFERENCE["x"]).double()
    expected = toy_run(ours, x)
    for t, timestep in zip(times, theirs.timesteps):
        x = theirs.step(toy_model(x, t), timestep, x).prev_sample
    assert original_files.relative_error(x, expected) < 1e-4


@pytest.mark.parametrize("algorithm", ["dpmpp", "unipc"])
def test_newer_samplers_begin_at_pure_noise(algorithm):
    scheduler = CCLDScheduler(algorithm_type=algorithm, timestep_schedule="linear")
    x = torch.from_numpy(REFERENCE["x"]).double()
    expected = scheduler_accuracy.solution(x, 150)
    errors = []
    for num_steps in (10, 40):
        scheduler.set_timesteps(num_steps)
        assert scheduler.timesteps[0] == 999
        errors.append(original_files.relative_error(toy_run(scheduler, x), expected))
    assert errors[1] < min(errors[0] / 8, 0.02)


def test_a_scheduler_can_be_used_twice():
    scheduler = CCLDScheduler()
    x = torch.from_numpy(REFERENCE["x"])
    results = []
    for _ in range(2):
        scheduler.set_timesteps(5)
        results.append(toy_run(scheduler, x))
    assert torch.equal(*results)


def solution(x, t1):
    """The sample at t = 0 from the one at t1, by Runge–Kutta in 150 small steps."""
    scheduler = CCLDScheduler(algorithm_type="prk")
    scheduler.set_timesteps(timesteps=t_to_timestep(torch.linspace(t1, 0, 151, dtype=torch.float64)[:-1]))
    return toy_run(scheduler, x)


@pytest.mark.parametrize("algorithm", ["prk", "plms", "pie", "plms2", "iplms", "dpmpp", "unipc", "ddim"])
def test_beginning_anywhere_solves_the_same_equation(algorithm):
    """Also between two Runge–Kutta stages; a wrong end of a step of 1/200 would cause an error of about that size."""
    start = 100 if algorithm in ("prk", "pie") else 0
    for begin in range(start, start + 13):
        scheduler = CCLDScheduler(algorithm_type=algorithm)
        scheduler.set_timesteps(200)
        scheduler.set_begin_index(begin)
        x = torch.from_numpy(REFERENCE["x"]).double()
        expected = solution(x, timestep_to_t(scheduler.timesteps[begin].item()))
        for timestep in scheduler.timesteps[begin:]:
            v = toy_model(x, timestep_to_t(timestep.double()))
            x = scheduler.step(v, timestep, x).prev_sample
        error = original_files.relative_error(x, expected)
        assert error < (0.05 if algorithm == "ddim" else 0.002), begin


@pytest.mark.parametrize("algorithm, order", scheduler_accuracy.ORDERS.items())
def test_coming_back_from_an_inversion_converges_with_the_samplers_order(algorithm, order):
    start = original_files.inputs("sampler.init", SHAPE).double()
    coarse, fine = (scheduler_accuracy.round_trip_error(algorithm, n, start) for n in (50, 200))
    assert fine < coarse / 4**order * 1.8
    assert coarse < (0.02 if algorithm == "unipc" else {1: 0.5, 2: 0.01}[order])


def test_a_run_begins_where_its_first_timestep_stands():
    scheduler = CCLDScheduler(algorithm_type="prk")
    scheduler.set_timesteps(10)
    # The fourth stage of one step and the first of the next have the same time; the result is the latter.
    assert scheduler.index_for_timestep(scheduler.timesteps[3]) == 4
    x = torch.zeros(SHAPE)
    scheduler.step(x, scheduler.timesteps[4], x)
    assert scheduler.step_index == 5


def test_the_prediction_of_the_denoised_sample():
    x0, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    scheduler = CCLDScheduler()
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[:1]
    output = scheduler.step(scheduler.get_velocity(x0, noise, t), t[0], scheduler.add_noise(x0, noise, t))
    torch.testing.assert_close(output.pred_original_sample, x0, atol=1e-5, rtol=0)


def test_predictions_of_noise_lead_to_the_same_sample():
    def run(kind):
        scheduler = CCLDScheduler(prediction_type=kind)
        scheduler.set_timesteps(8)
        x = torch.from_numpy(REFERENCE["x"]).double()
        for timestep in scheduler.timesteps:
            t = timestep_to_t(timestep.double())
            alpha, sigma = t_to_alpha_sigma(t)
            v = toy_model(x, t)
            output = v if kind == "v_prediction" else sigma * x + alpha * v
            x = scheduler.step(output, timestep, x).prev_sample
        return x

    assert original_files.relative_error(run("epsilon"), run("v_prediction")) < 1e-4


def test_noise_and_velocity_rotate_the_sample():
    scheduler = CCLDScheduler()
    x0, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    timesteps = torch.tensor([0, 499, 999])
    x, v = scheduler.add_noise(x0, noise, timesteps), scheduler.get_velocity(x0, noise, timesteps)
    alpha, sigma = (c.float().reshape(3, 1, 1, 1) for c in t_to_alpha_sigma((timesteps + 1) / 1000))
    torch.testing.assert_close(alpha * x - sigma * v, x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(sigma * x + alpha * v, noise, atol=1e-5, rtol=0)
    assert scheduler.add_noise(x0.half(), noise.half(), timesteps).dtype == torch.float16


def test_half_precision_samples_keep_their_type():
    scheduler = CCLDScheduler()
    scheduler.set_timesteps(3)
    x = torch.randn(SHAPE, dtype=torch.bfloat16)
    assert scheduler.step(x, scheduler.timesteps[0], x).prev_sample.dtype == torch.bfloat16


def test_ddpm_noise_comes_from_the_generators():
    def run(generator):
        scheduler = CCLDScheduler(algorithm_type="ddpm")
        scheduler.set_timesteps(4)
        x = torch.ones(SHAPE)
        for timestep in scheduler.timesteps:
            x = scheduler.step(toy_model(x, 0.5), timestep, x, generator=generator).prev_sample
        return x

    def seeded(seed):
        return torch.Generator().manual_seed(seed)

    assert torch.equal(run(seeded(0)), run(seeded(0)))
    assert not torch.equal(run(seeded(0)), run(seeded(1)))
    together = run([seeded(0), seeded(1)])
    assert torch.equal(together, torch.cat([together[:1], run([seeded(2), seeded(1)])[1:]]))


def test_saving_and_loading(tmp_path):
    CCLDScheduler(algorithm_type="iplms", timestep_schedule="log").save_pretrained(tmp_path)
    loaded = CCLDScheduler.from_pretrained(tmp_path)
    assert loaded.config.algorithm_type == "iplms" and loaded.config.timestep_schedule == "log"


STOCK = ["DDIMScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"]


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("is_loaded", [False, True])
def test_stock_schedulers_take_the_network_for_what_it_is(name, is_loaded, tmp_path):
    ours = CCLDScheduler(algorithm_type="iplms", timestep_schedule="log")
    if is_loaded:
        ours.save_pretrained(tmp_path)
        ours = CCLDScheduler.from_pretrained(tmp_path)
    stock = getattr(diffusers, name).from_config(ours.config)
    assert stock.config.prediction_type == "v_prediction"
    torch.testing.assert_close(stock.alphas_cumprod, ours.alphas_cumprod, atol=1e-6, rtol=1e-3)
    back = CCLDScheduler.from_config(stock.config)
    assert back.config.prediction_type == "v_prediction"
    assert (back.config.algorithm_type, back.config.timestep_schedule) == ("iplms", "log")
    assert CCLDScheduler.from_config(stock.config, algorithm_type="pie").config.algorithm_type == "pie"


@pytest.mark.parametrize("name", STOCK)
def test_stock_schedulers_load_from_a_saved_folder(name, tmp_path):
    CCLDScheduler(algorithm_type="iplms").save_pretrained(tmp_path)
    stock = getattr(diffusers, name).from_pretrained(tmp_path)
    assert stock.config.prediction_type == "v_prediction"
    stock.save_pretrained(tmp_path / "again")
    assert CCLDScheduler.from_pretrained(tmp_path / "again").config.algorithm_type == "iplms"


def test_a_stock_schedulers_algorithm_is_not_ours():
    sde = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    assert CCLDScheduler.from_config(sde.config).config.algorithm_type == "plms"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"algorithm_type": "euler"}, "'euler'.*plms"),
        ({"timestep_schedule": "karras"}, "'karras'.*spliced"),
        ({"timestep_schedule": "linear"}, "t = 1.*plms"),
        ({"timestep_schedule": "linear", "algorithm_type": "ddim", "prediction_type": "epsilon"}, "t = 1.*epsilon"),
        ({"prediction_type": "score"}, "'score'.*v_prediction"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CCLDScheduler(**options)


def test_wrong_use_is_refused():
    scheduler = CCLDScheduler()
    x = torch.zeros(SHAPE)
    with pytest.raises(ValueError, match=r"set_timesteps"):
        scheduler.step(x, 0, x)
    for arguments in ({}, {"num_inference_steps": 0}, {"num_inference_steps": 5, "timesteps": [5.0]}):
        with pytest.raises(ValueError, match=r"num_inference_steps"):
            scheduler.set_timesteps(**arguments)
    for timesteps in ([], [500.0, -1.0], [500.0, 100.0, 300.0], [100.0, 300.0, 200.0], [100.0, 100.0]):
        with pytest.raises(ValueError, match=r"descending"):
            scheduler.set_timesteps(timesteps=timesteps)
    for timesteps in ([999.0, 500.0], [1500.0, 100.0], [float("nan")], [500.0, -20.0]):
        with pytest.raises(ValueError, match=r"between −1 and"):
            scheduler.set_timesteps(timesteps=timesteps)
    ddim = CCLDScheduler(algorithm_type="ddim")
    ddim.set_timesteps(timesteps=[999.0, 500.0])
    assert torch.isfinite(toy_run(ddim, torch.randn(SHAPE))).all()
    scheduler.set_timesteps(1)
    for begin_index in (-1, 4):
        with pytest.raises(ValueError, match=f"begin_index={begin_index}"):
            scheduler.set_begin_index(begin_index)
    ddpm = CCLDScheduler(algorithm_type="ddpm")
    ddpm.set_timesteps(3)
    with pytest.raises(ValueError, match=r"eta=0.3"):
        ddpm.step(x, ddpm.timesteps[0], x, eta=0.3)
    with pytest.raises(ValueError, match=r"eta=0.5"):
        scheduler.step(x, scheduler.timesteps[0], x, eta=0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        scheduler.step(x, scheduler.timesteps[0], x, eta=2)
    for timestep in scheduler.timesteps:
        x = scheduler.step(x, timestep, x).prev_sample
    with pytest.raises(ValueError, match=r"another run"):
        scheduler.step(x, 0, x)


def test_printing_is_short_and_saving_is_as_before(tmp_path):
    scheduler = CCLDScheduler(algorithm_type="dpmpp")
    for made in (scheduler, CCLDScheduler.from_config(scheduler.config), copy.deepcopy(scheduler)):
        printed = repr(made)
        assert len(printed.splitlines()) < 20 and "996 more" in printed and '"algorithm_type": "dpmpp"' in printed
        assert len(repr(made.config)) < 1000
    betas = scheduler.config.trained_betas
    assert betas == list(betas) and len(betas) == 1000
    assert json.dumps(betas, indent=2) == json.dumps(list(betas), indent=2)
    assert repr(ShortList([1, 2, 3, 4])) == "[1, 2, 3, 4]"
    scheduler.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["trained_betas"] == cosine_betas(1000)
