"""The commands in README and docs."""

import re
import shlex
from pathlib import Path


def blocks_of(path: Path) -> str:
    """The lines of a page's blocks for a shell."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))


def commands_of(path: Path) -> list[list[str]]:
    """The arguments of the `ccld` commands in a page's blocks for a shell."""
    lines = blocks_of(path).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ccld ")]
