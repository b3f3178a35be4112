"""Layers of diffusers' autoencoders that compute faster on a CPU while no gradients are recorded.

Weights and names stay those of diffusers' classes: a changed autoencoder is saved, moved and trained as before.
"""

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional as F

from .inference_layers import InferenceConv2d, KeepsCopy, infers_on_cpu, records_nothing, use_inference_layers


@torch.no_grad()
def folded_kernel(weight: torch.Tensor) -> torch.Tensor:
    """Kernel of the transposed convolution that doubles by nearest neighbours and convolves at once.

    A 3×3 convolution sees nine pixels, but after doubling only four of them differ. Weights that meet the same pixel
    are added in advance: 16 products for each input pixel and pair of channels instead of 36 (Shi et al. 2016, "Is the
    deconvolution layer the same as a convolutional layer?", arXiv:1609.07009).

    Args:
        weight: Kernel of the convolution, (O, I, 3, 3).

    Returns:
        Kernel for stride 2 and padding 1, (I, O, 4, 4).
    """
    # Each weight meets four copies of a pixel: the joint kernel is the 3×3 kernel convolved with 2×2 ones.
    padded = F.pad(weight.float(), (1, 1, 1, 1))
    kernels = sum(padded[..., row : row + 4, column : column + 4] for row in (0, 1) for column in (0, 1))
    # Transposed convolutions store input channels first.
    return kernels.flip(2, 3).transpose(0, 1).to(weight.dtype).contiguous()


def can_be_folded(upsampler: Upsample2D) -> bool:
    """True if an upsampler doubles by nearest neighbours and then convolves 3×3, with nothing in between."""
    conv = getattr(upsampler, "conv", None)
    if not upsampler.interpolate or upsampler.norm is not None:
        return False
    if type(conv) not in (nn.Conv2d, InferenceConv2d):  # such as a LoRA's
        return False
    if conv._forward_hooks or conv._forward_pre_hooks or "forward" in vars(conv):
        return False
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


class InferenceUpsample2D(KeepsCopy, Upsample2D):
    """Doubles and convolves in one operation while it infers."""

    def forward(self, hidden_states: torch.Tensor, output_size: int | None = None, *args, **kwargs) -> torch.Tensor:
        if output_size is not None or not can_be_folded(self):
            return super().forward(hidden_states, output_size, *args, **kwargs)
        conv = self.conv
        if not infers_on_cpu(hidden_states, conv.weight) or conv.weight.is_inference():
            return super().forward(hidden_states, output_size, *args, **kwargs)
        kernel = self.form_of(conv.weight, lambda: folded_kernel(conv.weight))
        return F.conv_transpose2d(hidden_states, kernel, conv.bias, stride=2, padding=1)


class InferenceResnetBlock2D(ResnetBlock2D):
    """A residual block that overwrites its intermediate results while it infers.

    At 256×256 pixels these have 32 MB and more. Memory of that size is new, and cleared, each time: that takes longer
    than the arithmetic.
    """

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None, *args, **kwargs) -> torch.Tensor:
        if temb is not None or not self._can_overwrite(input_tensor):
            return super().forward(input_tensor, temb, *args, **kwargs)
        hidden_states = self.conv1(F.silu(self.norm1(input_tensor), inplace=True))
        hidden_states = self.conv2(F.silu(self.norm2(hidden_states), inplace=True))
        return hidden_states.add_(input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor))

    def _can_overwrite(self, input_tensor):
        return (
            records_nothing()
            and type(input_tensor) is torch.Tensor
            and self.upsample is None
            and self.downsample is None
            and self.time_embedding_norm == "default"
            and type(self.nonlinearity) is nn.SiLU
            and type(self.norm1) is type(self.norm2) is nn.GroupNorm
            and self.output_scale_factor == 1
            and not self.training
        )


CLASSES = {Upsample2D: InferenceUpsample2D, ResnetBlock2D: InferenceResnetBlock2D}


def use_inference_autoencoder(vae: nn.Module) -> nn.Module:
    """Changes the classes of an autoencoder's layers to those of this file and of `inference_layers`.

    Weights, names and, but for rounding, outputs stay the same.

    Returns:
        The autoencoder.
    """
    use_inference_layers(vae)
    for module in vae.modules():
        module.__class__ = CLASSES.get(type(module), type(module))
    return vae
