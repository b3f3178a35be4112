"""Names of models on the Hugging Face Hub."""

import re

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def require_hub_name(name: str, option: str = "") -> None:
    """Raises `ValueError` unless a name that is not a folder's can be a model's on the Hub.

    Args:
        name: The name.
        option: The option that gave it, for messages.
    """
    if not HUB_NAME.fullmatch(name):
        raise ValueError(
            f"{option} {name}: this is neither a folder nor a model on the Hub, named owner/name.".lstrip()
        )
