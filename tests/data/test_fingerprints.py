"""Which images are the same: names, contents and times."""

import os
import shutil
from pathlib import Path

import datasets
import pytest

from diffusers_ccld.data import fingerprints
from diffusers_ccld.data.fingerprints import fingerprint_difference, images_fingerprint, quick_fingerprint
from diffusers_ccld.data.sources import load_images
from support.picture_files import encoded, patchwork, write_pictures


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "set", 4)
    return tmp_path / "set"


def found_in(folder: Path):
    return load_images(str(folder))


def copied(folder: Path, name: str = "copy") -> Path:
    """A copy without the times, as `cp -r`, `git clone` and an archive in the cloud make it."""
    return Path(shutil.copytree(folder, folder.with_name(name), copy_function=shutil.copyfile))


def repaint(path: Path) -> None:
    """Changes one byte of a file, not its length."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def difference(folder: Path, other: Path) -> str | None:
    """Compares two folders as a run and its resumption do."""
    recorded = images_fingerprint(found_in(folder))
    return fingerprint_difference(recorded, images_fingerprint(found_in(other), recorded))


def test_copies_without_their_times_are_the_same_images(folder):
    assert difference(folder, copied(folder)) is None


def test_moved_images_are_recognised_without_reading_them(folder, monkeypatch):
    recorded = images_fingerprint(found_in(folder))
    folder.rename(folder.with_name("elsewhere"))
    monkeypatch.setattr(fingerprints, "_hash_of_contents", None)
    assert images_fingerprint(found_in(folder.with_name("elsewhere")), recorded) is recorded


def test_a_difference_is_named(folder):
    repainted, renamed, fewer, both = (copied(folder, name) for name in ("repainted", "renamed", "fewer", "both"))
    repaint(repainted / "002.png")
    (renamed / "002.png").rename(renamed / "002a.png")
    (fewer / "003.png").unlink()
    (both / "000.png").rename(both / "009.png")  # the order differs, too
    assert difference(folder, repainted) == "their contents differ, not their names"
    assert difference(folder, renamed) == "their names differ, not their contents"
    assert difference(folder, fewer) == "there were 4 and are 3"
    assert difference(folder, both) == "their contents differ and their names"


def test_fingerprints_of_earlier_versions_stay_valid(folder):
    recorded = quick_fingerprint(found_in(folder))
    assert images_fingerprint(found_in(folder), recorded) == recorded
    os.utime(folder / "000.png", (0, 0))
    now = images_fingerprint(found_in(folder), recorded)
    assert "names, lengths or times differ" in fingerprint_difference(recorded, now)


def test_pictures_inside_a_dataset_have_contents_alone():
    pictures = [{"bytes": encoded(patchwork(i), "PNG"), "path": f"{i}.png"} for i in range(4)]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    images = datasets.Dataset.from_list([{"image": picture} for picture in pictures], features=features)
    recorded = images_fingerprint(images)
    assert images_fingerprint(images, recorded) == recorded
    assert fingerprint_difference(recorded, images_fingerprint(images.select(range(3)), recorded)) is not None
    assert fingerprint_difference(recorded, images_fingerprint(images.select([1, 0, 2, 3]), recorded)) is not None
    assert quick_fingerprint(images) != quick_fingerprint(images.select([1, 0, 2, 3]))
