"""Encoders of texts and images for CLOOB guidance: a pipeline's own, or a model of open_clip."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from ..utils.errors import first_line
from ..utils.rgb import to_rgb


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidanceEncoder:
    """Embeds texts, pictures and pixels in one space.

    Attributes:
        size: Side of the squares of pixels that it embeds.
        dim: Width D of the embeddings.
        embed_texts: Maps N texts to embeddings of unit length, (N, D).
        embed_images: Maps N pictures to embeddings of unit length, (N, D).
        embed_pixels: Maps squares (N, 3, size, size) of pixels in [0, 1] to embeddings of unit length, (N, D),
            differentiably.
    """

    size: int
    dim: int
    embed_texts: Callable[[list[str]], torch.Tensor]
    embed_images: Callable[[list[Image.Image]], torch.Tensor]
    embed_pixels: Callable[[torch.Tensor], torch.Tensor]


def load_open_clip(name: str, weights: str | Path, device: str | torch.device = "cpu") -> GuidanceEncoder:
    """Loads an encoder for CLOOB guidance from a file of weights of open_clip.

    Args:
        name: One of `open_clip.list_models()`.
        weights: The file of its weights. Nothing is downloaded.
        device: Device of the model.

    Raises:
        ValueError: If the model or the file does not exist, or they do not belong together.
    """
    import open_clip  # slow to import

    if name not in open_clip.list_models():
        raise ValueError(f"{name} is not a model of open_clip; see open_clip.list_models().")
    if not Path(weights).is_file():
        raise ValueError(f"{weights}: the file of weights does not exist.")
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(weights), device=device)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # any file may be given, and raise anything
        raise ValueError(f"{weights}: they are not the weights of {name}. ({first_line(error)})") from error
    visual = model.eval().requires_grad_(False).visual
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (visual.image_mean, visual.image_std))

    def embed_pixels(pixels: torch.Tensor) -> torch.Tensor:
        return F.normalize(model.encode_image((pixels - mean) / std), dim=-1)

    def embed_images(images: list[Image.Image]) -> torch.Tensor:
        pixels = torch.stack([preprocess(to_rgb(image)) for image in images])
        return F.normalize(model.encode_image(pixels.to(device)), dim=-1)

    def embed_texts(texts: list[str]) -> torch.Tensor:
        return F.normalize(model.encode_text(tokenizer(texts).to(device)), dim=-1)

    return GuidanceEncoder(
        size=size,
        dim=embed_texts(["a"]).shape[1],
        embed_texts=embed_texts,
        embed_images=embed_images,
        embed_pixels=embed_pixels,
    )
