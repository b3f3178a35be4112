"""Small U-Nets, ours and stock ones, with or without an input for the guidance scale."""

import torch
from diffusers import UNet2DConditionModel

from diffusers_ccld import CCLDUNet2DConditionModel

STOCK = {
    "sample_size": 4,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 512,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}


def make_unet(kind, time_cond_proj_dim=16):
    if kind == "stock":
        return UNet2DConditionModel(**STOCK, time_cond_proj_dim=time_cond_proj_dim).eval()
    return CCLDUNet2DConditionModel(
        sample_size=4,
        block_out_channels=(64, 64),
        layers_per_block=1,
        mapping_dim=64,
        time_cond_proj_dim=time_cond_proj_dim,
    ).eval()


def question(count=2):
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(count, 4, 4, 4, generator=generator)
    condition = torch.randn(count, 1, 512, generator=generator)
    return noisy, torch.full((count,), 500.0), condition
