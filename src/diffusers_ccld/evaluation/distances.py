"""Distances between generated pictures and real images that torchmetrics computes. Needs the extra `compare`."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance


class _Features(nn.Module):
    """Passes features through where torchmetrics expects a network that computes them."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def kernel_distance(features: torch.Tensor, references: torch.Tensor) -> float:
    """Squared maximum mean discrepancy with the kernel (xᵀy + 1)³ of Bińkowski et al. 2018 (KID), for unit vectors.

    Unlike the Fréchet distance, it is not biased by the number of pictures; it may be slightly below zero.

    Args:
        features: Features of generated pictures, (N, D), of unit length, at least two.
        references: Features of real images, (M, D), of unit length, at least two.
    """
    size = min(len(features), len(references))
    # Only the larger set is subsampled; several subsets let all its pictures count.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns that it keeps all features; there are few
        metric = KernelInceptionDistance(_Features(features.shape[1]), subsets=20, subset_size=size, gamma=1.0)
    metric.update(features.double(), real=False)
    metric.update(references.double(), real=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return metric.compute()[0].item()


def inception_metric(weights: Path, references: Iterable[torch.Tensor]) -> FrechetInceptionDistance:
    """Makes the metric of Fréchet inception distances (Heusel et al. 2017) to a set of real images.

    Args:
        weights: The file of weights that torch-fidelity publishes for its Inception network.
        references: The real images, batches (N, 3, H, W), uint8.

    Raises:
        ValueError: If the file does not hold such weights.
    """
    try:
        torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity would run code from the file
        metric = FrechetInceptionDistance(2048, reset_real_features=False, feature_extractor_weights_path=str(weights))
    except Exception as error:  # any file may be given, and raise anything
        raise ValueError(f"{weights} does not hold the weights of torch-fidelity's Inception network.") from error
    for batch in references:
        metric.update(batch, real=True)
    return metric


def frechet_inception_distance(metric: FrechetInceptionDistance, images: Iterable[torch.Tensor]) -> float:
    """Fréchet inception distance of generated pictures; biased by their number, as `frechet_distance` is.

    Args:
        metric: The metric, made by `inception_metric`.
        images: The pictures, batches (N, 3, H, W), uint8.
    """
    metric.reset()
    for batch in images:
        metric.update(batch, real=False)
    return metric.compute().item()
