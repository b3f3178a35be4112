"""CLOOB's losses."""

import torch
from torch.nn import functional as F


def hopfield_retrieval(stored: torch.Tensor, states: torch.Tensor, scale: float) -> torch.Tensor:
    """One update of a continuous Hopfield network: each state becomes a softmax average of the stored patterns.

    Fürst et al. 2021, "CLOOB", equations 4 to 7.

    Args:
        stored: Stored patterns, (M, D), of unit length.
        states: State patterns, (N, D), of unit length.
        scale: Inverse temperature β.

    Returns:
        Retrieved patterns, (N, D), of unit length.
    """
    return F.normalize(torch.softmax(scale * states @ stored.T, dim=-1) @ stored, dim=-1)


def info_loob_loss(anchors: torch.Tensor, samples: torch.Tensor, inverse_temperature: float) -> torch.Tensor:
    """InfoLOOB: the positive pair of each row against the *other* pairs of that row (Poole et al. 2019).

    Args:
        anchors: (N, D), of unit length.
        samples: (N, D), of unit length; `samples[i]` is the positive of `anchors[i]`.
        inverse_temperature: 1/τ.
    """
    logits = inverse_temperature * anchors @ samples.T
    positives = logits.diagonal()
    is_positive = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    negatives = logits.masked_fill(is_positive, -torch.inf).logsumexp(dim=-1)
    return (negatives - positives).mean()


def info_nce_loss(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, inverse_temperature: float = 30.0
) -> torch.Tensor:
    """CLIP's loss: the cross-entropy of picking each image's text and each text's image (Radford et al. 2021).

    Args:
        image_embeds: (N, D), of unit length, gathered over all processes.
        text_embeds: (N, D), of unit length, gathered; `text_embeds[i]` belongs to `image_embeds[i]`.
        inverse_temperature: 1/τ.
    """
    logits = inverse_temperature * image_embeds @ text_embeds.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def cosine_distance(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Mean of 1 − cosine between matching embeddings of unit length, (N, D) each."""
    return (1 - (image_embeds * text_embeds).sum(dim=-1)).mean()


def cloob_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    inverse_temperature: float = 30.0,
    hopfield_scale: float = 15.0,
) -> torch.Tensor:
    """The CLOOB loss: InfoLOOB between embeddings retrieved from Hopfield networks of the batch's embeddings.

    It has the scale of `cloob_training/loss.py` in crowsonkb/cloob-training: the paper's loss times
    `inverse_temperature` / 2.

    Args:
        image_embeds: (N, D), of unit length, gathered over all processes; N ≥ 2.
        text_embeds: (N, D), of unit length, gathered; `text_embeds[i]` belongs to `image_embeds[i]`.
        inverse_temperature: 1/τ of the InfoLOOB loss.
        hopfield_scale: β of the retrieval.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If the shapes differ, or there are fewer than two pairs.
    """
    if image_embeds.shape != text_embeds.shape or len(image_embeds) < 2:
        raise ValueError(
            f"The CLOOB loss needs two or more pairs of embeddings of one shape, not {tuple(image_embeds.shape)} and "
            f"{tuple(text_embeds.shape)}."
        )
    image_from_images = hopfield_retrieval(image_embeds, image_embeds, hopfield_scale)
    text_from_images = hopfield_retrieval(image_embeds, text_embeds, hopfield_scale)
    text_from_texts = hopfield_retrieval(text_embeds, text_embeds, hopfield_scale)
    image_from_texts = hopfield_retrieval(text_embeds, image_embeds, hopfield_scale)
    image_loss = info_loob_loss(image_from_images, text_from_images, inverse_temperature)
    text_loss = info_loob_loss(text_from_texts, image_from_texts, inverse_temperature)
    return (image_loss + text_loss) / 2
