"""Doubling a picture and convolving it, in one operation."""

import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F


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
