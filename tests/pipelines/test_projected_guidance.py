"""Guidance with a share of its parallel part. The oracle is diffusers' own function."""

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.pipelines.guidance import guided_prediction
from diffusers_ccld.pipelines.projected_guidance import ProjectedGuidance, parallel_part
from diffusers_ccld.schedulers.noise_schedule import t_to_alpha_sigma
from support.networks import make_unet, question

T = torch.tensor(0.4)
TIMESTEP = torch.tensor(399.0)


@pytest.fixture
def unet():
    return make_unet("ours", None)


def denoised(noisy, velocity):
    alpha, sigma = t_to_alpha_sigma(T)
    return alpha * noisy - sigma * velocity


def velocity_of(noisy, image):
    alpha, sigma = t_to_alpha_sigma(T)
    return (alpha * noisy - image) / sigma


@torch.no_grad()
@pytest.mark.parametrize("parallel", [0.0, 0.3])
def test_one_condition_is_guided_as_in_diffusers(unet, parallel):
    noisy, _, condition = question()
    cond, none = (guided_prediction(unet, noisy, TIMESTEP, condition, torch.full((2, 1), w)) for w in (1.0, 0.0))
    images = denoised(noisy, cond), denoised(noisy, none)
    expected = normalized_guidance(*images, 4.0, eta=parallel, use_original_formulation=True)
    mine = ProjectedGuidance(parallel=parallel, scheduler=CCLDScheduler())(
        unet, noisy, TIMESTEP, condition, torch.full((2, 1), 5.0)
    )
    torch.testing.assert_close(mine, velocity_of(noisy, expected), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_of_several_conditions_the_wanted_ones_are_the_prediction(unet):
    """With prompts of weights 3 and 1, and −2 of another, the wanted are ¾ and ¼; the rest is at right angles."""
    noisy, _, condition = question(3)
    condition, noisy = condition[:, 0][None], noisy[:1]
    weights = torch.tensor([[3.0, 1.0, -2.0]])
    wanted = denoised(noisy, guided_prediction(unet, noisy, TIMESTEP, condition, torch.tensor([[0.75, 0.25, 0.0]])))
    guided = denoised(noisy, guided_prediction(unet, noisy, TIMESTEP, condition, weights))
    projected = ProjectedGuidance(parallel=0.0, scheduler=CCLDScheduler())
    mine = denoised(noisy, projected(unet, noisy, TIMESTEP, condition, weights))
    angle = torch.cosine_similarity((mine - wanted).flatten(), wanted.flatten(), dim=0)
    assert abs(angle) < 1e-3 < abs(torch.cosine_similarity((guided - wanted).flatten(), wanted.flatten(), dim=0))
    left_out = (guided - mine).flatten()
    assert torch.cosine_similarity(left_out, wanted.flatten(), dim=0).abs() > 0.999


@torch.no_grad()
@pytest.mark.parametrize("timestep", [399.0, 999.0])
def test_a_network_for_noise_is_guided_as_one_for_v(unet, timestep):
    """v = αε − σx₀, and so ε = σx + αv: the same networks, written in the other way."""
    noisy, _, condition = question()
    alpha, sigma = t_to_alpha_sigma(torch.tensor((timestep + 1) / 1000))
    timestep, weights = torch.tensor(timestep), torch.full((2, 1), 3.0)

    class NoiseNetwork(torch.nn.Module):
        config, dtype = unet.config, torch.float32

        def forward(self, x, *args, **kwargs):
            return (sigma * x + alpha * unet(x, *args, **kwargs)[0],)

    for_v, for_noise = (
        ProjectedGuidance(parallel=0.0, scheduler=CCLDScheduler(prediction_type=kind))
        for kind in ("v_prediction", "epsilon")
    )
    expected = sigma * noisy + alpha * for_v(unet, noisy, timestep, condition, weights)
    mine = for_noise(NoiseNetwork(), noisy, timestep, condition, weights)
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


def test_the_parallel_part_in_the_plane():
    vectors = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    along = parallel_part(vectors, torch.tensor([2.0, 0.0]).view(1, 2, 1, 1))
    assert along.flatten().tolist() == [3.0, 0.0]
    assert parallel_part(vectors, torch.zeros(1, 2, 1, 1)).abs().sum() == 0


def test_the_argument_of_the_pipeline(pipe):
    pipe.scheduler = CCLDScheduler(algorithm_type="ddim")
    options = {"prompt": "a fox", "num_inference_steps": 2, "output_type": "latent"}

    def latents(**others):
        return pipe(**options, **others, generator=torch.Generator().manual_seed(0)).images

    usual, projected = latents(guidance_scale=4.0), latents(guidance_scale=4.0, parallel_guidance=0.0)
    assert torch.equal(usual, latents(guidance_scale=4.0, parallel_guidance=1.0))
    assert not torch.allclose(usual, projected, atol=1e-2)
    without = latents(guidance_scale=1.0), latents(guidance_scale=1.0, parallel_guidance=0.0)
    torch.testing.assert_close(*without, atol=1e-5, rtol=0)
    for wrong in (-0.1, 2, "1", float("nan")):
        with pytest.raises(ValueError, match=r"parallel_guidance=.*\[0, 1\]"):
            latents(parallel_guidance=wrong)


def test_a_distilled_network_does_not_have_it(pipe):
    components = {**pipe.components, "unet": make_unet("ours")}
    with pytest.raises(ValueError, match="guidance-distilled"):
        CCLDPipeline(**components)("a fox", parallel_guidance=0.5)
