"""Small pipelines for random calls, and the bundled one."""

import functools
from typing import NamedTuple

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel

import diffusers_ccld
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


class Sizes(NamedTuple):
    """Sizes of a model.

    Attributes:
        multiple: The number that heights and widths are multiples of.
        factor: Pixels of a latent's side.
        channels: Channels of latents.
        width: Width of embeddings.
        default: Height and width of the training images.
    """

    multiple: int = 4
    factor: int = 2
    channels: int = 4
    width: int = 32
    default: int = 8


SIZES = {"ours": Sizes(), "stock": Sizes(), "distilled": Sizes(), "codes": Sizes()}
SIZES["bundled"] = Sizes(multiple=32, factor=8, channels=8, width=128, default=128)

FITTED = ("ours", "codes")  # models that can vary texts

UNET = {"sample_size": 4, "layers_per_block": 1, "cross_attention_dim": 32}
OURS = {**UNET, "block_out_channels": (32, 32), "attention_head_dim": 32, "mapping_dim": 32}
STOCK = {
    **UNET,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}
TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 32}
AUTOENCODER = {
    "block_out_channels": (8, 8),
    "norm_num_groups": 2,
    "latent_channels": 4,
    "scaling_factor": 0.8,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@functools.cache
def components(model: str, dtype: str) -> dict:
    """All components but the scheduler."""
    if model == "bundled":
        pipe = diffusers_ccld.CCLDPipeline.from_pretrained(diffusers_ccld.default_model())
        made = {name: part for name, part in pipe.components.items() if name != "scheduler"}
    else:
        made = small_components(model)
    for part in made.values():
        if isinstance(part, torch.nn.Module):
            part.to(getattr(torch, dtype)).requires_grad_(False).eval()
    return made


def small_components(model: str) -> dict:
    """New components of random weights, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if model == "stock":
            unet = UNet2DConditionModel(**STOCK)
        else:
            unet = CCLDUNet2DConditionModel(**OURS, time_cond_proj_dim=16 if model == "distilled" else None)
        vae = (
            VQModel(**AUTOENCODER, num_vq_embeddings=64, vq_embed_dim=4)
            if model == "codes"
            else AutoencoderKL(**AUTOENCODER)
        )
        with torch.no_grad():  # so that pictures differ by more than a rounding
            vae.decoder.conv_out.weight *= 4
        text = CLOOBTextConfig(**TOWER, vocab_size=757, max_position_embeddings=32, bos_token_id=755, eos_token_id=756)
        vision = CLOOBVisionConfig(**TOWER, image_size=16, patch_size=8)
        text_encoder = CLOOBTextModelWithProjection(text)
        if model in FITTED:
            text_encoder.set_residual_factor(0.2 * torch.randn(TOWER["projection_dim"], TOWER["projection_dim"]))
        return {
            "unet": unet,
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": CLOOBTokenizer.from_pretrained(diffusers_ccld.default_model(), subfolder="tokenizer"),
            "image_encoder": CLOOBVisionModelWithProjection(vision),
            "feature_extractor": CLOOBImageProcessor(size=16),
        }


def make_pipeline(pipeline: str, model: str, dtype: str, scheduler: str, options: dict):
    """A pipeline of its own with components that calls share."""
    if scheduler == "CCLDScheduler":
        made = CCLDScheduler(**options)
    else:
        made = getattr(diffusers, scheduler).from_config(CCLDScheduler().config, **options)
    pipe = getattr(diffusers_ccld, pipeline)(**components(model, dtype), scheduler=made)
    pipe.set_progress_bar_config(disable=True)
    return pipe
