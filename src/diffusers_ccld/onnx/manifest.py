"""The manifest of a folder of ONNX files: its files, the inputs of the networks, and the settings of the sampler.

The runtime of this package and the page in `web/` read it. It is written last, so that a folder with a manifest is
complete. Every file is listed with its size and SHA-256 and is checked before it is used.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.files import write_text

MANIFEST_NAME = "onnx.json"
FORMAT = 1

Shape = list[int | str]


class ExportError(ValueError):
    """A folder of ONNX files that cannot be used. The message gives the reason and the remedy."""


@dataclass(frozen=True)
class File:
    """One file of the folder.

    Attributes:
        path: Path in the folder, with slashes.
        size: Length in bytes.
        sha256: Hexadecimal SHA-256 of its contents.
    """

    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, path: str) -> "File":
        """Describes a file of a folder."""
        with (folder / path).open("rb") as file:
            return cls(path, (folder / path).stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())

    def verify(self, folder: Path) -> Path:
        """Checks the file and returns its path.

        Raises:
            ExportError: If the file is missing or has changed since the export.
        """
        path = folder / self.path
        if not path.is_file():
            raise ExportError(f"{path}: the file is missing. Export the pipeline again with `ccld export-onnx`.")
        if File.of(folder, self.path) != self:
            raise ExportError(
                f"{path}: the file is damaged or was changed after the export. Export the pipeline again with "
                f"`ccld export-onnx`."
            )
        return path


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        graph: The ONNX file.
        weights: The safetensors file in which the graph finds its weights.
        inputs: Shape of each input by name. A string in a shape names a dynamic axis.
        outputs: Shape of each output by name.
        difference: Largest difference from torch at export, in the units of the output.
        relative_error: Root mean square of the differences, relative to that of the outputs.
    """

    graph: File
    weights: File
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    difference: float
    relative_error: float


@dataclass(frozen=True)
class Manifest:
    """The content of `onnx.json`.

    Attributes:
        format: Version of this file's format.
        version: Version of the package that exported.
        licence: Licence of the weights, as on the model's card; `None` if the card gives none.
        dtype: "fp32", "fp16" or "int8".
        height: Default height of pictures in pixels.
        width: Default width of pictures in pixels.
        size_multiple: Heights and widths in pixels must be multiples of this number.
        downsampling: Width and height in pixels of the square that one latent encodes.
        latent_channels: Number of channels C of latents.
        scaling_factor: Factor by which latents are scaled. The exported decoder divides by it.
        embedding_dim: Width D of embeddings.
        takes_guidance_scale: True if the U-Net has the guidance scale as an input.
        defaults: `num_inference_steps`, `guidance_scale`, `variation` and `max_guidance_scale` of the model.
        scheduler: `algorithm_type`, `timestep_schedule` and `prediction_type`.
        context_length: Number of tokens of a text, including padding.
        tokenizer: The tokenizer, in the format of Hugging Face's tokenizers.
        image_processor: `size`, `image_mean` and `image_std` of image prompts; `None` without an image encoder.
        networks: The networks by name: `unet`, `decoder`, `text_encoder`, and optionally `text_variation`,
            `image_encoder` and `encoder`.
        sources: SHA-256 of each weight file of the exported pipeline, by its path in the pipeline's folder.
    """

    format: int
    version: str
    licence: str | None
    dtype: str
    height: int
    width: int
    size_multiple: int
    downsampling: int
    latent_channels: int
    scaling_factor: float
    embedding_dim: int
    takes_guidance_scale: bool
    defaults: dict[str, float | None]
    scheduler: dict[str, str]
    context_length: int
    tokenizer: File
    image_processor: dict[str, Any] | None
    networks: dict[str, Network]
    sources: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads a folder's manifest.

        Raises:
            ExportError: If it is missing, damaged or of another format.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise ExportError(f"{folder} has no {MANIFEST_NAME}. Export a pipeline with `ccld export-onnx`.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ExportError(
                    f"{path} has format {values['format']}, and this version reads format {FORMAT}. Export the "
                    f"pipeline again with `ccld export-onnx`."
                )
            networks = {
                name: Network(**{**network, "graph": File(**network["graph"]), "weights": File(**network["weights"])})
                for name, network in values["networks"].items()
            }
            return cls(**{**values, "tokenizer": File(**values["tokenizer"]), "networks": networks})
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ExportError(f"{path} is damaged. Export the pipeline again with `ccld export-onnx`.") from error

    def write(self, folder: Path) -> None:
        """Writes the folder's manifest."""
        write_text(folder / MANIFEST_NAME, json.dumps(dataclasses.asdict(self), indent=2) + "\n")
