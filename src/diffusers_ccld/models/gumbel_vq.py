"""The encoder's side of taming-transformers' GumbelVQ, which stock `VQModel` lacks."""

import functools

import torch
from diffusers import VQModel
from diffusers.models.autoencoders.vq_model import VQEncoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn


class GumbelVQModel(VQModel):
    """A `VQModel` that chooses each code by the largest of the logits that a 1×1 convolution computes.

    The largest logit is not that of the nearest code, which is all that `VQModel` knows to choose. Its decoder is the
    stock one: latents that are codes are nearest to themselves. So a saved folder may be loaded as a plain `VQModel`,
    too, for decoding.

    After `taming/modules/vqvae/quantize.py::GumbelQuantize` in CompVis/taming-transformers, without the noise that the
    original draws even in evaluation.
    """

    @functools.wraps(VQModel.__init__)  # diffusers looks at the signature to tell what belongs to the configuration
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.quantize.proj = nn.Conv2d(self.config.vq_embed_dim, self.config.num_vq_embeddings, 1)

    @apply_forward_hook
    def encode(self, x: torch.Tensor, return_dict: bool = True) -> VQEncoderOutput | tuple[torch.Tensor]:
        """Encodes pictures.

        Args:
            x: (N, 3, H, W) in [−1, 1].
            return_dict: Whether to return an output object in place of a tuple.

        Returns:
            `VQEncoderOutput` whose `latents` are codes, (N, `vq_embed_dim`, h, w); or a tuple with just that.
        """
        indices = self.code_indices(x)
        latents = self.quantize.embedding(indices).permute(0, 3, 1, 2).contiguous()
        return VQEncoderOutput(latents=latents) if return_dict else (latents,)

    def code_indices(self, x: torch.Tensor) -> torch.Tensor:
        """Numbers of the codes of pictures (N, 3, H, W), (N, h, w)."""
        return self.quantize.proj(self.quant_conv(self.encoder(x))).argmax(dim=1)
