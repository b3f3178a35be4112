"""Faster networks for painting: layout in memory, folded upsamplers, compilation."""

import functools

import torch
from diffusers import ModelMixin
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F

from ..pipelines.pipeline_ccld import CCLDPipeline
from ..utils.errors import first_line


def fold_upsamplers(decoder: nn.Module) -> None:
    """Makes one transposed convolution of each doubling by nearest neighbours and the 3×3 convolution behind it.

    Such a convolution sees nine pixels, of which only four are different ones. Weights that meet the same pixel can be
    added up beforehand: 16 products for each input pixel and pair of channels in place of 36. Outputs differ by
    rounding (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?").

    The decoder is then good for nothing but evaluating it: its folded weights are other ones than those of its class,
    and what is saved of it cannot be loaded.

    Args:
        decoder: Of an autoencoder; it is changed in place. No U-Net, whose layers may be told what size to make.
    """
    for module in list(decoder.modules()):
        for name, child in module.named_children():
            if _can_be_folded(child):
                module.register_module(name, _folded(child))


def _can_be_folded(module: nn.Module) -> bool:
    if not isinstance(module, Upsample2D) or not module.interpolate or module.norm is not None:
        return False
    conv = getattr(module, "conv", None)
    if type(conv) is not nn.Conv2d:  # a LoRA's, say
        return False
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


@torch.no_grad()
def _folded(upsampler: Upsample2D) -> Upsample2D:
    conv = upsampler.conv
    with torch.device("meta"):  # its own random weights would take longer than all else
        folded = Upsample2D(upsampler.channels, use_conv_transpose=True, out_channels=upsampler.out_channels)
    # A weight meets the four copies of a pixel: the kernel of both operations is that of the one, spread by 2×2 ones.
    padded = F.pad(conv.weight.float(), (1, 1, 1, 1))
    kernels = sum(padded[..., row : row + 4, column : column + 4] for row in (0, 1) for column in (0, 1))
    kernels = kernels.flip(2, 3).transpose(0, 1)  # a transposed convolution has its inputs first
    folded.conv.weight = nn.Parameter(kernels.to(conv.weight.dtype).contiguous())
    folded.conv.bias = conv.bias
    return folded


def lay_out(*networks: ModelMixin) -> None:
    """Stores the weights of convolutions channels-last on a CPU, where that is faster; results differ by rounding."""
    for network in networks:
        if network.device.type == "cpu":
            network.to(memory_format=torch.channels_last)


# Sizes and batches that a network is compiled for; torch.compile's own limit is 8, beyond which it gives up silently.
MAX_COMPILATIONS = 64


def arrange_networks(pipe: CCLDPipeline) -> None:
    """Folds and lays out the U-Net and the autoencoder, in place, as they paint fastest on a CPU; nothing elsewhere.

    What they compute differs by rounding. Save nothing of it: the decoder is another network (`fold_upsamplers`).
    """
    if pipe.vae.device.type == "cpu":
        fold_upsamplers(pipe.vae.decoder)
    lay_out(pipe.unet, pipe.vae)


def require_compiler() -> None:
    """Raises `ValueError` if torch.compile would find no C++ compiler, which it calls for networks on a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # torch has no public way to look for the compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            "Compiling needs a C++ compiler, and none was found: install g++, or name one in the variable CXX. "
            f"({first_line(error)})"
        ) from error


def compile_networks(pipe: CCLDPipeline) -> None:
    """Has the U-Net and the decoder compiled when they are next called.

    They are compiled for every size, batch and number of conditions anew. On a CPU their weights become constants,
    packed for its instructions: what changes them in place afterwards, as fusing a LoRA does, is not seen.
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

    # The settings hold for one thread, and are asked for at whichever call compiles: no option of torch.compile.
    @functools.wraps(forward)
    def call(*args, **kwargs):
        with inductor.patch(settings), dynamo.patch(recompile_limit=MAX_COMPILATIONS):
            return compiled(*args, **kwargs)

    return call
