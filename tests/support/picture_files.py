"""Pictures for training tests: good ones of all modes, and broken ones of twenty kinds."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def patchwork(number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture of large coloured squares, another one for every number."""
    colours = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def write_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        patchwork(number, (40 + number % 7, 40 + number % 5)).save(path)
    return paths


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_broken_pictures(folder: Path) -> list[Path]:
    """Twenty paths, none of which leads to a picture that can be trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    png, jpeg = encoded(photo, "PNG"), encoded(photo, "JPEG")
    bmp, tiff, webp = encoded(photo, "BMP"), encoded(photo, "TIFF"), encoded(photo, "WEBP")
    flipped = bytearray(png)
    for i in range(200, 400):
        flipped[i] ^= 0xFF
    contents = {
        "empty.png": b"",
        "text.jpg": b"this is not a picture",
        "page.jpg": b"<!DOCTYPE html><html><title>404</title></html>",
        "archive.png": b"PK\x03\x04" + bytes(200),
        "noise.webp": np.random.default_rng(1).bytes(500),
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "half.bmp": bmp[: len(bmp) // 2],
        "half.tiff": tiff[:20],
        "half.webp": webp[: len(webp) // 2],
        "start.jpg": jpeg[:2],
        "header.png": png[:33],
        "header.gif": encoded(photo, "GIF")[:14],
        "flipped.png": bytes(flipped),
        "point.png": encoded(patchwork(0, (1, 1)), "PNG"),
        "thread.png": encoded(patchwork(0, (2000, 3)), "PNG"),
        "wall.png": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
        "floats.tiff": encoded(Image.new("F", (64, 64), 0.5), "TIFF"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    return [*(folder / name for name in contents), folder / "folder.png", folder / "missing.png"]


def write_shard(path, numbers):
    """A WebDataset shard of pictures with captions."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            files = {"png": encoded(patchwork(number), "PNG"), "txt": f"patchwork number {number}".encode()}
            for ending, content in files.items():
                info = tarfile.TarInfo(f"{number:04d}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
