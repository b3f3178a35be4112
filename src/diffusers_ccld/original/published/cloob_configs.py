"""Configurations of the published CLOOB models, in the original's form. After crowsonkb/cloob-training."""

HEAD_DIM = 64  # of all published models; the weights do not show it


def _vit(d_embed, patch_size, image_layers, image_width, text_width):
    return {
        "d_embed": d_embed,
        "inv_tau": 30.0,
        "scale_hopfield": 15.0,
        "image_encoder": {
            "type": "ViT",
            "image_size": 224,
            "input_channels": 3,
            "patch_size": patch_size,
            "n_layers": image_layers,
            "d_model": image_width,
            "n_heads": image_width // HEAD_DIM,
        },
        "text_encoder": {
            "type": "transformer",
            "tokenizer": "clip",
            "text_size": 77,
            "vocab_size": 49408,
            "n_layers": 12,
            "d_model": text_width,
            "n_heads": text_width // HEAD_DIM,
        },
    }


PUBLISHED_CONFIGS = {
    "cloob_laion_400m_vit_b_16_16_epochs": _vit(512, 16, 12, 768, 512),
    "cloob_laion_400m_vit_b_16_32_epochs": _vit(512, 16, 12, 768, 512),
    "vit_b_16": _vit(512, 16, 12, 768, 512),
    "vit_b_32": _vit(512, 32, 12, 768, 512),
    "vit_l_14": _vit(768, 14, 24, 1024, 768),
}
