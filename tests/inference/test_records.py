"""Records in pictures: valid ones are read whoever wrote them, and others are refused in a sentence."""

import json
import math

import pytest
from PIL import Image, PngImagePlugin

from diffusers_ccld.inference.animation import save_animation
from diffusers_ccld.inference.names import ANIMATION_FORMATS
from diffusers_ccld.inference.provenance import Provenance, load_record, read_provenance
from diffusers_ccld.inference.record_checks import FIELDS, valid_record
from support.mutated_records import DEEP, RECORDS, mutated_records


def save_text(path, text):
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("ccld", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=metadata)
    return path


def test_each_field_is_checked():
    assert list(FIELDS) == list(Provenance.__annotations__)


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_records_of_each_writer_are_valid(record):
    expected = {name: value for name, value in record.items() if value is not None}
    assert valid_record(record) == expected
    assert valid_record(dict.fromkeys(FIELDS) | record) == expected  # null says the same as nothing


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"waypoints": 5}, "its waypoints is 5, not a list of pairs of a text and its weight."),
        ({"waypoints": [["a"], ["b"]]}, r'its waypoints is \[\["a"\],\["b"\]\], not'),
        ({"seeds": [1, 2, 3]}, "it has 3 seeds for 2 waypoints."),
        ({"seeds": None, "seed": None}, "it does not have the seeds of its waypoints."),
        ({"waypoints": None}, "it does not say what the picture was painted from."),
        ({"position": 3}, "its position 3 lies beyond its 2 waypoints."),
        ({"position": math.nan}, "its position is NaN, not a finite number from 0."),
        ({"seed": 10**5000}, "its seed is a huge number, not a whole number from 0 to"),
        ({"task": "upscale"}, 'its task is "upscale", not one of paint, '),
        ({"task": "\x1b[31m雪"}, r'its task is "\\u001b\[31m\\u96ea", not'),
        ({"waypoints": None, "prompt": "a", "num_images": 1}, "it has 2 seeds for 1 pictures."),
        ({"guidance_interval": [0.9, 0.1]}, "not a list of two times from 0 to 1."),
        ({"new": DEEP}, 'its field "new" is nested too deeply.'),
    ],
)
def test_a_damaged_record_is_refused_in_a_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        valid_record(RECORDS["path"] | changes)


def test_json_does_not_tell_whole_numbers_from_others():
    record = valid_record(RECORDS["grid"] | {"seed": -0.0, "seeds": [3.0, 6], "size": [8.0, 8]})
    assert (record["seed"], record["seeds"], record["size"]) == (0, [3, 6], [8, 8])
    assert all(isinstance(number, int) for number in [record["seed"], *record["seeds"], *record["size"]])


def test_no_record_ends_in_another_error():
    refused = 0
    for name, record in mutated_records():
        try:
            valid = valid_record(record)
        except ValueError as error:
            refused += 1
            text = str(error)
            assert text.startswith("The record of how") and text.endswith(".") and len(text) < 300, name
        else:
            assert None not in valid.values() and (valid.keys() <= record.keys()), name
    assert refused > 2000


def test_a_file_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "picture.png"
    for text, message in (
        ("[" * 10**5, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("3", "does not have fields"),
        ("[NaN]", "is not JSON"),
    ):
        save_text(path, text)
        with pytest.raises(ValueError, match=message):
            load_record(path)
        assert read_provenance(path) is None
    save_text(path, json.dumps({"conditions": [], "images": None, "new": 1}))
    assert load_record(path) == {"conditions": [], "new": 1}
    assert read_provenance(path) == {"conditions": [], "images": None, "new": 1}  # as it is
    with pytest.raises(ValueError, match="more than 0 million pixels"):
        load_record(path, most_pixels=63)
    path.write_bytes(path.read_bytes()[:60])
    for file in (path, tmp_path / "missing.png", tmp_path):
        with pytest.raises(ValueError, match="not a picture"):
            load_record(file)
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("Comment", " " * (2**20 + 1), zip=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=metadata)
    with pytest.raises(ValueError, match="a text or a colour profile of more than 1 MB"):
        load_record(path)
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(ValueError, match="no record"):
        load_record(path)


@pytest.mark.parametrize("animation_format", ANIMATION_FORMATS)
def test_an_animation_has_its_record(animation_format, tmp_path):
    frames = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(4)]
    record = RECORDS["animation"] | {"waypoints": [["雪 " * 300, 2.0], ["a\n'\"<&", 2.0]]}
    path = tmp_path / f"a{ANIMATION_FORMATS[animation_format][0]}"
    save_animation(frames, path, animation_format, 20, record)
    assert load_record(path) == record | {"frame_rate": 20}
    with Image.open(path) as image:
        image.load()
        assert image.n_frames == 4 and image.info["duration"] == 50
    save_animation(frames, path, animation_format, 20)
    with pytest.raises(ValueError, match="no record"):
        load_record(path)


def test_foreign_comments_are_not_records(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "A cat."
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif", comment=b"\xff made by hand")
    for name in ("a.jpg", "a.gif"):
        with pytest.raises(ValueError, match="no record"):
            load_record(tmp_path / name)
