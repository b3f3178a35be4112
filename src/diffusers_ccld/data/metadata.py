"""Metadata files beside pictures: metadata.csv, .jsonl or .parquet, with the column file_name, as for `datasets`."""

import codecs
import os
from pathlib import Path

import datasets
import pyarrow as pa
from pyarrow import csv, json, parquet

from .folders import FolderContent

FILE_COLUMNS = ("file_name", "image_file_name")


def described_pictures(pictures: list[Path], content: FolderContent) -> datasets.Dataset:
    """The pictures that metadata files describe, undecoded in the column "image", with all columns of these files.

    The order is that of the pictures. A picture with several rows comes as often. A picture without a row, and a row
    without a picture, are recorded as skipped.

    Args:
        pictures: The pictures.
        content: The folder, with its metadata files.

    Raises:
        ValueError: If a metadata file cannot be read, two of them describe one folder, or no picture has a row.
    """
    tables, names = [], []
    for path in content.metadata:
        if any(other != path and other.parent == path.parent for other in content.metadata):
            raise ValueError(f"{path.parent} has several metadata files; keep one of them.")
        table, file_names = _read(path)
        tables.append(table)
        names += [os.path.normpath(path.parent / name) for name in file_names]
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows_of.setdefault(name, []).append(row)
    rows = [(str(picture), row) for picture in pictures for row in rows_of.get(os.path.normpath(picture), [])]
    if not rows:
        raise ValueError(f"{content.metadata[0]}: none of the {len(names):,} rows names a picture of the folder.")
    described = {os.path.normpath(picture) for picture, _ in rows}
    content.pass_over([path for path in pictures if os.path.normpath(path) not in described], "not in the metadata")
    every = {os.path.normpath(path) for path in content.pictures}
    content.pass_over(
        [Path(name) for name in rows_of if name not in every], "in the metadata, but not a picture there"
    )
    try:
        table = pa.concat_tables(tables, promote_options="permissive").take([row for _, row in rows])
    except pa.ArrowException as error:
        raise ValueError(f"{content.folder} has metadata files that do not fit together. ({error})") from error
    table = table.add_column(0, "image", pa.array([picture for picture, _ in rows]))
    return datasets.Dataset(table).cast_column("image", datasets.Image(decode=False))


def _read(path: Path) -> tuple[pa.Table, list[str]]:
    """The columns of a metadata file without that of the file names, and the file names."""
    try:
        if path.suffix == ".csv":
            with path.open("rb") as file:
                start = file.read(2)
            encoding = "utf16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf8"
            table = csv.read_csv(
                path,
                read_options=csv.ReadOptions(encoding=encoding),
                parse_options=csv.ParseOptions(newlines_in_values=True),
            )
        else:
            table = json.read_json(path) if path.suffix == ".jsonl" else parquet.read_table(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read. ({error})") from error
    undecoded = [field.name for field in table.schema if pa.types.is_binary(field.type)]
    if path.suffix == ".csv" and undecoded:  # pyarrow reads what is not UTF-8 as bytes
        raise ValueError(f"{path}: the column {undecoded[0]} is not UTF-8; save the file as UTF-8.")
    column = next((name for name in FILE_COLUMNS if name in table.column_names), None)
    if column is None:
        raise ValueError(f"{path} has no column file_name, which names the pictures; it has {table.column_names}.")
    names = table[column].to_pylist()
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: the column {column} has other values than names of files.")
    table = table.drop_columns(column)
    if "image" in table.column_names:
        raise ValueError(f"{path} has a column image, which is the name of the pictures' column; rename it.")
    return table, names
