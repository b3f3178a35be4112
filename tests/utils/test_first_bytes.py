import pytest

from diffusers_ccld.utils.first_bytes import describe_first_bytes, is_pointer
from support.picture_files import encoded, patchwork

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    "data, words",
    [
        (POINTER, "a Git LFS pointer, not the file (run `git lfs pull` in its repository)"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><html>", "an HTML page"),
        (b"<svg xmlns=''/>", "an SVG drawing"),
        (b"PK\x03\x04abc", "a zip archive"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "a picture in HEIC"),
        (encoded(patchwork(0), "AVIF"), "a picture in AVIF"),
        (b"\0\0\0\x18ftypisom", "a video or another media file"),
        (b"", "an empty file"),
        (encoded(patchwork(0), "PNG"), None),
        (encoded(patchwork(0), "JPEG"), None),
    ],
)
def test_files_are_what_their_first_bytes_say(data, words):
    assert describe_first_bytes(data) == words and is_pointer(data) == (data is POINTER)
