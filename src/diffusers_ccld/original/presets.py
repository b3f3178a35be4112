"""What is known of the published models beyond what their files say."""

from typing import NamedTuple


class Preset(NamedTuple):
    """A published model.

    Attributes:
        block_out_channels: Widths of its U-Net.
        cloob_config: Published name of the CLOOB configuration it was trained with.
        autoencoder_scale: What its latents have to be multiplied with before decoding.
    """

    block_out_channels: tuple[int, ...]
    cloob_config: str
    autoencoder_scale: float


PRESETS = {
    "wikiart": Preset((768, 768, 1536, 1536), "cloob_laion_400m_vit_b_16_16_epochs", 2.55),
    "wikiart-mini": Preset((192, 192, 384, 384), "cloob_laion_400m_vit_b_16_16_epochs", 2.55),
    "yfcc": Preset((768, 768, 1536, 1536), "cloob_laion_400m_vit_b_16_16_epochs", 2.55),
    "danbooru": Preset((512, 512, 1024, 1024), "cloob_laion_400m_vit_b_16_32_epochs", 9.3154),
}
