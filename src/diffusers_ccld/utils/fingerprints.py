"""Short fingerprints of models, by which a page knows whose link it opens. It needs the standard library alone."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

LENGTH = 8  # hexadecimal digits


def weights_fingerprint(digests: Mapping[str, str]) -> str | None:
    """The fingerprint of a pipeline's weights; `None` without any.

    Args:
        digests: Hexadecimal SHA-256 of each safetensors file, by its path in the pipeline's folder, with slashes.
    """
    if not digests:
        return None
    text = "".join(f"{path}\0{digests[path]}\n" for path in sorted(digests))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def folder_fingerprint(folder: str | Path) -> str | None:
    """The fingerprint of the weights in a pipeline's folder, read from its files.

    Raises:
        OSError: If a file cannot be read.
    """
    digests = {}
    for path in Path(folder).rglob("*.safetensors"):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return weights_fingerprint(digests)
