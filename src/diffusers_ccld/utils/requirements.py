"""The libraries that this package and its extras require, and the commands that install them.

The commands name the libraries themselves: this package may be on no index.
"""

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "diffusers-ccld"
CHECKOUT = Path(__file__).resolve().parents[3]
ENVIRONMENT = CHECKOUT / ".venv"  # the Makefile's, by default
MARK = "made-by-make"  # the Makefile's, in every environment that it makes
TARGETS = {"": "install", "demo": "demo", "training": "training", "compare": "training"}  # the Makefile's, by extra
DISTRIBUTIONS = {"PIL": "Pillow", "yaml": "PyYAML", "cv2": "opencv-python-headless", "open_clip": "open_clip_torch"}

_REQUIREMENT = re.compile(r"([\w.-]+)([^;]*)(?:;.*extra\s*==\s*['\"]([\w-]+))?")


def install_command(extra: str = "") -> str:
    """The command that installs what the package requires and this environment lacks, and what an extra requires.

    In an environment of the checkout's Makefile, it is `make` with a target.

    Args:
        extra: One of setup.cfg's; none by default.
    """
    is_usual = ENVIRONMENT.is_dir() and ENVIRONMENT.samefile(sys.prefix)
    if extra in TARGETS and (is_usual or Path(sys.prefix, MARK).is_file()):
        folder = [] if Path.cwd() == CHECKOUT else ["-C", str(CHECKOUT)]
        environment = [] if is_usual else [f"VENV={sys.prefix}"]
        return shlex.join(["make", *folder, TARGETS[extra], *environment])
    lines = missing() + [line for name, line in _requirements() if name == extra != ""]
    if not lines:  # run from the source's folder
        return f'pip install ".[{extra}]"' if extra else "pip install ."
    return "pip install " + " ".join(f'"{line}"' for line in lines)


def command_for(module: str) -> str | None:
    """The command that installs a library that could not be imported; `None` if nothing requires it.

    Args:
        module: Its top module.
    """
    name = DISTRIBUTIONS.get(module, module)
    found = [(extra, line) for extra, line in _requirements() if _REQUIREMENT.match(line)[1] == name]
    if not found or find_spec(module) is not None:
        return None
    extra, line = found[0]
    return f'pip install "{line}"' if extra else install_command()


def missing() -> list[str]:
    """The package's own requirements that are not installed, such as "torch>=2.10"."""
    return [line for extra, line in _requirements() if not extra and not _is_installed(_REQUIREMENT.match(line)[1])]


def require_torch(purpose: str) -> None:
    """Raises `ValueError` unless torch is installed.

    Args:
        purpose: The command or the options that need it.
    """
    if find_spec("torch") is None:
        raise ValueError(f"{purpose}: this needs torch, which is not installed. To install it: {install_command()}")


def _requirements() -> list[tuple[str, str]]:
    """Pairs of an extra, "" for the package itself, and a requirement. None where the source's folder is run."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    matches = [_REQUIREMENT.match(line) for line in lines]
    return [(match[3] or "", f"{match[1]}{match[2]}".strip()) for match in matches]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
