"""The reader behind `CCLDUNet2DConditionModel.from_single_file`."""

from pathlib import Path

import torch

from ..models.unet_ccld import CCLDUNet2DConditionModel
from .building import build_unet
from .reading.sources import find_sources


def read_unet(path: str | Path, torch_dtype: torch.dtype | None = None, ema: bool = True) -> CCLDUNet2DConditionModel:
    """Reads the U-Net of one of the original's files; `from_single_file` documents arguments and errors."""
    source = find_sources(unet=path, ema=ema)["unet"]
    model = build_unet(source, None, torch_dtype or torch.float32)[0].component
    # The weights are views into the mapped file. The model may outlive the file, so each weight is copied.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model
