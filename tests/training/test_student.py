"""Students: their shapes, the weights they begin with, `training/create_student.py`."""

import json
import runpy

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from diffusers_ccld import CCLDPipeline, CCLDUNet2DConditionModel
from diffusers_ccld.training.components import network_settings
from diffusers_ccld.training.student import count_parameters, evenly, narrowed, select_weights
from support.networks import STOCK
from support.scripts import ROOT, run_here

SCRIPT = "training/create_student.py"
TEACHER = {"sample_size": 4, "block_out_channels": (64, 128), "layers_per_block": 2, "attention_head_dim": 16}
TEACHER |= {"mapping_dim": 64, "cross_attention_dim": 512}


@pytest.fixture(scope="module")
def teacher_folder(trainable_folder, tmp_path_factory):
    """A pipeline whose U-Net is somewhat larger than the students below."""
    torch.manual_seed(1)
    pipe = CCLDPipeline.from_pretrained(trainable_folder, unet=CCLDUNet2DConditionModel(**TEACHER))
    folder = tmp_path_factory.mktemp("teacher") / "pipeline"
    pipe.save_pretrained(folder)
    return folder


def create(teacher, output, *arguments):
    return run_here(SCRIPT, "--teacher", teacher, "--output", output, *arguments)


def weights_of(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


# Shapes


def test_the_preset_is_the_published_student():
    published = {"block_out_channels": (768, 768, 1536, 1536)}
    preset = runpy.run_path(str(ROOT / SCRIPT))["PRESETS"]["wikiart-mini"]
    assert count_parameters(published | preset) == 105_380_428
    assert count_parameters(published) == 1_174_321_228


@pytest.mark.parametrize("budget", [80_000, 100_000, 250_000])
def test_a_budget_is_used_and_not_exceeded(budget):
    settings = narrowed(TEACHER, budget)
    assert 0.5 * budget < count_parameters(settings) <= budget
    wide, narrow = TEACHER["block_out_channels"], settings["block_out_channels"]
    assert all(n % 16 == 0 and n <= w for n, w in zip(narrow, wide))
    assert settings["layers_per_block"] == 2


def test_a_budget_that_no_network_meets_is_refused():
    with pytest.raises(ValueError, match="not be smaller than its teacher"):
        narrowed(TEACHER, 10**9)
    with pytest.raises(ValueError, match=r"narrowest network with heads of 16 channels has .* more than 1,000"):
        narrowed(TEACHER, 1000)


def test_a_student_has_its_teachers_guidance_and_variation(fitted_folder, tmp_path):
    assert create(fitted_folder, tmp_path / "student", "--parameters", 400_000) == 0
    pipe = CCLDPipeline.from_pretrained(tmp_path / "student")
    assert (pipe.guidance_or_default(), pipe.variation_or_default()) == (1.75, 0.25)


# Weights of the teacher


def test_channels_are_the_same_ones_on_both_sides_of_a_concatenation():
    halves = evenly(2 * 24, 2 * 64)
    assert halves.tolist() == [*evenly(24, 64).tolist(), *(64 + evenly(24, 64)).tolist()]


def test_a_student_of_the_teachers_widths_is_the_teacher():
    teacher, student = CCLDUNet2DConditionModel(**TEACHER), CCLDUNet2DConditionModel(**TEACHER)
    select_weights(student, teacher)
    for name, value in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], value), name


def test_a_network_of_repeated_channels_is_found_again():
    """A teacher that does a small network's work twice over, in twice the channels, is cut down to just that."""
    small = CCLDUNet2DConditionModel(**{**TEACHER, "block_out_channels": (32, 64), "mapping_dim": 32}).eval()
    large = CCLDUNet2DConditionModel(**TEACHER).eval()
    theirs, fixed = small.state_dict(), ("fourier.weight", "mapping.fourier.weight")
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            value = theirs[name]
            for axis, size in enumerate(parameter.shape):
                if size != value.shape[axis]:
                    into_heads = axis == 0 and any(f".to_{letter}." in name for letter in "qkv")
                    if into_heads or (axis == 1 and ".to_out." in name):  # whole heads are repeated
                        value = value.unflatten(axis, (-1, 16)).repeat_interleave(2, axis).flatten(axis, axis + 1)
                    else:
                        value = value.repeat_interleave(2, axis)
            if parameter.ndim > 1:
                value = value * (theirs[name][0].numel() / value[0].numel())  # inputs come twice
            parameter.copy_(value if name not in fixed else theirs[name])
    inputs = torch.randn(2, 4, 4, 4), torch.tensor([10.0, 500.0]), torch.randn(2, 512)
    with torch.no_grad():
        expected = small(*inputs).sample
        assert torch.allclose(large(*inputs).sample, expected, atol=1e-4)
        student = CCLDUNet2DConditionModel(**network_settings(small)).eval()
        select_weights(student, large)
        for name, value in student.state_dict().items():
            ratio = (value / theirs[name]).nan_to_num(1.0)
            assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-3), name
            assert ratio.flatten()[0] > 0.6, name


def test_what_the_teacher_lacks_begins_at_zero():
    teacher = CCLDUNet2DConditionModel(**TEACHER)
    student = CCLDUNet2DConditionModel(**TEACHER, time_cond_proj_dim=8)
    select_weights(student, teacher)
    assert student.mapping.guidance.weight.abs().max() == 0
    inputs = torch.randn(2, 4, 4, 4), 500, torch.randn(2, 512)
    assert torch.equal(student(*inputs, timestep_cond=torch.randn(2, 8)).sample, teacher(*inputs).sample)


