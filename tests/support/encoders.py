"""Small image encoders whose features losses and discriminators see."""

from types import SimpleNamespace

import torch
from torch import nn

from diffusers_ccld import CLOOBVisionConfig, CLOOBVisionModelWithProjection

STEM = {"stem_channels": [8, 16, 16], "stem_depth": 1}


def image_encoder_with_stem(pipe, stem=STEM):
    size = {"image_size": pipe.feature_extractor.size, "patch_size": 8}
    config = CLOOBVisionConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **size, **stem)
    return CLOOBVisionModelWithProjection(config)


class StubFeature(nn.Module):
    """An encoder whose only map is the picture itself, or a constant."""

    def __init__(self, gain=1.0, side=64):
        super().__init__()
        self.gain, self.feature_extractor = gain, SimpleNamespace(size=side)
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    def feature_maps(self, pictures):
        return [self.gain * pictures]
