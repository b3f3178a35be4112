"""Losses of an autoencoder: colour, form, texture, perceptual distance, and discriminators of patches."""

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
DETAIL_WINDOW = 5  # pixels; what a mean over so many removes is detail
DETAIL_GAIN = 3.0

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


class PatchDiscriminator(nn.Sequential):
    """Tells patches of real pictures from reconstructed ones (Isola et al. 2017, "PatchGAN").

    It maps pictures (N, 3, H, W) in [−1, 1] to logits (N, 1, h, w), positive for real ones. It normalises groups, not
    batches, so that the logits of a picture do not depend on the other pictures.

    Args:
        channels: Output channels of the first convolution.
        num_layers: Convolutions of stride 2; three see patches of 38 pixels.
    """

    def __init__(self, channels: int = 32, num_layers: int = 3):
        layers = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, num_layers):
            wide = channels * 2**i
            layers += [nn.Conv2d(wide // 2, wide, 4, stride=2, padding=1), nn.GroupNorm(8, wide), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(channels * 2 ** (num_layers - 1), 1, 3, padding=1))


class DetailDiscriminator(nn.Module):
    """Tells patches of 38 pixels of real pictures from reconstructed ones by their details.

    Reconstructions of an autoencoder differ from pictures mostly in what a blur removes. The network gets blurred
    colours and amplified details as separate channels, and so learns within a few hundred steps what takes
    `PatchDiscriminator` thousands. Pictures and logits are as there.

    Args:
        channels: Output channels of the first two convolutions, a multiple of 8.
    """

    def __init__(self, channels: int = 32):
        super().__init__()
        layers = [nn.PixelUnshuffle(2), nn.Conv2d(2 * 3 * 4, channels, 3, padding=1), nn.LeakyReLU(0.2)]
        for width in (channels, 2 * channels):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Conv2d(2 * channels, 1, 3, padding=1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (N, 1, H/8, W/8) of pictures (N, 3, H, W) in [−1, 1]; H and W are multiples of 8."""
        margin = DETAIL_WINDOW // 2
        padded = F.pad(pictures, (margin,) * 4, mode="reflect")
        blurred = F.avg_pool2d(padded, DETAIL_WINDOW, stride=1)
        return self.body(torch.cat([blurred, DETAIL_GAIN * (pictures - blurred)], dim=1))


class ProjectedDiscriminator(nn.Module):
    """Tells real pictures from reconstructed ones by the features of a frozen encoder, and by pixels.

    Each map of features has a small network of its own. These need not learn what the encoder knows, and compare
    strokes and textures from the first steps on (Sauer et al. 2021, "Projected GANs Converge Faster"). Another network
    sees the pixels: an encoder may not notice a fine regular pattern, which pictures do not have.

    Args:
        feature: The encoder, on the device that the discriminator will be on.
        channels: Width of the small networks, a multiple of 8.
    """

    def __init__(self, feature: CLOOBFeatureLoss, channels: int = 32):
        super().__init__()
        self._feature = (feature,)  # in a tuple: not a submodule, so that it is neither trained nor saved
        size = feature.feature_extractor.size
        device = next(feature.parameters()).device
        with torch.no_grad():
            maps = feature.feature_maps(torch.zeros(1, 3, size, size, device=device))
        shapes = [(features.shape[1], features.shape[-1]) for features in maps]
        smallest = min(side for _, side in shapes)
        self.heads = nn.ModuleList(_head(width, channels, side // smallest) for width, side in shapes)
        self.pixels = nn.Sequential(nn.PixelUnshuffle(2), _head(3 * 4, channels, reduction=8))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (N, 1 + M, h, w) of pictures (N, 3, H, W) in [−1, 1], H and W even: by pixels and by M maps."""
        maps = self._feature[0].feature_maps(pictures)
        logits = [head(features) for head, features in zip(self.heads, maps, strict=True)]
        of_pixels = F.adaptive_avg_pool2d(self.pixels(pictures), logits[0].shape[-2:])
        return torch.cat([of_pixels, *logits], dim=1)


def _head(in_channels: int, channels: int, reduction: int) -> nn.Sequential:
    """Maps features (N, `in_channels`, h, w) to logits (N, 1, h / `reduction`, w / `reduction`)."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1), nn.LeakyReLU(0.2)]
    while reduction > 1:
        convolution = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.GroupNorm(8, channels), nn.LeakyReLU(0.2)]
        reduction //= 2
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))


DISCRIMINATORS: dict[str, type[nn.Module]] = {"patch": PatchDiscriminator, "detail": DetailDiscriminator}


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """The hinge loss of the discriminator (Lim and Ye 2017)."""
    return (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2


def adversarial_weight(reconstruction_loss: torch.Tensor, deception_loss: torch.Tensor, last_weight: torch.Tensor):
    """Factor that gives both losses gradients of the same norm at the decoder's last weight, at most 10⁴.

    After "Taming Transformers" (Esser et al. 2021), equation 7.

    Args:
        reconstruction_loss: Scalar, with a graph.
        deception_loss: Scalar, with a graph.
        last_weight: Weight of the last layer.
    """
    pull = torch.autograd.grad(reconstruction_loss, last_weight, retain_graph=True)[0].norm()
    other = torch.autograd.grad(deception_loss, last_weight, retain_graph=True)[0].norm()
    return (pull / (other + 1e-6)).clamp(0, 1e4).detach()
