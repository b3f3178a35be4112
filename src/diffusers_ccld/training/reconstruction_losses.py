"""Losses of an autoencoder: colour, form, texture, and distances in the features of networks."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.modeling_cloob import CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor

POOLED_BY = (2, 4, 8, 16)
CHROMA_POOLED_BY = 4
TEXTURE_SCALES = 3
TEXTURE_WINDOW = 8
STYLE_CELLS = 4  # a side
LUMA = (0.299, 0.587, 0.114)

# VGG-16's layers after which LPIPS compares: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.
VGG_LAYERS = (3, 8, 15, 22, 29)
VGG_MEAN, VGG_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pooled_loss(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of the pictures at 1/2, 1/4, 1/8 and 1/16 of their size: colours and forms, not details.

    Args:
        reconstruction: (N, 3, H, W) in [−1, 1]; H and W at least 16.
        target: Of the same shape.
    """
    difference = reconstruction - target
    losses = [F.avg_pool2d(difference, factor).abs().mean() for factor in POOLED_BY]
    return torch.stack(losses).mean()


def chroma_loss(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of red − green and blue − yellow at 1/4 of the size; arguments as for `pooled_loss`.

    The absolute error of pixels hardly tells a grey picture from a faintly coloured one. Without this loss, colour is
    learnt late.
    """
    red, green, blue = F.avg_pool2d(reconstruction - target, CHROMA_POOLED_BY).unbind(1)
    return ((red - green).abs() + (blue - (red + green) / 2).abs()).mean()


def texture_loss(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of local contrast, in four directions and three scales; arguments as for `pooled_loss`.

    The latents cannot hold the position of every brush mark. This loss asks for as many marks, as strong and in the
    same direction, in the same area, but not for their exact positions. It compares the local energies of oriented
    derivatives, which are among the texture statistics of Portilla and Simoncelli (2000).
    """
    luma = torch.tensor(LUMA, dtype=target.dtype, device=target.device).view(1, 3, 1, 1)
    pictures = [(picture * luma).sum(1, keepdim=True) for picture in (reconstruction, target)]
    losses = []
    for scale in range(TEXTURE_SCALES):
        if scale:
            pictures = [F.avg_pool2d(picture, 2) for picture in pictures]
        energies = [_local_contrasts(picture) for picture in pictures]
        losses.append((energies[0] - energies[1]).abs().mean())
    return torch.stack(losses).mean()


def _local_contrasts(picture):
    here = picture[..., :-1, :-1]
    right, below, across = picture[..., :-1, 1:], picture[..., 1:, :-1], picture[..., 1:, 1:]
    squares = torch.cat([right - here, below - here, across - here, below - right], dim=1).square()
    # The constant keeps the slope of the root finite in flat areas.
    window = min(TEXTURE_WINDOW, *squares.shape[2:])
    return (F.avg_pool2d(squares, window, max(window // 2, 1)) + 1e-4).sqrt()


class PerceptualLoss(nn.Module):
    """Distance between pictures in the features of a VGG-16 (Zhang et al. 2018, the untuned distance of LPIPS).

    Args:
        weights: A state dict of torchvision's `vgg16`, trained on ImageNet; it may lack the classifier.

    Raises:
        ValueError: If it belongs to another network.
    """

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        features = make_layers(cfgs["D"])
        try:
            prefix = "features."
            features.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError("The perceptual weights are not those of torchvision's vgg16.") from error
        self.layers = features[: VGG_LAYERS[-1] + 1].eval().requires_grad_(False)
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the features before it are compared after it has run
        self.register_buffer("mean", torch.tensor(VGG_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(VGG_STD).view(1, 3, 1, 1))

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean distance; arguments as for `pooled_loss`, H and W at least 32."""
        pictures = torch.cat([reconstruction, target])
        features, loss = (pictures / 2 + 0.5 - self.mean) / self.std, 0.0
        for i, layer in enumerate(self.layers):
            features = layer(features)
            if i in VGG_LAYERS:
                mine, wanted = F.normalize(features, dim=1, eps=1e-8).chunk(2)
                loss = loss + (mine - wanted).square().sum(dim=1).mean()
        return loss


class CLOOBFeatureLoss(nn.Module):
    """Distance between pictures in the features of a CLOOB image encoder, as LPIPS compares those of a VGG.

    It compares the maps of the encoder's convolutional stem, or the layers of an encoder without a stem.

    Args:
        image_encoder: The encoder; it is frozen.
        feature_extractor: Its image processor.
    """

    def __init__(self, image_encoder: CLOOBVisionModelWithProjection, feature_extractor: CLOOBImageProcessor):
        super().__init__()
        self.image_encoder = image_encoder.eval().requires_grad_(False)
        self.feature_extractor = feature_extractor

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean distance; arguments as for `pooled_loss`."""
        distances = []
        for vectors in self._vectors(torch.cat([reconstruction, target])):
            mine, wanted = F.normalize(vectors.float(), dim=-1).chunk(2)
            distances.append((mine - wanted).square().sum(dim=-1).mean())
        return torch.stack(distances).mean()

    def _vectors(self, pictures):
        """Features (N, P, C) of pictures at P places, layer by layer."""
        if self.image_encoder.config.stem_channels is not None:
            return [features.flatten(2).transpose(1, 2) for features in self.feature_maps(pictures)]
        return self.image_encoder(self._preprocess(pictures), output_hidden_states=True).hidden_states[1:]

    def feature_maps(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """The encoder's maps (N, C, h, w) of pictures (N, 3, H, W) in [−1, 1]."""
        return self.image_encoder.feature_maps(self._preprocess(pictures))

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        """CLOOB embeddings (N, D) of pictures (N, 3, H, W) in [−1, 1]."""
        return self.image_encoder(self._preprocess(pictures)).image_embeds.float()

    def _preprocess(self, pictures):
        return self.feature_extractor.preprocess_training_images(pictures.clamp(-1, 1) / 2 + 0.5)


class StyleLoss(nn.Module):
    """Distance between statistics of pictures' features: mean and deviation in each sixteenth of the picture.

    It asks for the right textures without asking where each mark lies, like `texture_loss`, but with features that an
    encoder has learnt. The statistics are those of Li et al. 2017, "Demystifying Neural Style Transfer" (arXiv
    1701.01036), but local, and compared by absolute differences. Small maps have fewer cells.

    Args:
        feature: The encoder and its image processor.
    """

    def __init__(self, feature: CLOOBFeatureLoss):
        super().__init__()
        self.feature = feature

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean distance in units of the deviation of each map; arguments as for `pooled_loss`."""
        distances = []
        for features in self.feature.feature_maps(torch.cat([reconstruction, target])):
            mine, wanted = features.float().chunk(2)
            unit = wanted.flatten(1).std(dim=1).clamp(min=1e-3)[:, None, None, None]
            distances.append((_style(mine / unit) - _style(wanted / unit)).abs().mean())
        return torch.stack(distances).mean()


def _style(features):
    """Mean and deviation (N, 2·C, n, n) of features (N, C, h, w) in n × n cells of at least four values a side."""
    cells = max(1, min(STYLE_CELLS, features.shape[-1] // 4))
    mean = F.adaptive_avg_pool2d(features, cells)
    variance = F.adaptive_avg_pool2d(features.square(), cells) - mean.square()
    # The constant keeps the slope of the root finite where features are constant.
    return torch.cat([mean, (variance.clamp(min=0) + 1e-4).sqrt()], dim=1)
