"""The libraries of this package's extras."""

import re
from importlib.metadata import PackageNotFoundError, requires


def install_command(extra: str) -> str:
    """The command that installs the libraries of an extra, by their own names: this package may be on no index."""
    try:
        lines = requires("diffusers-ccld") or []
    except PackageNotFoundError:  # run from the source's folder
        lines = []
    pattern = re.compile(rf'([\w.-]+[^;]*);\s*extra == [\'"]{extra}[\'"]')
    names = [match.group(1).strip() for line in lines if (match := pattern.fullmatch(line))]
    return "pip install " + (" ".join(f'"{name}"' for name in names) if names else f'".[{extra}]"')