def test_a_teacher_that_is_told_the_scale_begins_one_that_is():
    settings = TEACHER | {"time_cond_proj_dim": 8}
    teacher, student = CCLDUNet2DConditionModel(**settings), CCLDUNet2DConditionModel(**settings)
    select_weights(student, teacher)
    assert torch.equal(student.mapping.guidance.weight, teacher.mapping.guidance.weight)
    student = CCLDUNet2DConditionModel(**TEACHER | {"time_cond_proj_dim": 4})  # of other frequencies
    select_weights(student, teacher)
    assert student.mapping.guidance.weight.abs().max() == 0
    student = CCLDUNet2DConditionModel(**TEACHER)
    select_weights(student, teacher)
    assert torch.equal(student.fourier.weight, teacher.fourier.weight)


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": 1},
        {"block_out_channels": (128, 128)},
        {"attention_head_dim": 8},
        {"attention_head_dim": 32, "block_out_channels": (32, 64)},
    ],
)
def test_other_depths_and_wider_students_are_refused(change):
    with pytest.raises(ValueError, match=r"the same layers|Whole heads"):
        select_weights(CCLDUNet2DConditionModel(**(TEACHER | change)), CCLDUNet2DConditionModel(**TEACHER))


# The script


def test_a_random_student(teacher_folder, tmp_path, capsys):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert create(teacher_folder, tmp_path / name, "--parameters", 100_000, "--seed", seed) == 0
    printed = capsys.readouterr().out
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "a")
    assert type(pipe) is CCLDPipeline and pipe.unet.num_parameters() <= 100_000
    assert f"{pipe.unet.num_parameters():,}" in printed and "%" in printed
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a) and not all(torch.equal(a[name], c[name]) for name in a)
    for name in ("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (teacher_folder / name).read_bytes()


def test_a_student_with_the_teachers_weights(teacher_folder, tmp_path):
    shape = ("--block_out_channels", 32, 64, "--mapping_dim", 32, "--told_guidance", 8)
    assert create(teacher_folder, tmp_path / "student", *shape, "--init", "teacher") == 0
    weights, theirs = weights_of(tmp_path / "student"), weights_of(teacher_folder)
    assert torch.equal(weights["fourier.weight"], theirs["fourier.weight"])
    name = "down_blocks.0.resnets.0.conv1.bias"
    assert torch.equal(weights[name], theirs[name][::2])
    assert weights["mapping.guidance.weight"].shape == (512 + 128, 8)


def test_a_stock_student_needs_none_of_our_classes(teacher_folder, tmp_path):
    config = tmp_path / "stock.json"
    shape = {name: value for name, value in STOCK.items() if name != "sample_size"}  # it is the teacher's
    config.write_text(json.dumps({"_class_name": "UNet2DConditionModel", **shape}))
    assert create(teacher_folder, tmp_path / "student", "--unet_config", config) == 0
    assert type(UNet2DConditionModel.from_pretrained(tmp_path / "student" / "unet")) is UNet2DConditionModel
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "student")
    assert type(pipe) is CCLDPipeline
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a fox", num_inference_steps=2).images[0].size == (32, 32)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "give one of --parameters"),
        (("--parameters", 9, "--preset", "wikiart-mini"), "give one of --parameters"),
        (("--parameters", 0), "must be positive"),
        (("--parameters", 10**9), "not be smaller than its teacher"),
        (("--block_out_channels", 32, 64, "--attention_head_dim", 0), "must be positive"),
        (("--block_out_channels", 32, 64, "--guidance_embedding_dim", 3), "waves come in pairs"),
        (("--parameters", 10**5, "--mapping_dim", 64), "leave it out"),
        (("--parameters", 1000), "narrowest network"),
        (("--block_out_channels", 30, 60), "multiple of attention_head_dim"),
        (("--block_out_channels", 32, "--layers_per_block", 1), "two or more levels"),
        (("--block_out_channels", 32, 64, "--layers_per_block", 1, "--init", "teacher"), "same layers"),
        (("--unet_config", "missing.json"), "the file does not exist"),
        (("--unet_config", "missing.json", "--guidance_embedding_dim", 8), "leave out --guidance-embedding-dim"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, teacher_folder, tmp_path, capsys):
    assert create(teacher_folder, tmp_path / "student", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "student").exists()


def test_students_of_another_pipeline_are_refused(teacher_folder, tmp_path, capsys):
    config = tmp_path / "other.json"
    for settings, message in (
        ({"_class_name": "UNet2DConditionModel", **STOCK, "cross_attention_dim": 64}, "cross_attention_dim is 64"),
        ({"_class_name": "AutoencoderKL"}, "describes a AutoencoderKL"),
        ({"_class_name": "UNet2DConditionModel", **STOCK, "num_class_embeds": 4}, "cannot evaluate the network"),
        ({"_class_name": "UNet2DConditionModel", **STOCK}, "--init teacher selects weights of a CCLD U-Net"),
    ):
        config.write_text(json.dumps(settings))
        assert create(teacher_folder, tmp_path / "student", "--unet_config", config, "--init", "teacher") == 2
        assert message in capsys.readouterr().err


def test_of_a_stock_teacher_nothing_can_be_narrowed(trainable_folder, tmp_path, capsys):
    CCLDPipeline.from_pretrained(trainable_folder, unet=UNet2DConditionModel(**STOCK)).save_pretrained(tmp_path / "t")
    assert create(tmp_path / "t", tmp_path / "student", "--parameters", 100_000) == 2
    assert "give --unet-config" in capsys.readouterr().err


def test_what_is_there_is_not_overwritten(teacher_folder, tmp_path, capsys):
    assert create(teacher_folder, tmp_path, "--parameters", 100_000) == 2
    assert "already exists" in capsys.readouterr().err and not list(tmp_path.iterdir())
