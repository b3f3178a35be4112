"""The models of crowsonkb/v-diffusion-pytorch: recognised, but not converted.

They are diffusion models of pixels, most of them without a condition. Their U-Nets vary in depth and in the order of
their layers, and none of them is an architecture of diffusers.
"""

from collections.abc import Mapping

import torch

# The first convolution sees three colours and 16 features of the time.
FIRST_CONVOLUTION = "net.0.main.0.weight"
NUM_INPUTS = 3 + 16

CONDITIONAL = 504

# Number of tensors of each model, which no two of different architecture share, with names and sizes in pixels.
MODELS = {
    CONDITIONAL: ("cc12m_1 or cc12m_1_cfg", 256),
    158: ("danbooru_128", 128),
    302: ("imagenet_128", 128),
    206: ("wikiart_128", 128),
    337: ("wikiart_256", 256),
    416: ("yfcc_1", 512),
    218: ("yfcc_2", 512),
}


def is_v_diffusion(state: Mapping[str, torch.Tensor]) -> bool:
    """True for the state dict of a model of v-diffusion-pytorch, one of the published or of the same kind."""
    first = state.get(FIRST_CONVOLUTION)
    if "timestep_embed.weight" not in state or first is None or first.ndim != 4 or first.shape[1] != NUM_INPUTS:
        return False
    # A U-Net of CCLD for latents of three channels has as many inputs, and like the conditional model an embedding.
    return "mapping_timestep_embed.weight" not in state or len(state) == CONDITIONAL


def v_diffusion_facts(state: Mapping[str, torch.Tensor]) -> dict[str, str | int]:
    """Facts of such a model: its name, and its size in pixels if it is a published one."""
    name, size = MODELS.get(len(state), ("not a published one", None))
    facts: dict[str, str | int] = {"model": name}
    if size is not None:
        facts["size in pixels"] = size
    return facts
