"""A linear probe: what a linear map of embeddings tells about the images (Alain and Bengio 2016, arXiv 1610.01644)."""

import torch
from torch import nn
from torch.nn import functional as F

PENALTY = 1e-4
ITERATIONS = 500


class LinearProbe:
    """Logistic regression of classes on embeddings, with a small ridge penalty.

    Args:
        embeds: Embeddings to fit it to, (N, D).
        targets: Their classes, (N, A): numbers from 0 for each of A attributes.
    """

    def __init__(self, embeds: torch.Tensor, targets: torch.Tensor):
        self.mean, self.deviation = embeds.mean(dim=0), embeds.std(dim=0).clamp(min=1e-6)
        counts = (targets.amax(dim=0) + 1).tolist()
        self.layers = [self._fit(embeds, targets[:, i], count) for i, count in enumerate(counts)]

    def _fit(self, embeds, targets, num_classes):
        layer = nn.Linear(embeds.shape[1], num_classes)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")
        features = self._standardised(embeds)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(layer(features), targets) + PENALTY * layer.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return layer

    def _standardised(self, embeds):
        return (embeds - self.mean) / self.deviation

    @torch.no_grad()
    def named(self, embeds: torch.Tensor) -> torch.Tensor:
        """The most likely classes of embeddings (N, D), (N, A)."""
        features = self._standardised(embeds)
        return torch.stack([layer(features).argmax(dim=1) for layer in self.layers], dim=1)

    def shares_right(self, embeds: torch.Tensor, targets: torch.Tensor) -> list[float]:
        """Per cent of embeddings (N, D) of which it names each attribute, and all of them; `targets` as to fit it."""
        right = self.named(embeds) == targets
        return [100 * share for share in (*right.float().mean(dim=0).tolist(), right.all(dim=1).float().mean().item())]
