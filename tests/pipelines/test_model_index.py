"""Folders with a file of a wrong kind or of another model: one sentence, and never a wrong picture."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, models

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDPipeline, CLOOBTokenizer, default_model
from diffusers_ccld.cli import main
from diffusers_ccld.evaluation.compared_models import find_models

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(default_model(), tmp_path / "model")
    return tmp_path / "model"


def change_index(folder, **entries):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"_class_name": 3}, "has 3 as _class_name"),
        ({"_class_name": ["CCLDPipeline"]}, "as _class_name"),
        ({"_class_name": None}, "has None as _class_name"),
        ({"unet": [1, 2]}, r"has \[1, 2\] as unet, not a library and the name of a class"),
        ({"unet": "diffusers_ccld"}, "as unet, not a library"),
        ({"vae": ["diffusers"]}, "as vae, not a library"),
        ({"tokenizer": None}, "has None as tokenizer"),
        ({"extra": [{}, "a"]}, "as extra, not a library"),
    ],
)
def test_an_index_with_something_else_in_place_of_a_name(folder, entries, message):
    change_index(folder, **entries)
    for load in (CCLDPipeline.from_pretrained, CCLDImg2ImgPipeline.from_pretrained, lambda f: find_models([str(f)])):
        with pytest.raises(ValueError, match=message):
            load(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", LFS, "<html>", "[" * 100_000])
def test_an_index_that_is_not_one(folder, text, capsys):
    (folder / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not JSON|is not an index"):
        CCLDPipeline.from_pretrained(folder)
    assert main(["inspect", str(folder)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"unet": ["diffusers_ccld", "Nothing"]}, "Nothing|cannot be loaded"),
        ({"default_num_inference_steps": "ten"}, "default_num_inference_steps='ten' must be a whole number"),
        ({"default_num_inference_steps": -3}, "default_num_inference_steps=-3 must be"),
        ({"max_guidance_scale": "x"}, "max_guidance_scale='x' must be a finite number"),
    ],
)
def test_settings_and_classes_that_do_not_exist(folder, entries, message):
    change_index(folder, **entries)
    with pytest.raises((ValueError, OSError), match=message):
        CCLDPipeline.from_pretrained(folder)


def other_tokenizers():
    return {
        "words": Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str(),
        "unigrams": Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)], 0)).to_str(),
        "braces": "{}",
        "page": "<html>",
        "pointer": LFS,
    }


@pytest.mark.parametrize("kind", other_tokenizers())
def test_a_tokenizer_of_another_kind(folder, kind):
    (folder / "tokenizer" / "tokenizer.json").write_text(other_tokenizers()[kind])
    with pytest.raises(ValueError, match=r"is damaged, or of another model|belongs to another model|cannot be loaded"):
        CCLDPipeline.from_pretrained(folder)


def test_a_tokenizer_of_another_model(folder):
    """Its ids would be of other words, or beyond the vocabulary."""
    CLOOBTokenizer().save_pretrained(folder / "tokenizer")
    with pytest.raises(ValueError, match=r"The tokenizer, of 49408 tokens .* belongs to another model"):
        CCLDPipeline.from_pretrained(folder)


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"])
def test_pointers_of_git_lfs_in_place_of_weights(folder, file, capsys):
    (folder / f"{file}.safetensors").write_text(LFS)
    with pytest.raises((ValueError, OSError), match=r"[Gg]it[- ][Ll][Ff][Ss]"):
        CCLDPipeline.from_pretrained(folder)
    assert main(["inspect", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "is a Git LFS pointer" in error.splitlines()[-1] and "Traceback" not in error
