"""An image file is decoded to the same RGB in training, as a prompt, in img2img and inpainting, and as a reference."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDInpaintPipeline, CCLDPipeline, CLOOBImageProcessor
from diffusers_ccld.cli import main
from diffusers_ccld.data.images import Preparation, TrainingImages
from diffusers_ccld.demo.painter import Painter
from diffusers_ccld.demo.requests import Limits, parse_request
from diffusers_ccld.evaluation.reference_images import ChosenImages, read_reference_images
from diffusers_ccld.utils.rgb import to_rgb

SIZE = 32
COLOURS = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
GREYS, CLEAR = COLOURS[..., 0], COLOURS[..., 2] < 128
LARGE_STEPS = np.where(GREYS < 128, 0, 255)


def rgb_of_greys(greys):
    return np.repeat(greys[..., None], 3, axis=-1)


def image(array, kind=np.uint8):
    return Image.fromarray(array.astype(kind))


def over_white(colours):
    """The expected RGB of a transparent picture: white where `write` makes it clear, opaque elsewhere."""
    return np.where(CLEAR[..., None], 255, colours)


def write(folder: Path, kind: str) -> tuple[Path, np.ndarray]:
    """Writes a file; returns its path and the expected RGB."""
    alpha = Image.fromarray(np.where(CLEAR, 0, 255).astype(np.uint8))
    colours, greys = image(COLOURS), image(GREYS)
    options, ending, expected = {}, "png", COLOURS
    if kind == "RGB":
        picture = colours
    elif kind == "RGBA":
        picture, expected = colours.copy(), over_white(COLOURS)
        picture.putalpha(alpha)
    elif kind == "LA":
        picture, expected = Image.merge("LA", [greys, alpha]), over_white(rgb_of_greys(GREYS))
    elif kind == "transparent palette":
        indices = np.arange(16).reshape(4, 4).repeat(8, 0).repeat(8, 1)
        picture = image(indices).convert("P")
        picture.putpalette(COLOURS[::8, ::8].astype(np.uint8).tobytes())
        options["transparency"] = bytes(0 if clear else 255 for clear in CLEAR[::8, ::8].flatten())
        expected = over_white(COLOURS)
    elif kind == "I;16":
        picture, expected = Image.fromarray((GREYS * 257).astype(np.uint16)), rgb_of_greys(GREYS)
    elif kind == "I;16 with a transparent grey":
        picture, options["transparency"] = Image.fromarray((GREYS * 257).astype(np.uint16)), int(GREYS[0, 0]) * 257
        expected = rgb_of_greys(np.where(GREYS[0, 0] == GREYS, 255, GREYS))
    elif kind == "I":
        picture, ending, expected = image(GREYS * 257, np.int32), "tiff", rgb_of_greys(GREYS)
    elif kind == "CMYK":
        inks = np.concatenate([255 - COLOURS, np.zeros_like(COLOURS[..., :1])], axis=-1).astype(np.uint8)
        picture, ending, options = Image.fromarray(inks, "CMYK"), "jpg", {"quality": 100, "subsampling": 0}
    elif kind == "EXIF":
        picture, ending, options = colours, "png", {"exif": Image.Exif()}
        options["exif"][0x0112] = 6
        expected = np.rot90(COLOURS, -1)
    elif kind == "1":
        picture, expected = image(LARGE_STEPS).convert("1"), rgb_of_greys(LARGE_STEPS)
    path = folder / f"picture.{ending}"
    picture.save(path, **options)
    return path, expected


KINDS = (
    *("RGB", "RGBA", "LA", "transparent palette", "I;16", "I;16 with a transparent grey"),
    *("I", "CMYK", "EXIF", "1"),
)
# Until now these were clipped, or showed their hidden colours, everywhere except in training.
CHANGED = ("RGBA", "LA", "transparent palette", "I;16", "I;16 with a transparent grey", "I")


@pytest.fixture(scope="module")
def pipe(trainable_folder):
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def seen(monkeypatch):
    """Records the RGB of all pictures that reach CLOOB's image encoder or the autoencoder."""
    pictures = []
    crop, encode = CLOOBImageProcessor.resize_and_center_crop, CCLDImg2ImgPipeline.encode_latents

    def cropping(self, picture):
        assert picture.mode == "RGB" and ImageOps.exif_transpose(picture) == picture
        pictures.append(np.asarray(picture))
        return crop(self, picture)

    def encoding(self, pixels):
        pictures.extend(((pixels / 2 + 0.5) * 255).round().permute(0, 2, 3, 1).numpy())
        return encode(self, pixels)

    monkeypatch.setattr(CLOOBImageProcessor, "resize_and_center_crop", cropping)
    for kind in (CCLDImg2ImgPipeline, CCLDInpaintPipeline):
        monkeypatch.setattr(kind, "encode_latents", encoding)
    return pictures


def trained(pipe, path, folder):
    images = datasets.Dataset.from_dict({"image": [{"path": str(path), "bytes": None}]})
    return TrainingImages(images, Preparation(SIZE), 0).__getitems__([0])["pixel_values"][0].permute(1, 2, 0).numpy()


