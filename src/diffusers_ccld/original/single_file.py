"""`CCLDUNet2DConditionModel.from_single_file`: a model straight from one of the original's files."""

from pathlib import Path

import torch

from ..models.unet_ccld import CCLDUNet2DConditionModel


def unet_from_single_file(
    cls: type[CCLDUNet2DConditionModel],
    path: str | Path,
    torch_dtype: torch.dtype | None = None,
    ema: bool = True,
) -> CCLDUNet2DConditionModel:
    """Loads the U-Net of a file of the original's, its size read off the weights.

    Args:
        path: A bare U-Net, or a Lightning training checkpoint.
        torch_dtype: Type of the weights, float32 by default. The Fourier frequencies are in float32 always.
        ema: Whether to take the averaged weights of a training checkpoint, or the raw ones.

    Returns:
        The U-Net, in evaluation mode.

    Raises:
        CheckpointError: If the file is not what it should be.
    """
    from .building import plan_unet
    from .reading.sources import find_sources

    source = find_sources(unet=path, ema=ema)["unet"]
    model = plan_unet(source, None, torch_dtype or torch.float32)[0].component
    # The weights are views into the mapped file; a model outlives its file, and each weight has memory of its own.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model
