"""Frames and animations as files, and a folder of pictures by position for work that may be interrupted."""

import json
import re
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

from PIL import Image

from ..utils.files import moved_into_place, remove_folder, write_text
from .even_frames import POSITION_DIGITS
from .names import ANIMATION_FORMATS
from .provenance import Provenance, save_picture

_FRAME_NAME = re.compile(r"\d{5}\.png")


class PictureFolder(MutableMapping):
    """Pictures by position, each a PNG file that says how it was made; what is in the folder is there again.

    Args:
        folder: Where the files lie; made when the first is written.
        settings: What all pictures have in common, as `json` writes it.
    """

    def __init__(self, folder: Path, settings: Provenance):
        self.folder = folder
        self.settings = settings

    def path(self, position: float) -> Path:
        """The file of a position, whether it is there or not."""
        return self.folder / f"{position:.{POSITION_DIGITS}f}.png"

    def __contains__(self, position: object) -> bool:
        return self.path(position).is_file()

    def __getitem__(self, position: float) -> Image.Image:
        if position not in self:
            raise KeyError(position)
        with Image.open(self.path(position)) as picture:
            picture.load()
            return picture

    def __setitem__(self, position: float, picture: Image.Image) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_picture(picture, self.path(position), {**self.settings, "position": position, "size": list(picture.size)})

    def __delitem__(self, position: float) -> None:
        self.path(position).unlink()

    def __iter__(self) -> Iterator[float]:
        return iter(sorted(float(path.stem) for path in self.folder.glob("[0-9]*.png")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def open_picture_folder(output: Path, settings: Provenance, overwrite: bool) -> PictureFolder:
    """Begins or goes on with the pictures of some settings in `output`/painted.

    Args:
        output: The folder, with the settings in `interpolation.json`.
        settings: All that the pictures depend on beside their position, as `json` writes it.
        overwrite: Whether pictures of other settings may be removed.

    Raises:
        ValueError: If the folder has pictures of other settings, or something else altogether.
    """
    settings_path, folder = output / "interpolation.json", output / "painted"
    check_picture_folder(output, settings, overwrite)
    if overwrite and folder.is_dir():
        remove_folder(folder)
    output.mkdir(parents=True, exist_ok=True)
    write_text(settings_path, json.dumps(settings, indent=2) + "\n")
    return PictureFolder(folder, settings)


def check_picture_folder(output: Path, settings: Provenance, overwrite: bool) -> None:
    """Raises `ValueError` if a folder cannot be begun or gone on with; changes nothing."""
    settings_path = output / "interpolation.json"
    if not settings_path.is_file():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise ValueError(f"{output} has something else in it; choose another --output.")
        return
    if overwrite:
        return
    try:
        found = dict(json.loads(settings_path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{settings_path} is damaged; give --overwrite to paint anew.") from error
    if found != settings:
        names = ", ".join(sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name)))
        raise ValueError(
            f"{output} was painted with another choice of {names}; choose another --output, or --overwrite."
        )


def save_frames(frames: Sequence[Path], output: Path) -> None:
    """Copies pictures into a folder as 00000.png, 00001.png, …, and removes what is numbered beyond."""
    for number, frame in enumerate(frames):
        with moved_into_place(output / f"{number:05d}.png") as temporary:
            temporary.write_bytes(frame.read_bytes())
    for path in output.iterdir():
        if _FRAME_NAME.fullmatch(path.name) and int(path.stem) >= len(frames):
            path.unlink()


def save_animation(frames: Sequence[Image.Image], path: Path, animation_format: str, frame_rate: float) -> None:
    """Saves an animation that begins again when it ends.

    Args:
        frames: Pictures of one size.
        path: The file.
        animation_format: One of `ANIMATION_FORMATS`. A GIF has 256 colours a frame and counts time in
            hundredths of seconds.
        frame_rate: Frames a second.
    """
    _, pillow_format, options = ANIMATION_FORMATS[animation_format]
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
