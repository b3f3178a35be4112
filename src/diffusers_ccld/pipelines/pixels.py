"""Images and masks as callers give them, checked and brought to one form."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..utils.rgb import to_rgb, upright

ImageInput = Image.Image | np.ndarray | torch.Tensor | list[Image.Image] | list[np.ndarray] | list[torch.Tensor]


def read_images(images: ImageInput, same_size: bool = True) -> list[Image.Image] | torch.Tensor:
    """Reads images.

    Args:
        images: PIL images of any mode; arrays (H, W, 3) or (N, H, W, 3); tensors (3, H, W) or (N, 3, H, W). One, or a
            list of one kind. Integers are uint8; floating-point numbers lie in [0, 1].
        same_size: True if PIL images must have one size.

    Returns:
        RGB images, or for arrays and tensors one float tensor (N, 3, H, W) in [0, 1].

    Raises:
        TypeError: If something is not an image, or the kinds differ.
        ValueError: If a shape, a range or a size is wrong.
    """
    listed = _listed("image", images)
    if isinstance(listed[0], Image.Image):
        sizes = sorted({image.size for image in map(upright, listed)})
        if same_size and len(sizes) > 1:
            named = ", ".join(f"{width}×{height}" for width, height in sizes)
            raise ValueError(f"The images have different sizes ({named}). Give height and width, or one image a call.")
        return [to_rgb(image) for image in listed]
    return _joined("image", [_image_tensor(image) for image in listed])


def read_masks(masks: ImageInput) -> list[Image.Image] | torch.Tensor:
    """Reads masks, white where an image is replaced. Transparent parts of a PIL image count as black.

    Args:
        masks: PIL images of any mode but F; arrays or tensors (H, W), (N, H, W), (N, 1, H, W) or, for arrays,
            (N, H, W, 1). One, or a list of one kind. Values are bool, uint8, or floating-point numbers in [0, 1].

    Returns:
        Grey images, or for arrays and tensors one float tensor (N, 1, H, W) in [0, 1].

    Raises:
        TypeError: If something is not an image, or the kinds differ.
        ValueError: If a mode, a shape or a range is wrong, or a mask that is not black is nowhere white.
    """
    listed = _listed("mask_image", masks)
    if isinstance(listed[0], Image.Image):
        return [_grey_mask(mask) for mask in listed]
    return _joined("mask_image", [_mask_tensor(mask) for mask in listed])


def _listed(name: str, images: ImageInput) -> Sequence[Image.Image | np.ndarray | torch.Tensor]:
    listed = list(images) if isinstance(images, (list, tuple)) else [images]
    kinds = {kind for image in listed for kind in (Image.Image, np.ndarray, torch.Tensor) if isinstance(image, kind)}
    if not listed or not all(isinstance(image, (Image.Image, np.ndarray, torch.Tensor)) for image in listed):
        types = ", ".join(sorted({type(image).__name__ for image in listed})) or "an empty list"
        raise TypeError(f"{name} must be a PIL image, an array, a tensor, or a list of such, not {types}.")
    if len(kinds) > 1:
        raise TypeError(f"{name} must be a list of one kind of image, not of {len(kinds)} kinds.")
    if any(isinstance(image, Image.Image) and not all(image.size) for image in listed):
        raise ValueError(f"{name} has an image without a single pixel.")
    return listed


def _image_tensor(image: np.ndarray | torch.Tensor) -> torch.Tensor:
    """An image as (N, 3, H, W)."""
    is_array, shape = isinstance(image, np.ndarray), tuple(image.shape)
    channels = 3 if image.ndim in (3, 4) and shape[-1 if is_array else -3] == 3 else None
    if channels is None:
        wanted = "(H, W, 3) or (N, H, W, 3)" if is_array else "(3, H, W) or (N, 3, H, W)"
        raise ValueError(f"An image of shape {shape} was given; {'arrays' if is_array else 'tensors'} are {wanted}.")
    pixels = _in_unit_range("image", _tensor("image", image))
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    return pixels.permute(0, 3, 1, 2) if is_array else pixels


def _grey_mask(mask: Image.Image) -> Image.Image:
    grey = to_rgb(mask, background=0).convert("L")
    is_16_bits = mask.mode.startswith("I")
    _check_white(np.asarray(mask).max() / 65535 if is_16_bits else grey.getextrema()[1] / 255)
    return grey


def _check_white(lightest: float) -> None:
    """Raises `ValueError` for a mask that paints nothing for its range of values, such as 0 and 1 of 255."""
    if 0 < lightest < 0.5:
        raise ValueError(
            f"mask_image is nowhere white: its lightest pixel has {lightest:.2g} of white, so that nothing would be "
            f"painted. Give bool, or values up to 255 (16 bits: 65535; floating-point numbers: 1)."
        )


def _mask_tensor(mask: np.ndarray | torch.Tensor) -> torch.Tensor:
    """A mask as (N, 1, H, W)."""
    is_array, shape = isinstance(mask, np.ndarray), tuple(mask.shape)
    if is_array and mask.ndim == 4 and shape[-1] == 1:
        mask = mask[..., 0]
    elif mask.ndim == 4 and shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim not in (2, 3) or (mask.ndim == 3 and shape[-1] in (3, 4)):
        raise ValueError(f"A mask of shape {shape} was given; masks are (H, W), (N, H, W) or (N, 1, H, W).")
    values = _tensor("mask_image", mask)
    values = values.float() if values.dtype == torch.bool else _in_unit_range("mask_image", values)
    values = values.reshape(-1, 1, *values.shape[-2:])
    for lightest in values.amax(dim=(1, 2, 3)).tolist() if values.numel() else ():
        _check_white(lightest)
    return values


def _tensor(name: str, values: np.ndarray | torch.Tensor) -> torch.Tensor:
    """A tensor of an array; of a copy if PyTorch cannot share its memory."""
    if isinstance(values, torch.Tensor):
        return values
    if values.dtype.hasobject:
        raise TypeError(f"{name} is an array of objects, not of numbers.")
    return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))


def _in_unit_range(name: str, values: torch.Tensor) -> torch.Tensor:
    """Scales uint8 to [0, 1]; checks that floating-point numbers lie there."""
    if values.dtype == torch.uint8:
        return values.float() / 255
    if not values.dtype.is_floating_point:
        raise ValueError(f"{name} has values of type {values.dtype}; give uint8, or floating-point numbers in [0, 1].")
    if not values.numel():
        raise ValueError(f"{name} has the shape {tuple(values.shape)}, without a single pixel.")
    low, high = values.min().item(), values.max().item()
    if not (low >= 0 and high <= 1):  # also if a value is not a number
        raise ValueError(f"{name} has values from {low:.9g} to {high:.9g}; floating-point numbers must lie in [0, 1].")
    return values.float()


def _joined(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
    sizes = sorted({tuple(part.shape[-2:]) for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"{name} has arrays of different heights and widths: {', '.join(map(str, sizes))}.")
    return torch.cat(parts)
