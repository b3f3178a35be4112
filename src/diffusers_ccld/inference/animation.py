"""Frames and animations as files, and a folder that keeps pictures by position so that a run can resume."""

import json
import re
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

from PIL import Image

from ..utils.errors import first_line
from ..utils.files import moved_into_place, remove_folder, write_text
from .even_frames import POSITION_DIGITS
from .names import ANIMATION_FORMATS
from .provenance import Provenance, describe_difference, embedded, save_picture

# Fields of the settings that folders of earlier versions do not have; they can resume without.
ADDED = ("runtime", "trained_size")

_FRAME_NAME = re.compile(r"\d{5}\.png")


class PictureFolder(MutableMapping):
    """A mapping from positions to pictures, kept as PNG files that record how they were made.

    Pictures of earlier runs in the folder are part of the mapping.

    Args:
        folder: The folder; it is created when the first picture is written.
        settings: The part of the record that all pictures share.
    """

    def __init__(self, folder: Path, settings: Provenance):
        self.folder = folder
        self.settings = settings

    def path(self, position: float) -> Path:
        """Path of the file for a position, which need not exist."""
        return self.folder / f"{position:.{POSITION_DIGITS}f}.png"

    def __contains__(self, position: object) -> bool:
        return self.path(position).is_file()

    def __getitem__(self, position: float) -> Image.Image:
        if position not in self:
            raise KeyError(position)
        path = self.path(position)
        try:
            with Image.open(path) as picture:
                picture.load()
                return picture
        except (OSError, SyntaxError, ValueError) as error:  # as Pillow reports damaged files
            raise ValueError(f"{path} is damaged; delete it, or use --overwrite. ({first_line(error)})") from error

    def __setitem__(self, position: float, picture: Image.Image) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_picture(picture, self.path(position), {**self.settings, "position": position, "size": list(picture.size)})

    def __delitem__(self, position: float) -> None:
        self.path(position).unlink()

    def __iter__(self) -> Iterator[float]:
        names = [path.stem for path in self.folder.glob("[0-9]*.png")]
        return iter(sorted(float(name) for name in names if re.fullmatch(r"\d+(\.\d+)?", name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def open_picture_folder(output: Path, settings: Provenance, overwrite: bool) -> PictureFolder:
    """Starts or resumes the pictures of a run in `output`/painted.

    Args:
        output: The folder of the run, with its settings in `interpolation.json`.
        settings: Everything except the position that determines a picture.
        overwrite: Deletes all pictures of earlier runs.

    Raises:
        ValueError: If the folder has pictures with other settings, or unrelated files.
    """
    settings_path, folder = output / "interpolation.json", output / "painted"
    check_picture_folder(output, settings, overwrite)
    if overwrite and folder.is_dir():
        remove_folder(folder)
    output.mkdir(parents=True, exist_ok=True)
    write_text(settings_path, json.dumps(settings, indent=2) + "\n")
    return PictureFolder(folder, settings)


def check_picture_folder(output: Path, settings: Provenance, overwrite: bool) -> None:
    """Raises `ValueError` if a run can neither start nor resume in a folder; changes nothing."""
    settings_path = output / "interpolation.json"
    if not settings_path.is_file():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise ValueError(f"{output} contains other files; choose another --output.")
        return
    if overwrite:
        return
    try:
        found = dict(json.loads(settings_path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{settings_path} is damaged; use --overwrite to start again.") from error
    found = {name: settings[name] for name in ADDED if name in settings} | found
    if found != settings:
        difference = describe_difference(found, settings)
        raise ValueError(f"{output} has pictures {difference}; choose another --output, or use --overwrite.")


def save_frames(frames: Sequence[Path], output: Path) -> None:
    """Copies pictures into a folder as 00000.png, 00001.png, …, and deletes frames with higher numbers."""
    for number, frame in enumerate(frames):
        with moved_into_place(output / f"{number:05d}.png") as temporary:
            temporary.write_bytes(frame.read_bytes())
    for path in output.iterdir():
        if _FRAME_NAME.fullmatch(path.name) and int(path.stem) >= len(frames):
            path.unlink()


def save_animation(
    frames: Sequence[Image.Image],
    path: Path,
    animation_format: str,
    frame_rate: float,
    record: Provenance | None = None,
) -> None:
    """Saves an animation that repeats forever.

    Args:
        frames: Pictures of one size.
        path: The file to write.
        animation_format: One of `ANIMATION_FORMATS`. A GIF has 256 colours per frame and counts time in hundredths of
            a second.
        frame_rate: Frames per second.
        record: The record of how it was made, for the file; the frame rate is added.
    """
    _, pillow_format, options = ANIMATION_FORMATS[animation_format]
    if record is not None:
        options = options | embedded({**record, "frame_rate": frame_rate}, pillow_format)
    with moved_into_place(path) as temporary:
        frames[0].save(
            temporary,
            format=pillow_format,
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / frame_rate),
            loop=0,
            **options,
        )
