"""A pipeline warns once of each word and size that its model was not trained on."""

import pytest

from diffusers_ccld import CCLDBlocks, CCLDImg2ImgPipeline, CCLDPipeline, default_model
from diffusers_ccld.cli.main import main
from diffusers_ccld.onnx.pipeline import OnnxPipeline


@pytest.fixture
def bundled():
    pipe = CCLDPipeline.from_pretrained(default_model())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paint(pipe, *prompts, side=128):
    pipe(list(prompts), num_inference_steps=1, height=side, width=side, output_type="latent")


def test_words_that_the_tokenizer_spells_are_named_once(bundled, caplog):
    paint(bundled, "a dragon in summer", "a Castle, watercolor")
    assert [record.getMessage() for record in caplog.records] == ["The model does not know: dragon, castle"]
    caplog.clear()
    CCLDImg2ImgPipeline.from_pipe(bundled).encode_prompt("a dragon, a robot", negative_prompt="a castle")
    assert [record.getMessage() for record in caplog.records] == ["The model does not know: robot"]


def test_sizes_far_from_those_of_the_training_are_named_once(bundled, caplog):
    for side in (64, 128, 256):
        paint(bundled, "a cottage", side=side)
    assert not caplog.records
    for side in (288, 288, 32):
        paint(bundled, "a cottage", side=side)
    first, second = [record.getMessage() for record in caplog.records]
    assert "trained on pictures of 128 × 128 pixels; those of 288 × 288" in first and "32 × 32" in second


def test_a_model_of_the_full_vocabulary_knows_all_words(pipe, caplog):
    pipe.encode_prompt("a quaggasaurus")
    assert not caplog.records


def test_modular_pipelines_warn_once(caplog):
    modular = CCLDBlocks().init_pipeline(default_model())
    modular.load_components()
    for _ in range(2):
        modular(prompt="a dragon", num_inference_steps=1, height=32, output_type="latent")
    assert [record.name.partition(".")[0] for record in caplog.records].count("diffusers_ccld") == 2


def test_without_torch_the_same_is_said(caplog):
    pipe = OnnxPipeline()
    for _ in range(2):
        list(pipe.sample([0], [("a dragon", 1.0)], num_inference_steps=1, height=32, width=128))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "those of 128 × 32" in said[0] and said[1].endswith("not know: dragon")


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_the_command_says_each_once(runtime, tmp_path, capsys):
    options = [
        "--runtime",
        runtime,
        "--dtype",
        "fp32",
        "--steps",
        "1",
        "-n",
        "2",
        "--batch-size",
        "1",
        "--width",
        "32",
        "--yes",
    ]
    assert main(["sample", "a dragon", *options, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert said.count("dragon\n") == 1 and said.count("trained on pictures of 128 × 128 pixels") == 1
