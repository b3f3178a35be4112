"""Folders on the Hugging Face Hub. A repository is created and checked before the work, not after it."""

import dataclasses
import json
import shlex
from pathlib import Path

from huggingface_hub import HfApi

from ..utils.errors import first_line

# Files that describe the machine on which a folder was made; they are not uploaded.
LEFT_AT_HOME = ("conversion_report.json",)


def prepare_repository(name: str, private: bool = False) -> str:
    """Creates a repository if it does not exist, and checks that it can be written.

    The token is that of `hf auth login` or of the variable `HF_TOKEN`.

    Args:
        name: Name of the repository; without an owner it is the user's.
        private: Creates a private repository if true. An existing one is not changed.

    Returns:
        The full name, "owner/name".

    Raises:
        ValueError: If the repository cannot be written.
    """
    try:
        api = HfApi()
        repo_id = api.create_repo(name, private=private or None, exist_ok=True).repo_id
        api.auth_check(repo_id, write=True)  # an existing one may belong to someone else
    except Exception as error:  # network errors do not have a common base class
        raise ValueError(
            f"{name} cannot be written on the Hub; is the name right, is `hf auth login` done, and may its token "
            f"write? ({first_line(error)})"
        ) from error
    return repo_id


def push_folder(folder: str | Path, repo_id: str) -> str:
    """Uploads a folder to a repository and returns its address.

    Raises:
        OSError: If the upload fails. The folder is kept, and the message has the command that uploads it by hand.
    """
    try:
        return str(
            HfApi().upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message="Upload a model",
                ignore_patterns=list(LEFT_AT_HOME),
            )
        )
    except Exception as error:  # as in `prepare_repository`
        by_hand = ["hf", "upload", repo_id, str(folder), ".", "--exclude", *LEFT_AT_HOME]
        raise OSError(
            f"The upload failed ({first_line(error)}). {folder} is complete; try again with: {shlex.join(by_hand)}"
        ) from error


def _setting(default: bool | None, help: str) -> dataclasses.Field:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(kw_only=True)
class HubSettings:
    """Settings of an upload, for the scripts' flags and the settings of training runs.

    Raises:
        ValueError: If a repository is described, but nothing is uploaded.
    """

    push_to_hub: bool = _setting(False, "upload the result to the Hub")
    hub_model_id: str | None = _setting(None, "name of the result on the Hub (default: the output folder's)")
    hub_private_repo: bool = _setting(False, "create the repository as a private one")

    def __post_init__(self):
        if not self.push_to_hub and (self.hub_model_id is not None or self.hub_private_repo):
            raise ValueError("hub_model_id and hub_private_repo describe an upload: give push_to_hub as well.")

    def prepare_repository(self, default_name: str) -> str | None:
        """Makes sure that the repository can be written; returns its full name, or `None` without an upload.

        Args:
            default_name: Its name if the settings have none.

        Raises:
            ValueError: If it cannot be written.
        """
        if not self.push_to_hub:
            return None
        return prepare_repository(self.hub_model_id or default_name, self.hub_private_repo)


def forget_places(folder: Path) -> None:
    """Deletes, in the configurations of a pipeline's folder, the places that components were loaded from."""
    for path in [folder / "model_index.json", *folder.glob("*/*config.json")]:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
