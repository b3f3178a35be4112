"""The last line of trainings and conversions: how their result is used."""

import shlex
from pathlib import Path


def print_how_to_sample(folder: Path) -> None:
    """Prints the command that samples a pipeline. Prints nothing if the folder is not a whole one."""
    if (folder / "model_index.json").is_file():
        print(f'To sample it: ccld sample "PROMPT" --model {shlex.quote(str(folder))}')
