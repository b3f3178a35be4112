"""What the arguments of random calls are made of. A call is printed as code that names these functions."""

import numpy as np
import torch
from PIL import Image

# Modes of pictures that are accepted; "F" is refused.
MODES = ("RGB", "RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "I", "RGBX", "RGBa", "La")
MASK_MODES = ("L", "1", "RGB", "RGBA", "LA", "P", "I;16", "I", "CMYK")


def array(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Pixels as an array: uint8 of 0 … 255, or floating-point numbers in [0, 1]."""
    values = np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)
    return values if dtype == "uint8" else (values / 255).astype(dtype)


def tensor(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    """Pixels as a tensor."""
    values = torch.from_numpy(array(shape, "uint8", seed))
    return values if dtype == "uint8" else values.to(getattr(torch, dtype)) / 255


def pil(mode: str, width: int, height: int, seed: int, turned: bool = False) -> Image.Image:
    """A picture of noise in any mode; turned by its EXIF data if wanted."""
    if mode in ("I;16", "I"):
        values = np.random.RandomState(seed).randint(0, 65536, (height, width))
        image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    else:
        image = Image.fromarray(array((height, width, 4), "uint8", seed), "RGBA")
        image = image if mode == "RGBA" else _converted(image, mode)
    if turned:
        image.getexif()[0x0112] = 6
    return image


def _converted(image, mode):
    if mode in ("LAB", "HSV", "YCbCr", "CMYK", "RGBX", "1", "P"):
        image = image.convert("RGB")
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    if mode == "La":
        return image.convert("LA").convert("La")
    return image.convert(mode)


def mask_array(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Masks (…, H, W) as an array, some rows and columns of which are to be painted."""
    rows = np.random.RandomState(seed).randint(shape[-2] // 2, shape[-2])
    values = np.zeros(shape, bool)
    values[..., :rows, : shape[-1] // 2] = True
    return values if dtype == "bool" else (values * (255 if dtype == "uint8" else 1)).astype(dtype)


def mask_tensor(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    """Masks as a tensor."""
    values = torch.from_numpy(mask_array(shape, "bool", seed))
    return values.byte() * 255 if dtype == "uint8" else values.to(getattr(torch, dtype))


def mask_pil(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """A mask as a picture: white where to paint, else black."""
    values = mask_array((height, width), "bool", seed)
    if mode in ("I;16", "I"):
        return Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32) * 65535)
    grey = Image.fromarray(values.astype(np.uint8) * 255)
    return grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)


def normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Standard normal noise, for latents."""
    return torch.randn(shape, generator=generator(seed))


def embeds(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Embeddings of unit length."""
    return torch.nn.functional.normalize(normal(shape, seed), dim=-1)


def generator(seed: int) -> torch.Generator:
    """A source of noise."""
    return torch.Generator().manual_seed(seed)


class Watch:
    """A callback that notes what it is given, and may end the run, change its guidance or replace its latents.

    Attributes:
        indices: The steps after which it was called.
        latents: The latents after each.
    """

    def __init__(self, action: str = "", at: int = 0):
        self.action, self.at = action, at
        self.indices, self.latents = [], []

    def __call__(self, pipe, index, timestep, tensors):
        self.indices.append(index)
        self.latents.append(tensors.get("latents"))
        if self.action == "stop" and index == self.at:
            pipe._interrupt = True
        if self.action == "guidance":
            pipe._guidance_scale = 1.0
        if self.action == "replace":
            return {"latents": tensors["latents"] * 0.5}
        return None if self.action == "none" else {}
