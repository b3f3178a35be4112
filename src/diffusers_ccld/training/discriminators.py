"""Discriminators of an autoencoder's training, which see patches of pictures, and their losses."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from ..data.encoding import model_fingerprint
from .reconstruction_losses import CLOOBFeatureLoss

DiscriminatorKind = Literal["patch", "detail", "projected"]

DETAIL_WINDOW = 5  # pixels; what a mean over so many removes is detail
DETAIL_GAIN = 3.0


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


def make_discriminator(kind: DiscriminatorKind, channels: int, feature: CLOOBFeatureLoss | None) -> nn.Module:
    """A discriminator of a kind; only a projected one needs the features."""
    if kind == "projected":
        return ProjectedDiscriminator(feature, channels)
    return {"patch": PatchDiscriminator, "detail": DetailDiscriminator}[kind](channels)


def discriminator_identity(
    kind: DiscriminatorKind, channels: int, feature: CLOOBFeatureLoss | None
) -> int | list[str | int]:
    """The identity that a checkpoint records: another discriminator cannot continue it. Of "patch" only the channels."""
    if kind == "patch":
        return channels
    return [kind, channels] + ([model_fingerprint(feature.image_encoder)] if kind == "projected" else [])


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
