import numpy as np
import pytest
from PIL import Image

from diffusers_ccld.data.decoding import BadImageError, ImageLimits, open_picture, resize_and_crop, to_rgb
from support.picture_files import encoded, patchwork, write_broken_pictures


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16"]
)
def test_every_mode_becomes_rgb(mode):
    grey = patchwork(0).convert("L")
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image
    elif mode == "LAB":
        image = Image.merge("LAB", [grey] * 3)
    else:
        image = (grey.convert("LA") if mode == "PA" else patchwork(0)).convert(mode)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == image.size
    if mode in ("L", "I", "I;16"):
        assert (pixels(rgb) == pixels(grey)[..., None]).all()
    if mode in ("RGB", "RGBA"):
        assert (pixels(rgb) == pixels(patchwork(0))).all()


def test_transparency_lies_over_white():
    image = patchwork(0).convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8).repeat(24), (40, 1))))
    rgb = pixels(to_rgb(image))
    assert (rgb[:, :24] == 255).all() and (rgb[:, 24:] == pixels(patchwork(0))[:, 24:]).all()
    palette = patchwork(0).convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied_and_damaged_exif_is_not():
    image, exif = patchwork(0), Image.Exif()
    exif[0x0112] = 6
    turned = open_picture({"bytes": encoded(image, "PNG", exif=exif)}, ImageLimits())
    assert (pixels(turned) == pixels(image.transpose(Image.Transpose.ROTATE_270))).all()
    broken = open_picture({"bytes": encoded(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")}, ImageLimits())
    assert (pixels(broken) == pixels(image)).all()


def test_animations_give_their_first_frame():
    data = encoded(patchwork(0), "GIF", save_all=True, append_images=[patchwork(1)])
    assert np.abs(pixels(open_picture({"bytes": data}, ImageLimits())) - pixels(patchwork(0))).mean() < 8


@pytest.mark.parametrize("size", [(48, 40), (40, 48), (40, 40), (41, 333)])
def test_the_square_lies_where_it_is_asked_to(size):
    image = patchwork(3, size)
    whole = image.resize(
        (32, int(32 * size[1] / size[0])) if size[0] <= size[1] else (int(32 * size[0] / size[1]), 32),
        Image.Resampling.LANCZOS,
    )
    first, last = resize_and_crop(image, 32, 0, 0), resize_and_crop(image, 32, 1, 1)
    assert first == whole.crop((0, 0, 32, 32))
    assert last == whole.crop((whole.width - 32, whole.height - 32, whole.width, whole.height))
    assert resize_and_crop(image, 32) == resize_and_crop(image, 32, 0.5, 0.5)


def test_twenty_kinds_of_broken_pictures_are_refused_with_a_reason(tmp_path):
    paths = write_broken_pictures(tmp_path)
    assert len(paths) == 20
    for path in paths:
        with pytest.raises(BadImageError, match=r"\w{3,}"):
            open_picture({"path": str(path), "bytes": None}, ImageLimits())


def test_limits_count_pixels_before_decoding():
    data = encoded(patchwork(0), "PNG")
    assert open_picture({"bytes": data}, ImageLimits(40, 48 * 40)).size == (48, 40)
    with pytest.raises(BadImageError, match="41 are the least"):
        open_picture({"bytes": data}, ImageLimits(41, 48 * 40))
    with pytest.raises(BadImageError, match="more than"):
        open_picture({"bytes": data[:60]}, ImageLimits(40, 48 * 40 - 1))
