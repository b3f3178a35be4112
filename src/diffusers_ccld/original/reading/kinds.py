"""Recognises files by their first bytes: what is not a checkpoint is named, not called damaged."""

import json
import re
import zipfile
from pathlib import Path

from ...utils.first_bytes import is_pointer
from ..errors import CheckpointError

WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml")

# First bytes of files that are not checkpoints, what they are, and what to do.
SIGNATURES = (
    (b"\x1f\x8b", "a gzip archive; unpack it, and give the file inside"),
    (b"BZh", "a bzip2 archive; unpack it, and give the file inside"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it, and give the file inside"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it, and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it, and give the file inside"),
    (b"Rar!", "a RAR archive; unpack it, and give the file inside"),
    (b"\x89HDF", "an HDF5 file of another framework"),
    (b"GGUF", "a GGUF file of quantised weights"),
    (b"\x93NUMPY", "a NumPy array without names"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
)
TAR_MAGIC, TAR_OFFSET = b"ustar", 257
BEGINNING_OF_JSON = re.compile(r'\s*(\{\s*["}]|\[\s*[]"[{\d-])')  # and not "[section]" of a file of settings
LONGEST_HEADER = 10**8  # bytes; the limit of safetensors itself
PICKLES = (b"\x80", b"(", b"c", b"}", b"]")  # the protocol, or what earlier ones begin with
HEAD = 1024  # bytes that are looked at


def is_safetensors(path: Path) -> bool:
    """True for a file that begins like one of safetensors: the length of a header of JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def begins_like_weights(path: Path) -> bool:
    """True for a file that begins like one of safetensors, an archive of PyTorch, or a pickle of any protocol."""
    with path.open("rb") as file:
        head = file.read(4)
    return head.startswith(PICKLES) or head == b"PK\x03\x04" or path.suffix == ".safetensors" or is_safetensors(path)


def check_kind(path: Path) -> None:
    """Raises `CheckpointError` for a file that is certainly something else than a checkpoint, and says what it is."""
    kind = _other_kind(path)
    if kind is not None:
        raise CheckpointError(f"{path} is {kind}.")


def _other_kind(path):
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "empty; download it again"
    if is_pointer(head):
        return "a Git LFS pointer, not the file itself; run `git lfs pull` in its repository, or download it"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:20].lower().startswith(WEB_PAGE):
        return "a web page, not a model: its address is that of a page; download the file that the page links to"
    for signature, kind in SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[TAR_OFFSET:].startswith(TAR_MAGIC):
        return "a tar archive; unpack it, and give the file inside"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    return _kind_of_text(head)


def _kind_of_zip(path):
    """Names an archive without a pickle of PyTorch, or with a program; `None` for all others."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, RuntimeError, ValueError, LookupError, OverflowError, OSError):
        return None  # the reader of checkpoints says what is wrong with it
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, not a checkpoint; save its state_dict() with torch.save"
    if any(name.endswith("data.pkl") for name in names):
        return None
    files = [name for name in names if not name.endswith("/")]
    shown = f" ({files[0][:60]}{', …' if len(files) > 1 else ''})" if files else ""
    number = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"a zip archive of {number}{shown}; unpack it, and give the checkpoint inside"


def _kind_of_text(head):
    """Names JSON and short messages of servers. A pickle may be text, too, but has no words on its first line."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else the last character is cut off
            return None
        text = head[: error.start].decode()
    first = text.strip().partition("\n")[0]
    if not first.isprintable() or any(not (c.isprintable() or c in "\r\n\t") for c in text):
        return None
    if BEGINNING_OF_JSON.match(text):
        try:
            json.loads(text)
            is_json = True
        except (ValueError, RecursionError):
            is_json = len(head) == HEAD  # only the beginning was read
        if is_json:
            return "JSON, not weights"
    words = first.split()
    if len(words) >= 2:
        return f"a text that begins “{first[:50]}”, not a model; check the address that it came from"
    return None
