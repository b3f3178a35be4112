"""Environments with fewer packages than this one, as a process that cannot import the others."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

NAME = re.compile(r"[\w.-]+")


def canonical(requirement: str) -> str:
    """The name in a requirement, as indices compare it."""
    return re.sub(r"[-_.]+", "-", NAME.match(requirement)[0]).lower()


def installed_with(requirements: Iterable[str]) -> set[str]:
    """The names of the packages that pip installs for some requirements, as far as this environment has them."""
    found, waiting = set(), [canonical(requirement) for requirement in requirements]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:  # one for another platform
            continue
        waiting += [canonical(line) for line in needed if "extra ==" not in line]
    return found


@cache
def modules_of_packages() -> dict[str, set[str]]:
    """The packages that have each top module."""
    return {module: set(map(canonical, names)) for module, names in packages_distributions().items()}


def hide_others(requirements: Iterable[str]) -> str:
    """Lines of Python after which only this package and what pip installs for some requirements can be imported."""
    kept = installed_with(requirements) | {"diffusers-ccld", "pip", "setuptools"}
    hidden = sorted(module for module, packages in modules_of_packages().items() if not packages & kept)
    return f"import sys\nfor name in {hidden!r}:\n    sys.modules[name] = None\n"
