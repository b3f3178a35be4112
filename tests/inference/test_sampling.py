import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.evaluation.compared_models import find_models, num_steps_of
from diffusers_ccld.inference.provenance import provenance_text, read_provenance, save_picture
from diffusers_ccld.inference.sampling import NonFinitePixelsError, finite_pictures, sample
from diffusers_ccld.inference.weights import share_guidance
from diffusers_ccld.training.pipeline import PipelineInTraining
from diffusers_ccld.utils.pictures import save_image


@pytest.fixture(scope="module")
def pipe(trainable_folder):
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Recorder:
    """Stands for a pipeline: returns uniform pictures and records its calls."""

    def __init__(self, pixel=0.5):
        self.calls, self.pixel = [], pixel

    def __call__(self, **arguments):
        self.calls.append(arguments)
        return SimpleNamespace(images=np.full((len(arguments["generator"]), 2, 2, 3), self.pixel))


def test_pictures_are_those_of_the_pipeline_with_generators_of_the_seeds(pipe):
    prompts, seeds = ["a fox", "a cat", "a rose"], [7, 3, 7]
    pictures = list(sample(pipe, seeds, prompts, batch_size=3, num_inference_steps=2, guidance_scale=2.0))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    expected = pipe(prompts, generator=generators, num_inference_steps=2, guidance_scale=2.0).images
    assert [np.array_equal(a, b) for a, b in zip(pictures, expected, strict=True)] == [True] * 3


def test_shared_conditions_are_those_of_the_pipeline(pipe):
    options = {"conditions": [("a fox", 2.0)], "num_inference_steps": 2}
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    expected = pipe(**options, num_images_per_prompt=2, generator=generators).images
    pictures = list(sample(pipe, range(5, 7), **options))
    assert [np.array_equal(a, b) for a, b in zip(pictures, expected, strict=True)] == [True] * 2


def test_an_interruption_in_another_thread_does_not_end_this_ones_run(pipe, monkeypatch):
    def interrupt(pipe, index, timestep, tensors):
        pipe._interrupt = True
        return {}

    def sample_elsewhere():
        list(sample(pipe, [0], conditions=[], num_inference_steps=2, callback_on_step_end=interrupt))

    decode, here = pipe.decode_latents, threading.get_ident()

    def decode_beside_another_run(latents):
        if threading.get_ident() == here:
            thread = threading.Thread(target=sample_elsewhere)
            thread.start()
            thread.join()
        return decode(latents)

    monkeypatch.setattr(pipe, "decode_latents", decode_beside_another_run)
    assert len(list(sample(pipe, range(3), batch_size=1, conditions=[], num_inference_steps=1))) == 3


def test_an_interruption_ends_the_run_with_its_batch(pipe):
    steps = []

    def interrupt(pipe, index, timestep, tensors):
        steps.append(index)
        pipe._interrupt = len(steps) == 3
        return {}

    options = {"conditions": [("a fox", 2.0)], "num_inference_steps": 2, "callback_on_step_end": interrupt}
    assert len(list(sample(pipe, range(6), batch_size=2, **options))) == 4
    assert steps == [0, 1, 0]
    assert len(list(sample(pipe, range(3), batch_size=2, conditions=[], num_inference_steps=1))) == 3


def test_batches_are_sampled_when_they_are_asked_for():
    pipe = Recorder()
    pictures = sample(pipe, range(10, 15), ["a", "b", "c", "d", "e"], batch_size=2, eta=0.5)
    assert pipe.calls == []
    next(pictures)
    assert [call["prompt"] for call in pipe.calls] == [["a", "b"]]
    assert len(list(pictures)) == 4
    assert [call["prompt"] for call in pipe.calls] == [["a", "b"], ["c", "d"], ["e"]]
    assert [[g.initial_seed() for g in call["generator"]] for call in pipe.calls] == [[10, 11], [12, 13], [14]]
    assert all(call["eta"] == 0.5 and call["output_type"] == "np" for call in pipe.calls)


def test_pictures_may_be_prompts():
    pipe, image = Recorder(), Image.new("RGB", (2, 2))
    assert len(list(sample(pipe, [1, 2], [image, image]))) == 2
    assert pipe.calls[0]["image_prompt"] == [image, image] and "prompt" not in pipe.calls[0]
    assert list(sample(pipe, [])) == []


