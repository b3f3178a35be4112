"""A folded upsampler must compute the same function with fewer multiplications."""

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffusers_ccld import default_model
from diffusers_ccld.inference.loading import load_pipeline
from diffusers_ccld.inference.optimization import fold_upsamplers


def operations(network, inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("size", [(1, 1), (4, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_upsampler_is_the_same_function(size, bias):
    torch.manual_seed(0)
    network = nn.Sequential(Upsample2D(3, use_conv=True, out_channels=5, bias=bias).double())
    inputs = torch.randn(2, 3, *size, dtype=torch.float64)
    expected, before = network(inputs), operations(network, inputs)
    fold_upsamplers(network)
    # Weights are added up in float32, and borders are no exception.
    torch.testing.assert_close(network(inputs), expected, atol=1e-6, rtol=0)
    assert operations(network, inputs) == before * 16 // 36


def test_a_decoder_is_the_same_function_in_fewer_operations():
    torch.manual_seed(0)
    decoder = Decoder(4, 3, ("UpDecoderBlock2D",) * 3, (8, 16, 16), norm_num_groups=4).eval()
    inputs = torch.randn(2, 4, 5, 6)
    expected, before = decoder(inputs), operations(decoder, inputs)
    fold_upsamplers(decoder)
    assert (decoder(inputs) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert operations(decoder, inputs) < before


def test_what_does_something_else_is_left_alone():
    resampling = Upsample2D(3)
    transposed = Upsample2D(3, use_conv_transpose=True)
    wide = Upsample2D(3, use_conv=True, kernel_size=5, padding=2)
    normalised = Upsample2D(3, use_conv=True, norm_type="rms_norm", eps=1e-5, elementwise_affine=True)
    uninterpolated = Upsample2D(3, use_conv=True, interpolate=False)
    adapted = Upsample2D(3, use_conv=True)
    adapted.conv = nn.Sequential(adapted.conv)  # as a LoRA wraps it
    left = [resampling, transposed, wide, normalised, uninterpolated, adapted]
    network = nn.ModuleList(left)
    fold_upsamplers(network)
    assert all(after is before for after, before in zip(network, left))


def test_commands_decode_with_folded_upsamplers():
    pipe = load_pipeline(default_model(), "fp32", torch.device("cpu"))
    upsamplers = [module for module in pipe.vae.decoder.modules() if isinstance(module, Upsample2D)]
    assert len(upsamplers) == 3 and all(type(module.conv) is nn.ConvTranspose2d for module in upsamplers)
