"""Images and masks in all forms that callers have: one meaning, or one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDInpaintPipeline
from diffusers_ccld.pipelines.pixels import read_images, read_masks

SIZE = 64


@pytest.fixture(scope="module")
def picture():
    image = Image.radial_gradient("L").resize((SIZE, SIZE)).convert("RGB")
    ImageDraw.Draw(image).rectangle((5, 10, 20, 50), fill="navy")
    return image


@pytest.fixture
def img2img(pipe):
    return CCLDImg2ImgPipeline.from_pipe(pipe)


@pytest.fixture
def inpaint(pipe):
    return CCLDInpaintPipeline.from_pipe(pipe)


def forms(array):
    """An (H, W, 3) uint8 array in all accepted forms of an image."""
    tensor, share = torch.from_numpy(array.copy()).permute(2, 0, 1), array.astype(np.float32) / 255
    return {
        "PIL": Image.fromarray(array),
        "list": [Image.fromarray(array)],
        "uint8 array": array,
        "uint8 batch": array[None],
        "float array": share,
        "float64 array": share.astype(np.float64),
        "read-only, strided array": np.asarray(Image.fromarray(array[:, ::-1]))[:, ::-1],
        "uint8 tensor": tensor,
        "float tensor": tensor / 255,
        "half tensor": tensor.half() / 255,
        "list of tensors": [tensor / 255],
        "batch of tensors": tensor[None] / 255,
    }


@pytest.mark.parametrize("form", forms(np.zeros((1, 1, 3), np.uint8)))
def test_every_form_of_an_image_has_the_same_pixels(form, img2img, picture):
    array = np.asarray(picture)
    expected = torch.from_numpy(array.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    pixels = img2img.prepare_image(forms(array)[form])
    assert pixels.dtype == torch.float32 and pixels.shape == (1, 3, SIZE, SIZE)
    assert (pixels - expected).abs().max() < (2e-3 if form == "half tensor" else 1e-6)


@pytest.mark.parametrize(
    "image, error, message",
    [
        (np.full((SIZE, SIZE, 3), 255.0), ValueError, "values from 255 to 255"),
        (torch.full((3, SIZE, SIZE), -0.5), ValueError, "values from -0.5 to -0.5"),
        (torch.full((3, SIZE, SIZE), torch.nan), ValueError, "values from nan"),
        (np.zeros((SIZE, SIZE, 3), np.int64), ValueError, "int64; give uint8"),
        (np.zeros((SIZE, SIZE)), ValueError, r"shape \(64, 64\).*arrays are \(H, W, 3\)"),
        (np.zeros((SIZE, SIZE, 4)), ValueError, r"shape \(64, 64, 4\)"),
        (np.zeros((3, SIZE, SIZE)), ValueError, r"shape \(3, 64, 64\)"),
        (torch.zeros(SIZE, SIZE, 3), ValueError, r"shape \(64, 64, 3\).*tensors are \(3, H, W\)"),
        ([torch.zeros(3, 64, 64), torch.zeros(3, 64, 32)], ValueError, "different heights and widths"),
        ([Image.new("RGB", (64, 64)), Image.new("RGB", (64, 128))], ValueError, "64×64, 64×128"),
        ([Image.new("RGB", (64, 64)), np.zeros((64, 64, 3))], TypeError, "one kind of image"),
        ([], TypeError, "an empty list"),
        ("fox.png", TypeError, "not str"),
    ],
)
def test_other_images_are_refused(image, error, message, img2img):
    with pytest.raises(error, match=message):
        img2img.prepare_image(image)


def test_images_of_several_sizes_are_resized_when_a_size_is_given(img2img, picture):
    images = [picture, picture.resize((96, 64))]
    assert img2img.prepare_image(images, 64, 64).shape == (2, 3, 64, 64)


def mask_forms(array):
    """An (H, W) bool array in all accepted forms of a mask."""
    tensor, grey = torch.from_numpy(array), Image.fromarray(array.astype(np.uint8) * 255)
    clear = Image.new("RGBA", grey.size, (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), mask=grey)
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    return {
        "L": grey,
        "1": grey.convert("1"),
        "RGB": grey.convert("RGB"),
        "white strokes on transparent white": clear,
        "16 bits": Image.fromarray(array.astype(np.uint16) * 65535),
        "turned by EXIF": turned,
        "bool array": array,
        "bool batch": array[None],
        "uint8 array": array.astype(np.uint8) * 255,
        "float array": array.astype(np.float64),
        "array with a channel": array[None, :, :, None].astype(np.float32),
        "bool tensor": tensor,
        "uint8 tensor": tensor.byte() * 255,
        "tensor with a channel": tensor[None, None].float(),
        "list of arrays": [array],
    }


@pytest.fixture(scope="module")
def masked():
    array = np.zeros((SIZE, SIZE), bool)
    array[10:20, 30:60] = True
    return array


@pytest.mark.parametrize("form", mask_forms(np.zeros((1, 1), bool)))
def test_every_form_of_a_mask_covers_the_same_pixels(form, inpaint, masked):
    mask = inpaint.prepare_mask(mask_forms(masked)[form], SIZE, SIZE)
    assert mask.shape == (1, 1, SIZE, SIZE) and np.array_equal(mask[0, 0].numpy(), masked)


@pytest.mark.parametrize("form", ["L", "bool array", "bool tensor"])
def test_a_mask_of_another_size_is_resized(form, inpaint, masked):
    mask = inpaint.prepare_mask(mask_forms(masked)[form], 2 * SIZE, 2 * SIZE)
    expected = masked.repeat(2, 0).repeat(2, 1)
    assert (mask[0, 0].numpy() != expected).mean() < 0.01


@pytest.mark.parametrize(
    "mask, message",
    [
        (Image.new("F", (SIZE, SIZE)), "mode F"),
        (np.zeros((SIZE, SIZE, 3)), r"shape \(64, 64, 3\)"),
        (torch.zeros(1, 3, SIZE, SIZE), r"shape \(1, 3, 64, 64\)"),
        (np.full((SIZE, SIZE), 255.0), "values from 255 to 255"),
        (torch.zeros(SIZE, SIZE, dtype=torch.long), "int64"),
    ],
)
def test_other_masks_are_refused(mask, message, inpaint):
    with pytest.raises(ValueError, match=message):
        inpaint.prepare_mask(mask, SIZE, SIZE)


@pytest.mark.parametrize(
    "form",
    [
        lambda ones: ones.astype(np.uint8),
        lambda ones: torch.from_numpy(ones.astype(np.uint8)),
        lambda ones: Image.fromarray(ones.astype(np.uint8)),
        lambda ones: [Image.fromarray(ones.astype(np.uint8)).convert("RGB")],
        lambda ones: Image.fromarray(ones.astype(np.int32) * 255),
        lambda ones: Image.fromarray(ones.astype(np.uint16) * 255),
        lambda ones: np.stack([ones, ones * 0.4]),
    ],
)
def test_a_mask_that_is_nowhere_white_is_refused_unless_it_is_black(form, inpaint, masked):
    """Masks of 0 and 1 of 255, and of 255 in 16 bits, would paint nothing."""
    with pytest.raises(ValueError, match=r"nowhere white: .*nothing would be painted"):
        inpaint.prepare_mask(form(masked), SIZE, SIZE)
    assert not inpaint.prepare_mask(form(np.zeros_like(masked)), SIZE, SIZE).any()


@pytest.mark.filterwarnings("error")
def test_arrays_of_every_memory_layout_are_read(img2img, picture):
    share = np.asarray(picture) / 255
    read_only = np.asarray(picture)
    for array in (share.astype(">f4"), np.asfortranarray(share), read_only, share[::-1][::-1]):
        assert (img2img.prepare_image(array) - img2img.prepare_image(picture)).abs().max() < 1e-6
    with pytest.raises(TypeError, match="image is an array of objects"):
        img2img.prepare_image(np.full((SIZE, SIZE, 3), None, dtype=object))


def test_reading_changes_nothing(picture, masked):
    array, tensor, before = np.asarray(picture).copy(), torch.rand(3, 8, 8), masked.copy()
    originals = array.copy(), tensor.clone()
    read_images(array), read_images(tensor), read_masks(masked)
    assert np.array_equal(array, originals[0]) and torch.equal(tensor, originals[1])
    assert np.array_equal(masked, before)
