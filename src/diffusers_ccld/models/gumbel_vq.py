"""The encoder of taming-transformers' GumbelVQ, which diffusers' `VQModel` lacks."""

import functools

import torch
from diffusers import VQModel
from diffusers.models.autoencoders.vq_model import VQEncoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn


class GumbelVQModel(VQModel):
    """A `VQModel` that chooses each code by the largest logit of a 1×1 convolution.

    `VQModel` chooses the nearest code instead. The decoder is the same, as a code is its own nearest code. A saved
    folder may also be loaded as a plain `VQModel`, for decoding.

    After `taming/modules/vqvae/quantize.py::GumbelQuantize` in CompVis/taming-transformers, without the noise that the
    original draws even in evaluation.
    """

    @functools.wraps(VQModel.__init__)  # diffusers reads the names of the configuration off the signature
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.quantize.proj = nn.Conv2d(self.config.vq_embed_dim, self.config.num_vq_embeddings, 1)

    @apply_forward_hook
    def encode(self, x: torch.Tensor, return_dict: bool = True) -> VQEncoderOutput | tuple[torch.Tensor]:
        """Encodes images.

        Args:
            x: (N, 3, H, W) in [−1, 1].
            return_dict: Returns an output object if true, else a tuple.

        Returns:
            `VQEncoderOutput` with codes as `latents`, (N, `vq_embed_dim`, h, w); or a tuple with just these.
        """
        indices = self.code_indices(x)
        latents = self.quantize.embedding(indices).permute(0, 3, 1, 2).contiguous()
        return VQEncoderOutput(latents=latents) if return_dict else (latents,)

    def code_indices(self, x: torch.Tensor) -> torch.Tensor:
        """Indices (N, h, w) of the codes of images (N, 3, H, W)."""
        return self.quantize.proj(self.quant_conv(self.encoder(x))).argmax(dim=1)
