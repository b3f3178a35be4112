"""Files of one embedding: a style or a subject learned from pictures, for use as a condition."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from ..models.modeling_cloob import CLOOBVisionModelWithProjection
from ..utils.errors import first_line
from ..utils.files import moved_into_place
from ..utils.suggestions import path_suggestion
from ..version import __version__

KIND = "diffusers-ccld embedding"

# The embeddings of a few fixed patterns tell encoders apart. Unlike a hash of the weights, they differ little between
# precisions.
NUM_PATTERNS = 4
LEAST_COSINE = 0.98
LARGEST_ERROR = 0.02  # of an embedding's length; half precision rounds


class Origin(TypedDict, total=False):
    """The origin of an embedding. Writers omit the fields that do not apply.

    Attributes:
        method: "mean" or "textual inversion".
        pictures: Names of the pictures' files.
        model: A folder, a name on the Hub, or "default".
        learn: Number of steps of textual inversion.
        learning_rate: Its learning rate.
        batch_size: Its pictures at once.
        seed: Its seed.
    """

    method: str
    pictures: list[str]
    model: str
    learn: int
    learning_rate: float
    batch_size: int
    seed: int


class Metadata(TypedDict):
    """The metadata of the safetensors file, all of them texts.

    Attributes:
        kind: "diffusers-ccld embedding".
        version: Version of the package that wrote it.
        origin: How it was made, as JSON.
    """

    kind: str
    version: str
    origin: str


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingFile:
    """An embedding and its origin.

    Attributes:
        embedding: The embedding, of unit length, (D,), float32.
        fingerprint: Embeddings of fixed patterns by the image encoder in whose space it lies, (4, D); see
            `encoder_fingerprint`.
        origin: How it was made.
    """

    embedding: torch.Tensor
    fingerprint: torch.Tensor
    origin: Origin

    def save(self, path: Path) -> None:
        """Writes a safetensors file with the origin as metadata."""
        metadata = Metadata(kind=KIND, version=__version__, origin=json.dumps(self.origin))
        tensors = {"embedding": self.embedding, "fingerprint": self.fingerprint}
        with moved_into_place(path) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)

    @classmethod
    def read(cls, path: str | Path) -> "EmbeddingFile":
        """Reads a file.

        Raises:
            ValueError: If it does not exist or is not one of an embedding.
        """
        if not Path(path).is_file():
            raise ValueError(f"{path}: the file does not exist.{path_suggestion(path)}")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = [file.get_tensor(name) for name in ("embedding", "fingerprint")]
            if metadata["kind"] != KIND or not all(map(torch.is_floating_point, tensors)):
                raise ValueError("it has another content")
            embedding, fingerprint = (tensor.float() for tensor in tensors)
            if embedding.ndim != 1 or fingerprint.shape != (NUM_PATTERNS, len(embedding)):
                raise ValueError("it has another content")
            if not abs(embedding.norm() - 1) < LARGEST_ERROR or not torch.isfinite(fingerprint).all():
                raise ValueError("its values are damaged: the embedding is not of unit length")
            return cls(embedding=embedding, fingerprint=fingerprint, origin=json.loads(metadata["origin"]))
        except (SafetensorError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a file of `ccld embed`. ({first_line(error)})") from error


def load_embedding(path: str | Path, pipe: DiffusionPipeline | None = None) -> torch.Tensor:
    """Loads an embedding for use as a condition: `conditions=[(load_embedding(path, pipe), 1.2)]`.

    Args:
        path: A file of `ccld embed`.
        pipe: The pipeline that will use it, to check that it is the embedding of this pipeline's CLOOB.

    Returns:
        The embedding, of unit length, (D,).

    Raises:
        ValueError: If the file is not one of an embedding, or of another CLOOB.
    """
    file = EmbeddingFile.read(path)
    if pipe is not None and not _is_of_encoder(file.fingerprint, pipe):
        raise ValueError(f"{path} is an embedding of another CLOOB than the model's; make it again with this model.")
    return file.embedding


@torch.no_grad()
def encoder_fingerprint(image_encoder: CLOOBVisionModelWithProjection) -> torch.Tensor:
    """Embeddings of fixed patterns, (4, D), float32, on the CPU: stripes of several widths and directions."""
    size, device = image_encoder.config.image_size, image_encoder.device
    across = torch.linspace(0, 1, size)
    waves = [torch.sin(2 ** (i + 1) * torch.pi * (across[:, None] + (i - 1) * across)) for i in range(NUM_PATTERNS)]
    patterns = torch.stack([torch.stack([wave, -wave, wave.T]) for wave in waves])
    return image_encoder(patterns.to(device)).image_embeds.float().cpu()


def _is_of_encoder(fingerprint, pipe):
    if pipe.image_encoder is None or pipe.image_encoder.config.projection_dim != fingerprint.shape[1]:
        return False
    own = encoder_fingerprint(pipe.image_encoder)
    return F.cosine_similarity(own, fingerprint, dim=-1).min().item() >= LEAST_COSINE


def mean_direction(embeddings: torch.Tensor) -> torch.Tensor:
    """The direction of the mean of embeddings (N, D), of unit length, (D,).

    Raises:
        ValueError: If the mean is zero.
    """
    mean = embeddings.float().mean(dim=0)
    if mean.norm() < 1e-6:
        raise ValueError("The embeddings cancel one another; their mean has no direction.")
    return F.normalize(mean, dim=0)
