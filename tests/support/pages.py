"""The commands in README and docs."""

import ast
import re
import shlex
from pathlib import Path


def blocks_of(path: Path) -> str:
    """The lines of a page's blocks for a shell."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))


def prompts_in_python(path: Path) -> list[str]:
    """The strings of several words in a page's blocks of Python, which are prompts."""
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [string for string in strings if " " in string]


def commands_of(path: Path) -> list[list[str]]:
    """The arguments of the `ccld` commands in a page's blocks for a shell."""
    lines = blocks_of(path).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ccld ")]