def test_prompts_and_seeds_have_one_length():
    with pytest.raises(ValueError, match="2 prompts were given for 3 seeds"):
        list(sample(Recorder(), range(3), ["a", "b"]))


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_an_error(pixel):
    with pytest.raises(NonFinitePixelsError, match="not finite"):
        next(sample(Recorder(pixel), [1]))
    with pytest.raises(ValueError, match="--dtype fp32"):
        finite_pictures(Recorder(pixel), generator=[None])


def test_a_demo_grid_that_is_not_finite_does_not_end_a_training(pipe, caplog, monkeypatch):
    config = SimpleNamespace(
        demo_prompts=None, seed=0, train_batch_size=8, demo_inference_steps=1, demo_guidance_scale=1.0
    )
    shown = []
    log = SimpleNamespace(show=lambda *picture: shown.append(picture))
    run = SimpleNamespace(config=config, state=SimpleNamespace(step=5), log=log)
    training, unet = PipelineInTraining(config, pipe), pipe.unet
    broken = type(unet).from_config(unet.config)
    torch.nn.init.constant_(broken.up_blocks[-1].resnets[-1].conv2.bias, float("nan"))
    monkeypatch.setattr(training, "_averaged", lambda run: Yielding(broken))
    training.show(run)
    assert shown == [] and training.pipe.unet is unet
    assert "step 5" in caplog.text and "not finite" in caplog.text


class Yielding:
    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *exception):
        return False


def test_conditions_without_a_weight_share_the_guidance_scale():
    assert share_guidance([("a", None), ("b", 1.0), ("c", None)], 5.0) == [("a", 2.5), ("b", 1.0), ("c", 2.5)]
    assert share_guidance([("a", None)], 3.0) == [("a", 3.0)]
    assert share_guidance([("a", 0.0)], 3.0) == [("a", 0.0)]
    assert share_guidance([], 3.0) == []


def test_the_default_number_of_steps_is_the_same_for_a_pipeline_and_a_folder(pipe, tmp_path):
    for default in (None, 4):
        pipe.register_to_config(default_num_inference_steps=default)
        pipe.save_pretrained(tmp_path / str(default))
        model = find_models([str(tmp_path / str(default))])[0]
        for given in (None, 7):
            expected = given or default or 10
            assert pipe.steps_or_default(given) == num_steps_of(model, None, given) == expected
    pipe.register_to_config(default_num_inference_steps=None)


def test_provenance_is_ordered_json_without_unknown_fields():
    text = provenance_text({"seed": 3, "conditions": [["a", 2.0]], "guidance_interval": None})
    assert text == '{"conditions": [["a", 2.0]], "guidance_interval": null, "seed": 3}'
    with pytest.raises(KeyError, match="sampler"):
        provenance_text({"seed": 3, "sampler": "plms"})


def test_provenance_comes_back_from_the_file(tmp_path):
    path, picture = tmp_path / "picture.png", Image.effect_noise((40, 40), 90).convert("RGB")
    record = {"conditions": [], "version": "0", "seed": 3}
    save_picture(picture, path, record)
    assert read_provenance(path) == record and json.loads(Image.open(path).text["ccld"]) == record
    whole = path.read_bytes()
    for content in (whole[:1000], whole[:40], b"", b"text"):
        path.write_bytes(content)
        assert read_provenance(path) is None
    save_image(picture, path)
    assert read_provenance(path) is None
    picture.save(path, "JPEG")
    assert read_provenance(path) is None
    assert read_provenance(tmp_path / "missing.png") is None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "3",
        '"a fox"',
        "[1, 2]",
        "{",
        "null",
        '{"seed": "3"}',
        '{"seed": true}',
        '{"conditions": "a fox"}',
        '{"conditions": [["a fox"]]}',
        '{"conditions": [[3, 1.0]]}',
        '{"guidance_interval": ["a", 1]}',
        '{"steps": null}',
        '{"model": 3}',
        '{"seed": NaN}',
    ],
)
def test_foreign_settings_count_as_none(text, tmp_path):
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("ccld", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", pnginfo=metadata)
    assert read_provenance(tmp_path / "picture.png") is None


def test_settings_of_a_later_version_are_read(tmp_path):
    metadata = PngImagePlugin.PngInfo()
    text = '{"seed": 3, "conditions": [["a fox", 1]], "eta": 0, "timestep_schedule": null, "new": {"a": 1}}'
    metadata.add_text("ccld", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", pnginfo=metadata)
    assert read_provenance(tmp_path / "picture.png") == json.loads(text)
