"""The input of CLOOB's image encoder: patches become vectors, by one projection or by a stem of small convolutions."""

from itertools import pairwise

import torch
from torch import nn

from .configuration_cloob import CLOOBVisionConfig


class CLOOBResidualBlock(nn.Module):
    """x + conv(GELU(norm(conv(GELU(norm(x)))))), with 3 × 3 convolutions (He et al. 2016, "Identity Mappings")."""

    def __init__(self, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(8, width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        self.residual = nn.Sequential(*layers)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.residual(hidden_states)


class CLOOBConvolutionalStem(nn.Sequential):
    """Maps patches to vectors by small convolutions, which make transformers easier to train.

    After Xiao et al., 2021, "Early Convolutions Help Transformers See Better" (arXiv:2106.14881), with group
    normalisation, which does not depend on the batch. With residual blocks it is the hybrid of a convolutional network
    and a transformer of Dosovitskiy et al., 2021 (arXiv:2010.11929).
    """

    def __init__(self, config: CLOOBVisionConfig):
        layers: list[nn.Module] = []
        for narrow, wide in pairwise([config.num_channels, *config.stem_channels]):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, wide), nn.GELU()]
            layers += [CLOOBResidualBlock(wide) for _ in range(config.stem_depth)]
        super().__init__(*layers, nn.Conv2d(config.stem_channels[-1], config.hidden_size, 1))

    def feature_maps(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """The features of images (N, 3, H, W) after each halving: (N, C, H/2, W/2), (N, C, H/4, W/4) and so on."""
        *layers, _ = self
        maps = []
        for layer, after in pairwise([*layers, None]):
            pixel_values = layer(pixel_values)
            if after is None or isinstance(after, nn.Conv2d):
                maps.append(pixel_values)
        return maps


class CLOOBVisionEmbeddings(nn.Module):
    """Patch embeddings behind a class embedding, plus position embeddings."""

    def __init__(self, config: CLOOBVisionConfig):
        super().__init__()
        num_patches = (config.image_size // config.patch_size) ** 2
        if config.stem_channels is not None:
            self.patch_embedding = CLOOBConvolutionalStem(config)
        else:
            self.patch_embedding = nn.Conv2d(
                config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
            )
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(num_patches + 1, config.hidden_size))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        class_embedding = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([class_embedding, patches], dim=1) + self.position_embedding
