"""The loss of a training step against the formulas of the original, computed here from scratch."""

import math
from types import SimpleNamespace

import pytest
import torch

from diffusers_ccld import CCLDPipeline, CCLDScheduler, CCLDUNet2DConditionModel, default_model
from diffusers_ccld.data.encoding import EncodedImages
from diffusers_ccld.training.components import load_components, load_defaults
from diffusers_ccld.training.inputs import TrainingDraws, encode_batch, make_inputs, training_resolution
from diffusers_ccld.training.losses import min_snr_weights, v_prediction_losses


@pytest.fixture
def encoded():
    return EncodedImages(torch.randn(6, 4, 8, 8), torch.rand(6, 4, 8, 8), torch.randn(6, 512))


@pytest.fixture
def draws():
    t = torch.tensor([0.0, 0.1, 0.35, 0.5, 0.75, 0.999])
    return TrainingDraws(t, torch.randn(6, 4, 8, 8), torch.randn(6, 4, 8, 8), torch.arange(6) % 3 == 1)


def test_conditions_are_noised_in_each_dimension_and_stay_directions(encoded, draws):
    scheduler, noise = CCLDScheduler(), 0.1 * torch.randn(6, 512)
    plain = make_inputs(encoded, draws, scheduler, 1.0)
    noised = make_inputs(encoded, draws._replace(condition_noise=noise), scheduler, 1.0)
    for i, is_dropped in enumerate(draws.is_dropped):
        expected = encoded.image_embeds[i] + noise[i]
        expected = 0 * expected if is_dropped else expected / expected.square().sum().sqrt()
        torch.testing.assert_close(noised.condition[i, 0], expected)
    assert torch.equal(noised.target, plain.target) and torch.equal(noised.noisy_latents, plain.noisy_latents)
    assert all(tensor is None or tensor.device.type == "cpu" for tensor in draws.to(torch.device("cpu")))


def test_images_are_encoded_in_the_precision_of_the_run(trainable_folder):
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def encode(mixed_precision):
        accelerator = SimpleNamespace(device=torch.device("cpu"), mixed_precision=mixed_precision)
        return encode_batch({"pixel_values": pixels}, pipe, accelerator)

    exact, half = encode("no"), encode("bf16")
    for tensor, nearly in zip(exact, half):
        assert nearly.dtype == torch.float32
        assert (nearly - tensor).norm() < 0.05 * tensor.norm()
    assert not torch.equal(half.latent_mean, exact.latent_mean)
    assert not torch.equal(half.image_embeds, exact.image_embeds)
    assert all(map(torch.equal, encode("fp16"), exact))
    from_cache = {name: tensor + 1 for name, tensor in exact._asdict().items()}
    accelerator = SimpleNamespace(device=torch.device("cpu"), mixed_precision="bf16")
    assert all(map(torch.equal, encode_batch(from_cache, pipe, accelerator), from_cache.values()))


def test_the_steps_loss_is_the_formulas(encoded, draws):
    unet = CCLDUNet2DConditionModel(block_out_channels=(64, 64), layers_per_block=1, mapping_dim=64)
    inputs = make_inputs(encoded, draws, CCLDScheduler(), 0.5)
    with torch.no_grad():
        losses = v_prediction_losses(
            unet(inputs.noisy_latents, inputs.timesteps, inputs.condition).sample, inputs.target
        )

    for i in range(6):
        t = draws.t[i].double().item()
        alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
        x0 = 0.5 * (
            encoded.latent_mean[i].double() + encoded.latent_std[i].double() * draws.posterior_noise[i].double()
        )
        noise = draws.noise[i].double()
        condition = torch.zeros(512) if i % 3 == 1 else encoded.image_embeds[i]
        with torch.no_grad():
            v = unet((alpha * x0 + sigma * noise).float()[None], 1000 * t - 1, condition[None]).sample[0].double()
        expected = (v - (alpha * noise - sigma * x0)).square().mean().item()
        assert losses[i].item() == pytest.approx(expected, abs=1e-6)


def test_min_snr_weights_are_the_papers():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    alpha, sigma = torch.cos(math.pi * t / 2), torch.sin(math.pi * t / 2)
    snr = (alpha / sigma) ** 2
    torch.testing.assert_close(min_snr_weights(alpha, sigma, 5.0), snr.clamp(max=5.0) / (snr + 1))
    ends = min_snr_weights(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 5.0)
    assert ends.tolist() == [0.0, 0.0]


def test_resolution(pipe):
    assert training_resolution(None, 32, pipe.vae) == (256, (4, 32, 32))
    assert training_resolution(64, 32, pipe.vae) == (64, (4, 8, 8))
    with pytest.raises(ValueError, match="multiple of 8"):
        training_resolution(60, 32, pipe.vae)


def test_default_names_the_bundled_model():
    scheduler = load_components("default", ["scheduler"])["scheduler"]
    assert scheduler.config == CCLDScheduler.from_pretrained(default_model(), subfolder="scheduler").config
    assert load_defaults("default") == load_defaults(default_model())
