"""Identifies files of unexpected kinds by their first bytes."""

LENGTH = 64  # number of first bytes that suffice
POINTER = "a Git LFS pointer, not the file (run `git lfs pull` in its repository)"

# ISO base media files name their brand after "ftyp".
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}
BRANDS |= {b"avif": "AVIF", b"avis": "AVIF"}
BEGINNINGS = {
    b"version https://git-lfs": POINTER,
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file, perhaps an SVG drawing",
    b"pk\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"%pdf": "a PDF document",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cjxl ": "a JPEG XL picture",
}


def describe_first_bytes(data: bytes) -> str | None:
    """Describes the kind of a file that is often found in place of the expected one; `None` for other kinds.

    Args:
        data: The first `LENGTH` bytes of the file, or more.
    """
    if not data:
        return "an empty file"
    if data[4:8] == b"ftyp":
        return f"a picture in {BRANDS[data[8:12]]}" if data[8:12] in BRANDS else "a video or another media file"
    start = data[:LENGTH].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    return next((what for beginning, what in BEGINNINGS.items() if start.startswith(beginning)), None)


def is_pointer(data: bytes) -> bool:
    """True for the first bytes of a Git LFS pointer, a small text file that takes the place of a large one."""
    return describe_first_bytes(data) == POINTER
