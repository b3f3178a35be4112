"""The gap between the text and image embeddings of a model's own CLOOB, measured on images with captions."""

from pathlib import Path

import torch

from ..models.embedding_gap import embedding_gap
from .reference_images import ReferenceImages
from .scorers import CLOOBScorer, batches

FEWEST_PAIRS = 4


def gap_scores(
    folder: Path, device: torch.device, references: ReferenceImages, batch_size: int
) -> dict[str, float] | None:
    """Measures the gap of a model; see `models.embedding_gap`.

    Args:
        folder: Folder of the pipeline.
        device: Device to compute on.
        references: Images with captions.
        batch_size: Images at once.

    Returns:
        The measures by name; `None` for a model without an image encoder, or for fewer than four images.

    Raises:
        ValueError: If another part of its CLOOB is missing.
    """
    captions = references.captions_of_rows
    if not (folder / "image_encoder").is_dir() or len(captions) < FEWEST_PAIRS:
        return None
    cloob = CLOOBScorer.from_pretrained(folder, device)
    images = map(references.image, range(len(captions)))
    image_embeds = torch.cat([cloob.embed_images(batch) for batch in batches(images, batch_size)])
    starts = range(0, len(captions), batch_size)
    text_embeds = torch.cat([cloob.embed_texts(captions[first : first + batch_size]) for first in starts])
    return embedding_gap(image_embeds, text_embeds)._asdict()
