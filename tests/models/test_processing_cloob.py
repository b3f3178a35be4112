import logging

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ccld import CLOOBImageProcessor, CLOOBTokenizer
from diffusers_ccld.data.decoding import resize_and_crop
from diffusers_ccld.models.processing_cloob import clean_text
from support import original_files

CASES = original_files.read_json("tokenizer")
REFERENCE = original_files.reference("preprocessing")
IMAGE_SIZES = [key.split("/")[1] for key in REFERENCE if key.startswith("prompt/")]


@pytest.fixture(scope="module")
def tokenizer():
    return CLOOBTokenizer()


def reference_image(size):
    width, height = map(int, size.split("x"))
    noise = np.random.RandomState(width * 10007 + height).randint(0, 256, (height // 8 + 2, width // 8 + 2, 3))
    return Image.fromarray(noise.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["text"][:20]))
def test_tokens_are_the_originals(tokenizer, case):
    assert tokenizer(case["text"]).input_ids == case["ids"]


def test_a_batch_of_texts(tokenizer):
    batch = tokenizer([case["text"] for case in CASES], return_tensors="pt")
    assert list(batch) == ["input_ids"]
    assert batch.input_ids.tolist() == [case["ids"] for case in CASES]


def test_tokens_survive_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLOOBTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 77
    assert [loaded(case["text"]).input_ids for case in CASES] == [case["ids"] for case in CASES]


def test_an_attention_mask_is_there_for_the_asking(tokenizer):
    encoding = tokenizer("a cat!", return_attention_mask=True)
    assert sum(encoding.attention_mask) == 5
    unpadded = tokenizer("a cat!", padding=False).input_ids
    assert unpadded == encoding.input_ids[:5]


def test_exclamation_marks_are_not_padding(tokenizer):
    ids = tokenizer("stop! now!").input_ids
    assert ids[2] != 0 and tokenizer.decode(ids, skip_special_tokens=True).strip() == "stop ! now !"


def test_long_texts_are_cut_with_a_warning(tokenizer, caplog):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        tokenizer("a " * 75)
        assert not caplog.records
        ids = tokenizer("a " * 76).input_ids
    assert "cut off" in caplog.text
    assert len(ids) == 77 and ids[-1] == 49407


def test_every_way_of_encoding_cleans_and_pads_alike(tokenizer):
    text = "A &amp; B!"
    expected = tokenizer(text).input_ids
    assert tokenizer.encode(text) == expected[:6]
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == expected[1:5]
    padded = tokenizer.pad({"input_ids": [tokenizer.encode(text), tokenizer.encode("a")]}, padding="max_length")
    assert padded.input_ids == [expected, tokenizer("a").input_ids]
    assert list(padded) == ["input_ids"]


def test_what_is_no_single_text_is_refused(tokenizer):
    for arguments in (([],), ([3],), ("a", "b")):
        with pytest.raises((ValueError, TypeError)):
            tokenizer(*arguments) if len(arguments) == 1 else tokenizer(arguments[0], text_pair=arguments[1])


def test_nothing_is_said_of_a_cut_that_is_not_made(tokenizer, caplog):
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        assert len(tokenizer("a " * 90, truncation=False).input_ids) == 92
    assert "cut off" not in caplog.text


def test_cleaning():
    assert clean_text("  A&amp;amp;B \n\t schÃ¶n ") == "a&b schön"


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_prompt_pixels_are_the_originals(size):
    crop = np.asarray(CLOOBImageProcessor().resize_and_center_crop(reference_image(size))).astype(int)
    edges = np.stack([crop[0], crop[-1], crop[:, 0], crop[:, -1]])
    # Pillow's versions differ by a rounding of one.
    assert np.abs(crop[::5, ::5] - REFERENCE[f"prompt/{size}"]).max() <= 1
    assert np.abs(edges - REFERENCE[f"prompt_edges/{size}"]).max() <= 1


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_training_pixels_are_the_originals(size):
    image = np.asarray(resize_and_crop(reference_image(size), 256)).transpose(2, 0, 1)
    assert np.abs(image[:, ::5, ::5].astype(int) - REFERENCE[f"train256/{size}"]).max() <= 1
    processor = CLOOBImageProcessor()
    pixels = processor.preprocess_training_images(torch.from_numpy(image.copy())[None].float() / 255)[0]
    plain = pixels * torch.tensor(processor.image_std)[:, None, None]
    plain = plain + torch.tensor(processor.image_mean)[:, None, None]
    np.testing.assert_allclose(plain[:, ::9, ::9], REFERENCE[f"train224/{size}"], atol=1.5 / 255)


def test_a_short_side_gives_a_black_line():
    white = Image.new("RGB", (405, 600), "white")
    crop = np.asarray(CLOOBImageProcessor().resize_and_center_crop(white))
    assert crop.shape == (224, 224, 3) and (crop == 0).any()


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "CMYK", "1", "I;16"])
def test_any_mode_is_taken(mode):
    pixels = CLOOBImageProcessor(size=32)(Image.new(mode, (50, 40))).pixel_values
    assert pixels.shape == (1, 3, 32, 32) and pixels.dtype == torch.float32


def test_orientation_is_applied():
    image = Image.new("RGB", (64, 32))
    image.paste("white", (0, 0, 32, 32))
    turned = image.rotate(90, expand=True)
    turned.getexif()[0x0112] = 6  # "rotate by 90 degrees clockwise to view"
    processor = CLOOBImageProcessor(size=32)
    assert processor.resize_and_center_crop(turned) == processor.resize_and_center_crop(image)
    assert resize_and_crop(turned, 16) == resize_and_crop(image, 16)


def test_a_batch_is_normalised_by_channel():
    processor = CLOOBImageProcessor(size=32)
    pixels = processor([Image.new("RGB", (40, 40), "white"), Image.new("RGB", (40, 40))]).pixel_values
    expected = (1 - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
    torch.testing.assert_close(pixels[0, :, 0, 0], expected)


def test_the_processor_survives_saving(tmp_path):
    CLOOBImageProcessor(size=96).save_pretrained(tmp_path)
    assert CLOOBImageProcessor.from_pretrained(tmp_path).size == 96


def test_what_is_no_image_is_refused():
    with pytest.raises(TypeError, match="PIL image, not str"):
        CLOOBImageProcessor()("http://example.org/fox.png")
