"""Markdown tables and reports of measurements."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..utils.files import write_text


def table_head(columns: Iterable[object], corner: str = "") -> str:
    """Heading of a table: the name of each column, and the line below.

    Args:
        columns: Names of the columns behind the first.
        corner: Name of the first column, which names the rows.
    """
    names = [corner, *map(str, columns)]
    return "\n".join(["|" + "".join(f" {name} |" if name else " |" for name in names), "|---" * len(names) + "|"])


def table_row(name: object, cells: Iterable[object]) -> str:
    """One row of a table."""
    return "| " + " | ".join(map(str, [name, *cells])) + " |"


def markdown_table(
    rows: Mapping[str, Mapping[object, object]], form: Callable[[float], str] = "{:.1f}".format, corner: str = ""
) -> str:
    """A table with one row for each entry of `rows`.

    Args:
        rows: For each row its cells, by the name of the column: numbers, texts, or `None` for an empty cell. A column
            that a row lacks is empty there.
        form: Formats numbers.
        corner: Name of the first column, which names the rows.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))

    def cell(value: object) -> str:
        if value is None:
            return ""
        return value if isinstance(value, str) else form(value)

    lines = [table_row(name, [cell(row.get(column)) for column in columns]) for name, row in rows.items()]
    return "\n".join([table_head(columns, corner), *lines])


class Report:
    """Prints sections of Markdown as they come, and rewrites a file with all of them.

    Args:
        path: The file, if there is one.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.sections: list[str] = []

    def add(self, title: str, text: str) -> None:
        """Adds a section."""
        self.sections.append(f"### {title}\n\n{text}\n")
        print(self.sections[-1], flush=True)
        if self.path is not None:
            write_text(self.path, "\n".join(self.sections))
