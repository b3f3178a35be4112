"""Names of models on the Hugging Face Hub."""

import re

from .suggestions import path_suggestion

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def require_hub_name(name: str, option: str = "") -> None:
    """Raises `ValueError` unless a name that is not a folder's can be a model's on the Hub.

    Args:
        name: The name.
        option: The option that gave it, for messages.
    """
    if not HUB_NAME.fullmatch(name):
        advice = path_suggestion(name, ["default"], is_folder=True)
        message = f"{option} {name}: this is neither a folder nor a model on the Hub, named owner/name.{advice}"
        raise ValueError(message.lstrip())
