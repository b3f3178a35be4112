"""Convolutions of 3×3 pixels with a quarter of the multiplications, for inference in float32 on a CPU.

Winograd's minimal filtering F(4×4, 3×3): a tile of 6×6 input pixels and the kernel are each mapped to 36 values. Their
products, summed over the input channels, are mapped to 4×4 output pixels. That takes 36 multiplications in place of
144 (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308).

The products are 1×1 convolutions in 36 groups, because oneDNN computes these at full speed. The maps are small matrix
products, first along the columns of pixels, then along the rows. A pixel that is not finite, or whose size is near the
limits of float32, spoils the whole tile.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

TILE = 4  # output pixels on a side of a tile
OVERLAP = 2  # the input of a tile has two more
SIDE = TILE + OVERLAP
# The maps evaluate polynomials at these points and at infinity. Rounding errors are less than half of those with the
# usual 0, ±1, ±2. Half precision has too few digits for either.
POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
NUM_PRODUCTS = (len(POINTS) + 1) ** 2
MAX_TILES = 128  # at once, which fit into a processor's cache
# With fewer channels, pixels for each output channel or tiles at once, the maps and the larger kernels take longer
# than the products save.
MIN_CHANNELS, MIN_PIXELS_PER_CHANNEL, MIN_TILES = 128, 4, 32


def _powers(count: int) -> torch.Tensor:
    rows = [[point**power for power in range(count)] for point in POINTS]
    return torch.tensor([*rows, [0] * (count - 1) + [1]], dtype=torch.float64, device="cpu")


# (6, 3), as numbers: torch.compile would take a tensor for an input, and map the weights in each call.
KERNEL_MAP = _powers(3).tolist()
OUTPUT_MAP = _powers(TILE).T.float()  # (4, 6)
INPUT_MAP = torch.linalg.inv(_powers(SIDE)).T.float()  # (6, 6)


def _multiply(matrix: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    return torch.bmm(matrix.expand(len(batch), -1, -1), batch)


def rows_at_once(height: int, width: int) -> int:
    """Rows of tiles that are computed at once: as many as fit into the cache and divide the picture evenly."""
    rows, columns = height // TILE, width // TILE
    return next((count for count in range(rows, 1, -1) if rows % count == 0 and count * columns <= MAX_TILES), 1)


def tiles_at_once(height: int, width: int) -> int:
    """Number of tiles that are computed at once."""
    return rows_at_once(height, width) * width // TILE


def winograd_is_faster(in_channels: int, out_channels: int, height: int, width: int) -> bool:
    """True for sizes at which these convolutions are possible and were measured to be faster than oneDNN's."""
    return (
        min(in_channels, out_channels) >= MIN_CHANNELS
        and height % TILE == width % TILE == 0
        and height * width >= MIN_PIXELS_PER_CHANNEL * out_channels
        and tiles_at_once(height, width) >= MIN_TILES
    )


def map_kernels(weight: torch.Tensor) -> torch.Tensor:
    """Maps kernels (O, I, 3, 3) to those of 36 groups of 1×1 convolutions, (36·O, I, 1, 1)."""
    kernel_map = torch.tensor(KERNEL_MAP, dtype=torch.float64, device="cpu")
    mapped = torch.einsum("ak,oikl,bl->aboi", kernel_map, weight.double(), kernel_map).to(weight.dtype)
    return mapped.reshape(-1, weight.shape[1], 1, 1)


def convolve_batch(
    hidden_states: torch.Tensor, bias: torch.Tensor | None, multiply: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Convolves with kernels of 3×3 pixels, with zeros around each picture.

    Args:
        hidden_states: (N, I, H, W), H and W multiples of 4.
        bias: (O,), or `None`.
        multiply: Applies the 1×1 convolutions of `map_kernels` to all tiles, (1, 36·I, N·H·W / 16, 1).

    Returns:
        (N, O, H, W), channels-last.
    """
    pixels = _convolve(F.pad(hidden_states.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)), bias, multiply)
    return pixels.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def convolve_in_parts(
    hidden_states: torch.Tensor,
    bias: torch.Tensor | None,
    out_channels: int,
    multiply: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The same in parts that fit into the cache. The result for a picture does not depend on the others of its batch.

    Args:
        hidden_states: (N, I, H, W), H and W multiples of 4.
        bias: (O,), or `None`.
        out_channels: O.
        multiply: Applies the 1×1 convolutions of `map_kernels` to (1, 36·I, T, 1), where T is `tiles_at_once(H, W)`.

    Returns:
        (N, O, H, W), channels-last.
    """
    num_images, _, height, width = hidden_states.shape
    num_rows = TILE * rows_at_once(height, width)
    result = hidden_states.new_empty(num_images, height, width, out_channels)
    for picture, output in zip(hidden_states.permute(0, 2, 3, 1), result):
        for start in range(0, height, num_rows):
            rows = output[start : start + num_rows].view(-1, TILE, width // TILE, TILE, out_channels)
            above, below = min(start, 1), min(height - start - num_rows, 1)
            padding = 0, 0, 1, 1, 1 - above, 1 - below
            padded = F.pad(picture[start - above : start + num_rows + below], padding)
            rows.copy_(_convolve(padded[None], bias, multiply)[0].transpose(1, 2))
    return result.permute(0, 3, 1, 2)


def _convolve(padded, bias, multiply):
    """Maps (N, 4·R + 2, 4·C + 2, I) to tiles of pixels (N, R, C, 4, 4, O)."""
    num_images, height, width, channels = padded.shape
    rows, columns = height // TILE, width // TILE
    num_tiles = num_images * rows * columns
    bands = padded.flatten(2).unfold(1, SIDE, TILE).transpose(2, 3).reshape(-1, SIDE, width * channels)
    bands = _multiply(INPUT_MAP, bands).unflatten(2, (width, channels))
    tiles = bands.unfold(2, SIDE, TILE).permute(0, 2, 1, 4, 3).reshape(-1, SIDE, channels)
    tiles = _multiply(INPUT_MAP, tiles).reshape(1, num_tiles, 1, -1).permute(0, 3, 1, 2)
    products = multiply(tiles).permute(0, 2, 3, 1).reshape(num_tiles, SIDE, -1)
    pixels = _multiply(OUTPUT_MAP, products).reshape(num_tiles * TILE, SIDE, -1)
    pixels = _multiply(OUTPUT_MAP, pixels)
    if bias is not None:
        pixels = pixels.add_(bias)
    return pixels.view(num_images, rows, columns, TILE, TILE, -1)
