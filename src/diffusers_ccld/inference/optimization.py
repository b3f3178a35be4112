"""Faster networks for inference: memory format, folded upsamplers, compilation."""

import functools

import torch
from diffusers import ModelMixin
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F

from ..pipelines.pipeline_ccld import CCLDPipeline
from ..utils.errors import first_line


def fold_upsamplers(decoder: nn.Module) -> None:
    """Replaces each nearest-neighbour upsampling and its 3×3 convolution by one transposed convolution.

    The 3×3 convolution sees nine pixels, but after doubling only four of them differ. Weights that meet the same pixel
    are added in advance: 16 products for each input pixel and pair of channels instead of 36. Outputs differ by
    rounding (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?").

    Afterwards the decoder is inference-only: its weights no longer match its class and must not be saved.

    Args:
        decoder: Decoder of an autoencoder, changed in place. A U-Net cannot be folded, because its upsamplers may be
            given an output size.
    """
    for module in list(decoder.modules()):
        for name, child in module.named_children():
            if _can_be_folded(child):
                module.register_module(name, _folded(child))


def _can_be_folded(module: nn.Module) -> bool:
    if not isinstance(module, Upsample2D) or not module.interpolate or module.norm is not None:
        return False
    conv = getattr(module, "conv", None)
    if type(conv) is not nn.Conv2d:  # such as a LoRA's
        return False
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


@torch.no_grad()
def _folded(upsampler: Upsample2D) -> Upsample2D:
    conv = upsampler.conv
    with torch.device("meta"):  # drawing random weights would take most of the time
        folded = Upsample2D(upsampler.channels, use_conv_transpose=True, out_channels=upsampler.out_channels)
    # Each weight meets four copies of a pixel: the joint kernel is the 3×3 kernel convolved with 2×2 ones.
    padded = F.pad(conv.weight.float(), (1, 1, 1, 1))
    kernels = sum(padded[..., row : row + 4, column : column + 4] for row in (0, 1) for column in (0, 1))
    kernels = kernels.flip(2, 3).transpose(0, 1)  # transposed convolutions store input channels first
    folded.conv.weight = nn.Parameter(kernels.to(conv.weight.dtype).contiguous())
    folded.conv.bias = conv.bias
    return folded


def use_channels_last(*networks: ModelMixin) -> None:
    """Stores convolution weights channels-last, for networks on a CPU, where this is faster. Rounding differs."""
    for network in networks:
        if network.device.type == "cpu":
            network.to(memory_format=torch.channels_last)


# Shapes that a network may be compiled for. By default torch.compile silently stops compiling after 8.
MAX_COMPILATIONS = 64


def arrange_networks(pipe: CCLDPipeline) -> None:
    """Optimises the U-Net and the autoencoder for a CPU in place: folded upsamplers, channels-last weights.

    Outputs differ by rounding. On other devices nothing changes. The decoder must not be saved (`fold_upsamplers`).
    """
    if pipe.vae.device.type == "cpu":
        fold_upsamplers(pipe.vae.decoder)
    use_channels_last(pipe.unet, pipe.vae)


def require_compiler() -> None:
    """Raises `ValueError` if torch.compile would find no C++ compiler, which it calls for networks on a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # torch has no public way to look for the compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            "Compiling needs a C++ compiler, but none was found. Install g++, or set the variable CXX. "
            f"({first_line(error)})"
        ) from error


def compile_networks(pipe: CCLDPipeline) -> None:
    """Compiles the U-Net and the decoder at their next call, in place.

    Each new image size, batch size or number of conditions is compiled again. On a CPU the weights become constants:
    changes made to them in place afterwards, such as fusing a LoRA, have no effect.
    """
    # With offloading, `pipe.device` is not the device of the calls; diffusers has no public name for that.
    settings = {"freezing": pipe._execution_device.type == "cpu"}
    for network in (pipe.unet, pipe.vae.decoder):
        network.forward = _compiled(network.forward, settings)


def _compiled(forward, settings):
    # torch has these settings under no public name.
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    compiled = torch.compile(forward, dynamic=False)

    # These settings are per thread and read by the call that compiles, so torch.compile cannot take them as options.
    @functools.wraps(forward)
    def call(*args, **kwargs):
        with inductor.patch(settings), dynamo.patch(recompile_limit=MAX_COMPILATIONS):
            return compiled(*args, **kwargs)

    return call
