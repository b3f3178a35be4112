"""The request that a conversion carries out."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from ..inference.names import PRECISIONS
from .errors import CheckpointError, check_file
from .published.presets import PRESETS
from .reading.downloads import preset_files


@dataclass(frozen=True, kw_only=True)
class ConversionRequest:
    """Describes a conversion: the files to read, values that they lack, and the folder to write.

    Give any of `unet`, `cloob` and `autoencoder`, or a `preset` alone.

    Attributes:
        output: Folder to write. Its existing components are kept unless they are converted.
        unet: U-Net, bare or in a Lightning training checkpoint. The checkpoint's autoencoder and CLOOB are used where
            no other file is given for them.
        cloob: CLOOB pickle.
        autoencoder: Autoencoder of latent-diffusion or taming-transformers, KL or VQ: bare, under `state_dict`, or
            inside a larger model.
        cloob_config: Name of a published CLOOB configuration or a JSON file. `None` infers it from the weights.
        autoencoder_config: The autoencoder's YAML file, to check the weights against.
        autoencoder_scale: Factor that multiplies latents before decoding. `None` takes the preset's, else the one in
            the U-Net's file.
        preset: Name of a published model, for values that its files lack. Without files, its own are downloaded.
        source_dir: Folder that holds the preset's files under their published names, instead of downloading them.
        ema: Takes the EMA weights of a training checkpoint instead of the raw ones.
        dtype: "fp32", "fp16" or "bf16".
        overwrite: Allows existing components of `output` to be replaced.
        standalone: Adds the code that makes the folder usable without this package. Needs a whole pipeline.
        hub_name: Name of the repository that the folder will be uploaded to, for the model card.
        card_samples: Number of pictures to sample for the model card.

    Raises:
        CheckpointError: If the values contradict one another, are out of range, or name a file that does not exist.
    """

    output: Path
    unet: Path | None = None
    cloob: Path | None = None
    autoencoder: Path | None = None
    cloob_config: str | Path | None = None
    autoencoder_config: Path | None = None
    autoencoder_scale: float | None = None
    preset: str | None = None
    source_dir: Path | None = None
    ema: bool = True
    dtype: str = "fp32"
    overwrite: bool = False
    standalone: bool = False
    hub_name: str | None = None
    card_samples: int = 0

    def __post_init__(self) -> None:
        if not self.has_files and self.preset is None:
            raise CheckpointError(
                "Nothing to convert: give --unet, --cloob or --autoencoder, or a published --preset."
            )
        if self.source_dir is not None and (self.preset is None or self.has_files):
            raise CheckpointError("--source-dir holds all files of a --preset: give a preset and no other files.")
        if self.has_files and self.unet is None and not self.ema:
            raise CheckpointError("--no-ema was given, but no U-Net.")
        if self.preset is not None and self.preset not in PRESETS:
            raise CheckpointError(f"Unknown preset {self.preset!r}; choose one of {', '.join(PRESETS)}.")
        if self.dtype not in PRECISIONS:
            raise CheckpointError(f"Unknown dtype {self.dtype!r}; choose one of {', '.join(PRECISIONS)}.")
        scale = self.autoencoder_scale
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise CheckpointError(f"The autoencoder scale must be a positive number, not {scale}.")
        if self.card_samples < 0:
            raise CheckpointError("The number of samples for the card must not be negative.")
        for path in (self.unet, self.cloob, self.autoencoder, self.autoencoder_config):
            if path is not None:
                check_file(path)
        if self.source_dir is not None and not self.source_dir.is_dir():
            raise CheckpointError(f"{self.source_dir}: the folder does not exist.")

    @property
    def has_files(self) -> bool:
        """True if at least one file to convert is named."""
        return any(path is not None for path in (self.unet, self.cloob, self.autoencoder))

    def with_published_files(self) -> "ConversionRequest":
        """Returns the same request with the preset's own files, downloaded or found in `source_dir`.

        Raises:
            CheckpointError: If a file is missing, cannot be downloaded, or is not the published one.
        """
        files = preset_files(self.preset, self.source_dir)
        if self.autoencoder_config is not None:
            files["autoencoder_config"] = self.autoencoder_config
        return replace(self, source_dir=None, **files)
