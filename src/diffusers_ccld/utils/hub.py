"""Questions to the Hugging Face Hub."""

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

SECONDS_TO_ANSWER = 5


def is_on_hub(name: str, kind: str) -> bool | None:
    """Asks the Hub once for a repository, for some seconds. The libraries would ask again and again, for every file.

    Args:
        name: The repository's name.
        kind: "model" or "dataset".

    Returns:
        False if the Hub has no such public repository, and `None` if it cannot be reached. True otherwise, also where
        the Hub answers with another error, which the library that loads the repository then explains.
    """
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=SECONDS_TO_ANSWER)
    except RepositoryNotFoundError:
        return False
    except HfHubHTTPError:
        return True
    except Exception:  # no connection, one that is not wanted, or not a name
        return None
    return True
