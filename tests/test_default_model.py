"""The bundled model is small, loads by either class, and samples what prompts and pictures ask for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from diffusers_ccld import CCLDPipeline, CCLDScheduler, CCLDUNet2DConditionModel, default_model
from diffusers_ccld.evaluation.judge import Judge
from diffusers_ccld.paintings import MEDIA, PALETTES, SUBJECTS, Attributes, captions
from support.scripts import ROOT, run_here

JUDGE = ROOT / "weights" / "judge"
TEACHER = ROOT / "weights" / "teacher"


@pytest.fixture(scope="module")
def pipe():
    pipe = CCLDPipeline.from_pretrained(default_model())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def judge():
    return Judge.from_pretrained(JUDGE).eval()


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_it_is_small_and_of_half_precision():
    files = [path for path in Path(default_model()).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12.5e6
    assert (Path(default_model()) / "README.md").read_text() == (ROOT / "docs" / "default-model.md").read_text()
    assert not any("_name_or_path" in path.read_text() for path in files if path.suffix == ".json")


def test_the_teacher_of_students_is_small_and_samples_as_well(judge):
    assert sum(path.stat().st_size for path in TEACHER.iterdir()) <= 25e6
    assert "_name_or_path" not in (TEACHER / "config.json").read_text()
    pipe = CCLDPipeline.from_pretrained(default_model(), unet=CCLDUNet2DConditionModel.from_pretrained(TEACHER))
    pipe.set_progress_bar_config(disable=True)
    wanted = [Attributes(*of) for of in zip(SUBJECTS, MEDIA * 2, PALETTES + PALETTES[:4])]
    prompts = [captions(attributes, i, complete=True)[0] for i, attributes in enumerate(wanted)]
    pipe.scheduler = CCLDScheduler(algorithm_type="unipc")
    images = pipe(prompts, num_inference_steps=8, generator=generators(12)).images
    found = judge.judge(images).attributes
    right = np.mean([[a == b for a, b in zip(*pair)] for pair in zip(found, wanted)])
    assert right > 0.8


def test_it_loads_in_single_precision_by_whichever_class():
    pipe = DiffusionPipeline.from_pretrained(default_model())
    assert isinstance(pipe, CCLDPipeline)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.image_encoder)} == {torch.float32}


def test_it_samples_the_subject_medium_and_palette_of_the_prompt(pipe, judge):
    """Of 24 prompts, chance would get two subjects, four media and three palettes right."""
    rng = np.random.default_rng(0)
    wanted = [
        Attributes(subject, MEDIA[i % 6], PALETTES[(i + j * 3) % 8])
        for j in range(2)
        for i, subject in enumerate(rng.permutation(SUBJECTS))
    ]
    prompts = [captions(attributes, i, complete=True)[0] for i, attributes in enumerate(wanted)]
    images = pipe(prompts, num_inference_steps=20, generator=generators(24)).images
    found = judge.judge(images).attributes
    right = np.sum([[a == b for a, b in zip(*pair)] for pair in zip(found, wanted)], axis=0)
    assert right[0] >= 19 and right[1] >= 19 and right[2] >= 18, right


def test_it_samples_the_subject_of_an_image_prompt(pipe, judge):
    from diffusers_ccld.paintings import paint

    wanted = [Attributes(subject, "watercolor", "autumn") for subject in SUBJECTS]
    pictures = [Image.fromarray(paint(attributes, 77)) for attributes in wanted]
    images = pipe(image_prompt=pictures, num_inference_steps=20, generator=generators(len(pictures))).images
    found = judge.judge(images).attributes
    assert sum(a.subject == b.subject for a, b in zip(found, wanted)) >= 9


def test_the_command_line_samples_from_it(tmp_path):
    from diffusers_ccld.cli import main

    assert main(["sample", "autumn watercolor", "-n", "2", "--steps", "3", "--output", str(tmp_path)]) == 0
    assert Image.open(tmp_path / "autumn-watercolor-1.png").size == (128, 128)


def test_the_evaluation_reports_all_sections(tmp_path, capsys):
    options = ("--prompts", 10, "--steps", 1, "--batch-size", 10, "--output", tmp_path / "results.md")
    assert run_here("benchmarks/evaluate_default.py", *options) == 0
    text = (tmp_path / "results.md").read_text()
    for words in ("fresh paintings", "PSNR", "top 1 of 100", "held-out combinations", "Fréchet", "Diversity"):
        assert words in text
    assert "nan" not in text
    assert run_here("benchmarks/evaluate_default.py", "--prompts", 1) != 0
    assert "at least 10" in capsys.readouterr().err


def test_a_pipeline_that_is_too_large_is_not_bundled(pipeline_folder, tmp_path, capsys):
    bundle = ("training/bundle.py", "--output", tmp_path / "small")
    assert run_here(*bundle, "--pipeline", pipeline_folder, "--max_megabytes", 0.1) != 0
    assert "more than --max-megabytes 0.1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert run_here(*bundle, "--pipeline", tmp_path) != 0
    assert run_here(*bundle, "--pipeline", pipeline_folder, "--max_megabytes", 100, "--card", tmp_path / "no.md") != 0
    assert run_here(*bundle, "--pipeline", pipeline_folder, "--max_megabytes", 100) == 0
    assert CCLDPipeline.from_pretrained(tmp_path / "small", torch_dtype=torch.float16).unet.dtype == torch.float16


def test_a_part_of_a_pipeline_is_bundled(pipeline_folder, tmp_path):
    bundle = ("training/bundle.py", "--pipeline", pipeline_folder, "--part", "unet", "--max_megabytes", 100)
    assert run_here(*bundle, "--output", tmp_path / "unet") == 0
    assert CCLDUNet2DConditionModel.from_pretrained(tmp_path / "unet", dtype=torch.float16).dtype == torch.float16
    assert run_here(*bundle, "--output", tmp_path / "other", "--card", ROOT / "README.md") != 0
    assert not (tmp_path / "other").exists()