def sampled(pipe, path, folder):
    arguments = ["sample", "--image", str(path), "--model", str(pipe.name_or_path), "--steps", "1", "-n", "1"]
    assert main([*arguments, "--output", str(folder / "out")]) == 0


def interpolated(pipe, path, folder):
    arguments = [
        "interpolate",
        "a fox",
        f"@{path}",
        "--model",
        str(pipe.name_or_path),
        "--steps",
        "1",
        "--frames",
        "2",
    ]
    assert main([*arguments, "--max-pictures", "2", "--output", str(folder / "out")]) == 0


def prompted(pipe, path, folder):
    pipe("a fox", image_prompt=Image.open(path), num_inference_steps=1)


def conditioned(pipe, path, folder):
    pipe(conditions=[(Image.open(path), 2.0), ("a fox", 1.0)], num_inference_steps=1)


def begun_from(pipe, path, folder):
    CCLDImg2ImgPipeline.from_pipe(pipe)("a fox", Image.open(path), num_inference_steps=1, strength=1.0)


def inpainted(pipe, path, folder):
    mask = Image.new("L", (SIZE, SIZE), 255)
    CCLDInpaintPipeline.from_pipe(pipe)("a fox", Image.open(path), mask, num_inference_steps=1)


def uploaded(pipe, path, folder):
    values = {"picture": path.read_bytes(), "num_inference_steps": 1, "prompt": "a fox"}
    Painter(pipe).paint(parse_request("image_to_image", values, Limits()), lambda share: None)


def uploaded_as_prompt(pipe, path, folder):
    values = {"image_prompt": path.read_bytes(), "num_inference_steps": 1}
    Painter(pipe).paint(parse_request("paint", values, Limits()), lambda share: None)


def compared(pipe, path, folder):
    class Scorer:
        def embed_images(self, images):
            return torch.ones(len(images), 4)

    images = datasets.Dataset.from_dict({"image": [{"path": str(path), "bytes": None}] * 2})
    references = read_reference_images(ChosenImages("none", images, 2), SIZE, Scorer(), "none", folder / "cache", 2)
    return np.asarray(references.image(0))


ENTRIES = (
    *(trained, sampled, interpolated, prompted, conditioned, begun_from, inpainted),
    *(uploaded, uploaded_as_prompt, compared),
)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_one_file_is_the_same_rgb_at_every_entry(pipe, seen, tmp_path, kind, entry):
    path, expected = write(tmp_path, kind)
    if path.suffix == ".tiff" and entry in (uploaded, uploaded_as_prompt):
        with pytest.raises(ValueError, match=r"Supported formats are PNG, JPEG"):
            entry(pipe, path, tmp_path)
        return
    result = entry(pipe, path, tmp_path)
    assert result is None or not seen
    rgb = seen[0] if result is None else result
    assert np.array_equal(rgb, trained(pipe, path, tmp_path))
    tolerance = 2 if path.suffix == ".jpg" else 0  # JPEG's own loss
    assert rgb.shape == (SIZE, SIZE, 3) and np.abs(rgb.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_only_these_files_have_changed_outside_of_training(tmp_path, kind):
    path, _ = write(tmp_path, kind)
    before = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert (before != to_rgb(Image.open(path))) == (kind in CHANGED)


@pytest.mark.parametrize("entry", [prompted, conditioned, begun_from, inpainted], ids=lambda entry: entry.__name__)
def test_floating_point_pixels_are_rejected_in_one_sentence(pipe, tmp_path, entry):
    path = tmp_path / "floats.tiff"
    Image.new("F", (SIZE, SIZE), 0.5).save(path)
    with pytest.raises(ValueError, match=r"^Floating-point images \(mode F\)[^\n]*\.$"):
        entry(pipe, path, tmp_path)


@pytest.mark.parametrize("command", [["sample", "--image"], ["interpolate", "a fox"]])
def test_commands_reject_floating_point_files(pipe, tmp_path, capsys, command):
    path = tmp_path / "floats.tiff"
    Image.new("F", (SIZE, SIZE), 0.5).save(path)
    file = f"@{path}" if command[0] == "interpolate" else str(path)
    assert main([*command, file, "--model", str(pipe.name_or_path), "--output", str(tmp_path / "out")]) == 2
    assert "Floating-point images (mode F)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["EXIF", "I;16", "1", "RGB"])
def test_masks_are_decoded_by_the_same_rule(pipe, tmp_path, kind):
    path, expected = write(tmp_path, kind)
    mask = CCLDInpaintPipeline.from_pipe(pipe).prepare_mask(Image.open(path), SIZE, SIZE)
    greys = np.asarray(image(expected).convert("L"))
    assert np.array_equal(mask[0, 0].numpy(), greys >= 127.5)
    assert 0 < mask.mean() < 1


def test_premultiplied_alpha_and_damaged_exif_are_converted():
    assert to_rgb(Image.new("La", (2, 2))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("RGBa", (2, 2))).getpixel((0, 0)) == (255, 255, 255)
    broken = Image.new("RGB", (2, 2), "red")
    broken.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff"
    assert to_rgb(broken).getpixel((1, 1)) == (255, 0, 0)
