"""Attention of the U-Net."""

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from .inference_layers import records_nothing


class SpatialAttnProcessor:
    """Self-attention between the pixels of (N, C, H, W), copied once to rows (N, H·W, C) for the projections.

    diffusers' own processor copies a transposed view for each of the three projections. It is the fallback when a
    mask or cross-attention is given. `set_attention_backend` of the network chooses the implementation.
    """

    _attention_backend = None  # diffusers sets it, on each processor that has it

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if encoder_hidden_states is not None or attention_mask is not None:
            return AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        num_images, channels, height, width = hidden_states.shape
        rows = attn.group_norm(hidden_states).permute(0, 2, 3, 1).reshape(num_images, height * width, channels)
        query, key, value = (
            project(rows).unflatten(-1, (attn.heads, -1)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        attended = dispatch_attention_fn(query, key, value, backend=self._attention_backend).flatten(2)
        attended = attn.to_out[0](attended).transpose(1, 2).reshape(num_images, channels, height, width)
        return attended.add_(hidden_states) if records_nothing() else hidden_states + attended
