"""The judge of paintings, and how it is trained."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffusers_ccld.evaluation.judge import JUDGES, Verdict, load_judge
from diffusers_ccld.paintings import Attributes, paint
from diffusers_ccld.training.log import read_log
from support.scripts import run_here


def test_a_verdict_names_the_likeliest_attributes():
    logits = [torch.zeros(1, n) for n in (12, 6, 8)]
    for tensor, index in zip(logits, (2, 5, 1)):
        tensor[0, index] = 1
    assert Verdict(*logits, features=None).attributes == [Attributes("forest", "pointillism", "spring")]


@pytest.mark.parametrize("architecture", JUDGES)
def test_pictures_are_judged_alone_and_at_any_multiple_of_64_pixels(architecture):
    judge = JUDGES[architecture]().eval()
    images = [Image.fromarray(paint(Attributes("rose", "ink", "fog"), seed)) for seed in range(3)]
    together, alone = judge.judge(images, batch_size=2), judge.judge(images[2:])
    torch.testing.assert_close(alone.subject, together.subject[2:])
    larger = judge.judge([image.resize((256, 256), Image.Resampling.NEAREST) for image in images])
    assert larger.features.shape == together.features.shape
    if architecture == "residual":  # it sees 64 pixels, whatever the size
        torch.testing.assert_close(larger.features, together.features)


def test_a_folder_without_a_judge_is_refused(trainable_folder):
    with pytest.raises(ValueError, match="CCLDUNet2DConditionModel, which is not a judge"):
        load_judge(trainable_folder / "unet")


@pytest.mark.parametrize("architecture", JUDGES)
def test_it_learns_and_is_saved_in_half_precision(architecture, hub, paintings, tmp_path):
    options = ("--train_batch_size", 8, "--max_steps", 30, "--learning_rate", 1e-3, "--logging_steps", 1)
    options = (*options, "--report_to", "none", "--dataloader_num_workers", 0, "--resolution", 64)
    options = (*options, "--mixed_precision", "no", "--architecture", architecture)
    options = (*options, "--push_to_hub", "--hub_model_id", "judge")
    assert run_here("training/train_judge.py", "--dataset", paintings, "--output_dir", tmp_path, *options) == 0
    log = read_log(tmp_path / "metrics.jsonl")
    assert sum(entry["loss"] for entry in log[-5:]) < 0.9 * sum(entry["loss"] for entry in log[:5])
    assert {"subject", "medium", "palette"} <= log[-1].keys()
    saved = load_file(tmp_path / "judge" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float16}
    judge = load_judge(tmp_path / "judge")
    assert type(judge) is JUDGES[architecture] and judge.dtype == torch.float32 and not judge.training
    card = hub.uploads["somebody/judge"]["README.md"].decode()
    assert 'load_judge("somebody/judge")' in card and str(paintings) not in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--dataset is missing: give a folder of make_paintings.py"),
        (("--dataset", "nowhere"), "--dataset nowhere: there is no such folder of make_paintings.py"),
        (("--dataset", ".", "--max_blur", 0), "max_blur must be positive"),
    ],
)
def test_what_does_not_go_is_refused(arguments, message, tmp_path, capsys):
    assert run_here("training/train_judge.py", "--output_dir", tmp_path / "run", *arguments) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_paintings_are_not_painted_over(tmp_path, capsys):
    assert run_here("training/make_paintings.py", "--output", tmp_path) != 0
    assert "already exists" in capsys.readouterr().err
    assert run_here("training/make_paintings.py", "--output", tmp_path / "set", "--num_images", 0) != 0
    assert "at least 1" in capsys.readouterr().err
