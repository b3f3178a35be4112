"""Requests, uploads and links: checks of everything that comes from outside."""

import io
import math
import re
import struct
import zlib
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from PIL import Image, PngImagePlugin

from diffusers_ccld import CLOOBImageProcessor
from diffusers_ccld.demo.links import parse_link
from diffusers_ccld.demo.requests import LAST_SEED, parse_request
from diffusers_ccld.schedulers.scheduling_ccld import ALGORITHMS
from support.demo_calls import LIMITS, png


def bomb(width: int, height: int) -> bytes:
    """A small PNG file whose header claims a large picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_text(text: str) -> bytes:
    """A PNG file with a compressed text."""
    metadata, file = PngImagePlugin.PngInfo(), io.BytesIO()
    metadata.add_text("Comment", text, zip=True)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=metadata)
    return file.getvalue()


GOOD = {
    "prompt": ["a rose", "x" * 100, "https://example.org/rose.png", " \n 雪 "],
    "negative_prompt": ["", None, "fog"],
    "num_inference_steps": [1, 60, 60.0],
    "guidance_scale": [0, 15, 2.5],
    "image_prompt_weight": [0, 1],
    "strength": [0.02, 1],
    "num_images": [1, 2],
    "seed": [0, LAST_SEED, None],
    "algorithm": ["plms", "ddpm"],
}

NO_NUMBERS = [None, True, "5", math.nan, math.inf, -math.inf, [1], {}, 10**400]

BAD = {
    "prompt": ["", "  ", None, 5, ["a"], {"path": "/etc/passwd"}, "x" * 101, "\ud800"],
    "negative_prompt": [5, ["a"], "x" * 101, "\udfff"],
    "num_inference_steps": [*NO_NUMBERS, 0, -1, 61, 1.5, 1e300],
    "guidance_scale": [*NO_NUMBERS, -0.1, 15.1],
    "variation": [*NO_NUMBERS, -0.1, 1.1],
    "image_prompt_weight": [*NO_NUMBERS, -0.1, 1.1],
    "strength": [*NO_NUMBERS, 0, 1.01],
    "num_images": [*NO_NUMBERS, 0, 3],
    "seed": [*NO_NUMBERS[1:], -1, 0.5, LAST_SEED + 1],
    "algorithm": [None, "", "euler", ["plms"], {}, 3],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in GOOD.items() for value in values])
def test_values_in_bounds_are_accepted(name, value):
    request = parse_request("paint", {"prompt": "a rose", name: value}, LIMITS)
    if value is not None:
        assert getattr(request, name) == (value.strip() if isinstance(value, str) else value)


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD.items() for value in values])
def test_values_out_of_bounds_are_refused_with_a_sentence(name, value):
    with pytest.raises(ValueError, match=r"^[A-Z][^\n]*\.$"):
        parse_request("paint", {"prompt": "a rose", name: value}, LIMITS)


def test_a_number_that_javascript_may_have_rounded_is_not_repeated():
    for seed, end in ((2**32, "not 4294967296."), (-1, "not -1."), (2.5, "not 2.5."), (2**53, "4294967295.")):
        with pytest.raises(ValueError, match=rf"^The seed must be a whole number from 0 to .*{re.escape(end)}$"):
            parse_request("paint", {"prompt": "a rose", "seed": seed}, LIMITS)


def test_a_missing_seed_is_random():
    seeds = {parse_request("paint", {"prompt": "a rose"}, LIMITS).seed for _ in range(20)}
    assert len(seeds) == 20 and all(0 <= seed <= LAST_SEED for seed in seeds)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a picture"),
        (b"hello", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
        (png()[:60], "damaged"),
        (bomb(30000, 30000), "million pixels"),
        (bomb(10**6, 10**6), "picture"),
        (bomb(900, 900)[:-20], "damaged"),
        (bytes(2**20 + 1), "larger than 1 MB"),
        (with_text(" " * (2**20 + 1)), "a text or a colour profile of more than 1 MB"),
    ],
)
def test_hostile_pictures_are_refused(content, message, tmp_path):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse_request("paint", {"image_prompt": {"path": str(tmp_path / "picture.png")}}, LIMITS, tmp_path)


def test_only_uploads_are_read(tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    outside = tmp_path / "secret.png"
    outside.write_bytes(png())
    (uploads / "link.png").symlink_to(outside)
    (uploads / "good.png").write_bytes(png())
    paths = [
        str(outside),
        str(uploads / "link.png"),
        str(uploads / ".." / "secret.png"),
        str(uploads),
        "good.png",
        "a\0b",
    ]
    paths += ["http://127.0.0.1/a.png", "file://" + str(uploads / "good.png"), 5, None]
    for source in [{"path": path} for path in paths] + ["good.png", {"url": "http://127.0.0.1/a.png"}, 5, [], True]:
        with pytest.raises(ValueError, match="uploaded file"):
            parse_request("paint", {"image_prompt": source}, LIMITS, uploads)
    request = parse_request("paint", {"image_prompt": {"path": str(uploads / "good.png")}}, LIMITS, uploads)
    assert request.image_prompt.size == (80, 60)


def test_pictures_are_upright_on_a_white_background():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (80, 60)).save(file, "JPEG", exif=exif)
    values = {"picture": file.getvalue(), "image_prompt": png(colour=(0, 0, 0, 0), mode="RGBA")}
    request = parse_request("edit", values, LIMITS)
    assert request.picture.size == (60, 80)
    assert request.image_prompt.getpixel((0, 0)) == (255, 255, 255)


def test_masks_cover_what_was_drawn():
    layer = Image.new("RGBA", (80, 60))
    layer.paste((255, 255, 255, 9), (10, 20, 30, 40))
    file = io.BytesIO()
    layer.save(file, "PNG")
    values = {"prompt": "a rose", "picture": png()}
    request = parse_request("inpaint", values | {"mask": [None, file.getvalue()]}, LIMITS)
    assert request.mask.getbbox() == (10, 20, 30, 40)
    for mask in (None, [], [None], [png(colour=(0, 0, 0, 0), mode="RGBA")], [None] * 5, "x"):
        with pytest.raises(ValueError):
            parse_request("inpaint", values | {"mask": mask}, LIMITS)
    for task in ("image_to_image", "edit", "inpaint"):
        with pytest.raises(ValueError, match="Give a picture"):
            parse_request(task, {"prompt": "a rose"}, LIMITS)


def test_links_reproduce_their_request():
    values = {
        "prompt": "rose & <b>fog</b> #1 + 雪?",
        "negative_prompt": "a=b",
        "seed": 7,
        "num_images": 2,
        "algorithm": "ddim",
    }
    request = parse_request(
        "paint", {**values, "num_inference_steps": 3, "guidance_scale": 2.125, "variation": 0.25}, LIMITS
    )
    query = dict(parse_qsl(request.link()[1:], keep_blank_values=True))
    assert parse_link(query, LIMITS) == (request, set(query), [])
    older = {name: value for name, value in query.items() if name != "variation"}
    assert parse_link(older, LIMITS).request == replace(request, variation=0.0)
    named = dict(parse_qsl(request.link("0448da83")[1:], keep_blank_values=True))
    assert named == {**query, "model": "0448da83"} and parse_link(named, LIMITS).request == request
    assert parse_link({}, LIMITS) is None and parse_link({"__theme": "dark"}, LIMITS) is None
    assert parse_request("paint", {"image_prompt": png()}, LIMITS).link() is None


TEXTS = {"prompt": "a rose", "negative_prompt": "", "algorithm": "ddim"}
NUMBERS = {"num_inference_steps": "3", "guidance_scale": "2", "variation": "0.5", "seed": "7", "num_images": "2"}
FULL = TEXTS | NUMBERS | {"guidance_from": "0", "guidance_to": "1"}


@pytest.mark.parametrize("query", [{"prompt": "a cat"}, {"seed": "5"}, {"prompt": "a cat", "task": "between"}])
def test_a_link_may_leave_out_what_it_likes(query):
    link = parse_link(query, LIMITS)
    assert link.faults == [] and link.names == query.keys() - {"task"}
    for name in link.names:
        assert str(getattr(link.request, name)) == query[name]


@pytest.mark.parametrize(
    "changes, faults",
    [
        ({"seed": "abc"}, ["The seed must be a whole number from 0 to 4294967295."]),
        ({"seed": "9007199254740993"}, ["The seed must be a whole number from 0 to 4294967295."]),  # not rounded
        ({"seed": "1e400"}, ["The seed must be a whole number from 0 to 4294967295."]),
        ({"seed": ""}, ["The seed must be a whole number from 0 to 4294967295."]),
        ({"num_images": "99"}, ["The number of pictures must be a whole number from 1 to 2, not 99."]),
        ({"algorithm": "euler"}, [f"The algorithm must be one of {', '.join(ALGORITHMS)}."]),
        ({"prompt": "x" * 101}, ["The prompt has 101 characters; at most 100 are allowed."]),
        ({"task": "between", "position": "2"}, ["The position must be a number from 0 to 1, not 2."]),
        (
            {"guidance_scale": "nan", "num_inference_steps": "4.5"},
            ["The steps must be a whole number from 1 to 60, not 4.5.", "The guidance must be a number from 0 to 15."],
        ),
        ({"guidance_from": "0.9", "guidance_to": "0.1"}, ["The guidance must begin before it ends."]),
    ],
)
def test_each_wrong_part_of_a_link_is_named_and_the_others_are_taken(changes, faults):
    link = parse_link(FULL | changes, LIMITS)
    assert link.faults == faults and link.names == FULL.keys() - changes.keys()
    right = parse_link(FULL, LIMITS).request
    assert all(getattr(link.request, name) == getattr(right, name) for name in link.names)


def test_a_line_of_pixels_is_an_image_prompt():
    """The processor crops before it resizes: the whole line, enlarged, would take gigabytes."""
    request = parse_request("paint", {"image_prompt": png((1, 200_000))}, LIMITS)
    processor = CLOOBImageProcessor(size=32)
    assert processor.preprocess(request.image_prompt)["pixel_values"].shape == (1, 3, 32, 32)
