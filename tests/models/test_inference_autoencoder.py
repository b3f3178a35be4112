"""Folded upsamplers and overwriting blocks must compute the same function and leave the autoencoder as it was."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffusers_ccld.models.inference_autoencoder import use_inference_autoencoder


def operations(network, inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("size", [(1, 1), (4, 7)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_folded_upsampler_is_the_same_function(size, bias):
    torch.manual_seed(0)
    network = nn.Sequential(Upsample2D(3, use_conv=True, out_channels=5, bias=bias).double())
    inputs = torch.randn(2, 3, *size, dtype=torch.float64)
    expected, before = network(inputs), operations(network, inputs)
    use_inference_autoencoder(network)
    # Weights are added up in float32, and borders do not differ in that.
    torch.testing.assert_close(network(inputs), expected, atol=1e-6, rtol=0)
    assert operations(network, inputs) == before * 16 // 36


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder(4, 3, ("UpDecoderBlock2D",) * 3, (8, 16, 16), norm_num_groups=4).eval()


def test_a_decoder_is_the_same_function_and_has_the_same_gradients(decoder):
    inputs = torch.randn(2, 4, 5, 6)
    plain = copy.deepcopy(decoder)
    use_inference_autoencoder(decoder)
    with torch.no_grad():
        expected, result = plain(inputs), decoder(inputs)
        assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
    for network in (plain, decoder):
        network(inputs).square().mean().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), decoder.parameters()))


@torch.no_grad()
@pytest.mark.parametrize("changed", ["conv_in", "up_blocks.0.upsamplers.0.conv", "up_blocks.1.resnets.0.conv1"])
def test_changed_weights_are_noticed(decoder, changed):
    inputs = torch.randn(1, 4, 4, 4)
    use_inference_autoencoder(decoder)
    before = decoder(inputs)
    decoder.get_submodule(changed).weight.data.mul_(1.5)  # counts no version
    expected = Decoder(4, 3, ("UpDecoderBlock2D",) * 3, (8, 16, 16), norm_num_groups=4).eval()
    expected.load_state_dict(decoder.state_dict())
    assert not torch.allclose(decoder(inputs), before)
    torch.testing.assert_close(decoder(inputs), expected(inputs), atol=1e-5, rtol=1e-5)


def test_what_does_something_else_computes_as_before():
    torch.manual_seed(0)
    adapted, hooked = Upsample2D(8, use_conv=True), Upsample2D(8, use_conv=True)
    adapted.conv = nn.Sequential(adapted.conv)  # as a LoRA wraps it
    hooked.conv.register_forward_hook(lambda module, inputs, output: output + 1)
    network = nn.ModuleList(
        [
            Upsample2D(8),
            Upsample2D(8, use_conv_transpose=True),
            Upsample2D(8, use_conv=True, kernel_size=5, padding=2),
            Upsample2D(8, use_conv=True, norm_type="rms_norm", eps=1e-5, elementwise_affine=True),
            Upsample2D(8, use_conv=True, interpolate=False),
            adapted,
            hooked,
            ResnetBlock2D(in_channels=8, groups=4, temb_channels=None, output_scale_factor=2.0),
            ResnetBlock2D(in_channels=8, groups=4, temb_channels=None, up=True),
            ResnetBlock2D(in_channels=8, groups=4, temb_channels=None, non_linearity="relu"),
        ]
    ).eval()
    inputs = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        call = lambda module: module(inputs, temb=None) if isinstance(module, ResnetBlock2D) else module(inputs)  # noqa: E731
        expected = [call(module) for module in network]
        before = inputs.clone()
        use_inference_autoencoder(network)
        for module, output in zip(network, expected):
            torch.testing.assert_close(call(module), output, atol=1e-5, rtol=1e-5)
    assert torch.equal(inputs, before)


def test_pipelines_decode_fast_and_save_the_bytes_that_they_loaded(pipe, pipeline_folder, tmp_path):
    pipe("a red fox", num_inference_steps=1, height=64, width=64)
    names = {type(module).__name__ for module in pipe.vae.decoder.modules()}
    assert {"InferenceUpsample2D", "InferenceResnetBlock2D", "InferenceConv2d"} <= names
    pipe.save_pretrained(tmp_path)
    for path in pipeline_folder.rglob("*.safetensors"):
        assert (tmp_path / path.relative_to(pipeline_folder)).read_bytes() == path.read_bytes()
    loaded = AutoencoderKL.from_pretrained(tmp_path, subfolder="vae")
    assert not any("Inference" in type(module).__name__ for module in loaded.modules())
