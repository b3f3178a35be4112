"""Small models for the suites."""

import torch
from diffusers import AutoencoderKL

from diffusers_ccld import (
    CCLDScheduler,
    CCLDUNet2DConditionModel,
    CLOOBImageProcessor,
    CLOOBTextConfig,
    CLOOBTextModelWithProjection,
    CLOOBTokenizer,
    CLOOBVisionConfig,
    CLOOBVisionModelWithProjection,
)

UNET = {
    "sample_size": 8,
    "block_out_channels": (64, 64, 64, 64),
    "cross_attention_dim": 32,
    "mapping_dim": 64,
    "layers_per_block": 1,
    "attention_head_dim": 32,
}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32}


def pipeline_components(algorithm_type: str = "ddim") -> dict:
    """Components of a small pipeline of 64-pixel images."""
    torch.manual_seed(0)
    return {
        "unet": CCLDUNet2DConditionModel(**UNET).eval(),
        # DDIM, because the multistep samplers amplify rounding in the two steps that the suites take.
        "scheduler": CCLDScheduler(algorithm_type=algorithm_type),
        "vae": AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            sample_size=64,
            scaling_factor=1 / 2.55,
            force_upcast=False,
        ).eval(),
        "text_encoder": CLOOBTextModelWithProjection(CLOOBTextConfig(**TOWER)).eval(),
        "tokenizer": CLOOBTokenizer(),
        "image_encoder": CLOOBVisionModelWithProjection(
            CLOOBVisionConfig(image_size=32, patch_size=8, **TOWER)
        ).eval(),
        "feature_extractor": CLOOBImageProcessor(size=32),
        "linear_decoder": None,
    }
