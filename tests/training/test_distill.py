"""Tests of `training/distill.py`: results, files, wrong settings, interruptions."""

import json
import runpy

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

import diffusers_ccld.training.components
from diffusers_ccld import CCLDPipeline, CCLDUNet2DConditionModel
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.encoding import model_fingerprint
from diffusers_ccld.data.latent_cache import LatentCache
from diffusers_ccld.models.prediction import predict_velocity
from diffusers_ccld.models.unet_ccld import MappingNetwork
from diffusers_ccld.training.distillation import Teacher
from diffusers_ccld.training.log import read_log
from support.networks import STOCK
from support.scripts import ROOT, run, run_here
from support.training_processes import assert_same, kill_and_resume

SCRIPT = "training/distill.py"
SMALL = {"sample_size": 4, "block_out_channels": (32, 32), "layers_per_block": 1, "attention_head_dim": 16}
SMALL |= {"mapping_dim": 32}


def save_student(trainable_folder, folder, unet):
    CCLDPipeline.from_pretrained(trainable_folder, unet=unet).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def student_folder(trainable_folder, tmp_path_factory):
    torch.manual_seed(2)
    return save_student(
        trainable_folder, tmp_path_factory.mktemp("student") / "pipeline", CCLDUNet2DConditionModel(**SMALL)
    )


@pytest.fixture(scope="module")
def told_folder(trainable_folder, tmp_path_factory):
    torch.manual_seed(2)
    unet = CCLDUNet2DConditionModel(**SMALL, time_cond_proj_dim=8)
    return save_student(trainable_folder, tmp_path_factory.mktemp("told") / "pipeline", unet)


@pytest.fixture(scope="module")
def arguments(trainable_folder, student_folder, cache):
    def of(output, **options):
        values = {
            "teacher": trainable_folder,
            "model": student_folder,
            "cache": cache,
            "output_dir": output,
            "max_steps": 3,
            "train_batch_size": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "demo_every": 0,
            "demo_inference_steps": 1,
            "report_to": "none",
            "mixed_precision": "no",
            "dataloader_num_workers": 0,
            **options,
        }
        parts = [
            (f"--{name}", *(value if isinstance(value, tuple) else (value,)))
            for name, value in values.items()
            if value is not None
        ]
        return [str(part) for parts in parts for part in parts]

    return of


def weights_of(folder):
    return load_file(folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")


EVERYTHING = {
    "condition_noise": 0.05,
    "feature_weight": 0.5,
    "other_conditions": 0.5,
    "snr_gamma": 5,
    "gradient_accumulation_steps": 2,
    "demo_every": 2,
}


def test_a_finished_run(arguments, tmp_path, trainable_folder):
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **EVERYTHING)) == 0
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    assert type(pipe) is CCLDPipeline and pipe.unet.config.block_out_channels == [32, 32]
    entries = read_log(tmp_path / "run" / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert all(entry[name] > 0 for entry in entries for name in ("loss", "task", "output", "feature"))
    assert sorted(path.name for path in (tmp_path / "run" / "demos").iterdir())[-1] == "step-00000003.png"
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000003"
    saved, weights = load_file(checkpoint / "average-0.safetensors"), weights_of(tmp_path / "run")
    assert any(name.startswith("projections.2.") for name in saved)
    assert all(torch.equal(weights[n.removeprefix("unet.")], v) for n, v in saved.items() if n.startswith("unet."))
    card = (tmp_path / "run" / "pipeline" / "README.md").read_text()
    assert "of its parameters" in card and str(trainable_folder.parent) not in card
    assert (tmp_path / "run" / "pipeline" / "losses.png").is_file()


def test_the_teacher_stays_as_it_is(arguments, tmp_path, monkeypatch):
    load, loaded = diffusers_ccld.training.components.load_components, []

    def spy(model, names):
        loaded.append(load(model, names))
        return loaded[-1]

    monkeypatch.setattr(diffusers_ccld.training.components, "load_components", spy)
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **EVERYTHING)) == 0
    (teacher,) = [components["unet"] for components in loaded if list(components) == ["unet"]]
    (student,) = [components["unet"] for components in loaded if "unet" in components and len(components) > 1]
    before = CCLDUNet2DConditionModel.from_pretrained(arguments(tmp_path)[1], subfolder="unet")
    assert model_fingerprint(teacher) == model_fingerprint(before) != model_fingerprint(student)


def test_a_student_comes_close_to_its_teacher(arguments, tmp_path):
    options = {"task_weight": 0, "max_steps": 150, "learning_rate": 3e-3, "checkpointing_steps": 1000}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **options)) == 0
    losses = [entry["output"] for entry in read_log(tmp_path / "run" / "metrics.jsonl")]
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def test_weights_count(arguments, tmp_path):
    """The loss is the weighted sum of the terms in the log."""
    assert run_here(SCRIPT, *arguments(tmp_path / "run", output_weight=3, task_weight=0.5, feature_weight=2)) == 0
    for entry in read_log(tmp_path / "run" / "metrics.jsonl"):
        terms = 3 * entry["output"] + 0.5 * entry["task"] + 2 * entry["feature"]
        assert entry["loss"] == pytest.approx(terms, rel=1e-5)


def test_guidance_is_distilled(arguments, told_folder, trainable_folder, cache, tmp_path):
    """The student follows the scale: it changes predictions in the direction in which guidance does."""
    options = {"model": told_folder, "task_weight": 0, "max_guidance_scale": 8, "max_steps": 400}
    options |= {"learning_rate": 1e-2, "ema_decays": 0.9, "ema_decay_starts": 0, "checkpointing_steps": 1000}
    options |= {"train_batch_size": 8, "max_grad_norm": 1}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **options)) == 0
    losses = [entry["output"] for entry in read_log(tmp_path / "run" / "metrics.jsonl")]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    student = DiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline").unet
    teacher = Teacher(CCLDUNet2DConditionModel.from_pretrained(trainable_folder, subfolder="unet"))
    images = LatentCache.open(cache, seed=0).__getitems__(range(24))
    noisy = 0.45 * 2.0 * images["latent_mean"] + 0.89 * torch.randn(24, 4, 4, 4)  # at t = 0.7
    question, scales = (noisy, torch.full((24,), 699.0), images["image_embeds"][:, None]), torch.full((24,), 8.0)
    with torch.no_grad():
        told = predict_velocity(student, *question, scales) - predict_velocity(student, *question)
        wanted = teacher(*question, scales).velocity - teacher(*question).velocity
    assert torch.cosine_similarity(told.flatten(), wanted.flatten(), dim=0) > 0.3


def test_steps_are_distilled_of_a_guided_teacher(arguments, told_folder, tmp_path):
    options = {"model": told_folder, "teacher": told_folder, "task_weight": 0, "max_guidance_scale": 8}
    options |= {"student_steps": 2, "teacher_steps": 4, "demo_every": 1, "demo_inference_steps": None}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **options)) == 0
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    assert pipe.scheduler.config.algorithm_type == "ddim"
    assert "num_inference_steps=2" in (tmp_path / "run" / "pipeline" / "README.md").read_text()
    rows = []
    pipe.unet.register_forward_hook(lambda module, arguments, output: rows.append(len(output[0])))
    pipe.set_progress_bar_config(disable=True)
    pipe("a fox")
    assert rows == [1, 1]
    with pytest.raises(ValueError, match="up to 8"):
        pipe("a fox", guidance_scale=9.0)


def test_the_settings_of_a_run_can_be_read_back(arguments, tmp_path):
    assert run_here(SCRIPT, *arguments(tmp_path / "run", max_steps=1)) == 0
    again = ("--config", tmp_path / "run" / "config.yaml", "--output_dir", tmp_path / "again")
    assert run_here(SCRIPT, *again) == 0
    assert all(torch.equal(a, b) for a, b in zip(*(weights_of(tmp_path / n).values() for n in ("run", "again"))))


def test_conditions_from_prompts(arguments, student_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a fox\nfog\n")
    options = {"other_conditions": 1, "condition_prompts": prompts}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **options)) == 0
    asked = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: asked.append(inputs[0]) if isinstance(module, MappingNetwork) else None
    )
    try:
        options |= {"condition_dropout": 0, "max_steps": 1, "gradient_accumulation_steps": 4}
        assert run_here(SCRIPT, *arguments(tmp_path / "spied", **options)) == 0
    finally:
        hook.remove()
    known = CCLDPipeline.from_pretrained(student_folder).encode_prompt(["a fox", "fog"])[0]
    distances = torch.cdist(torch.cat(asked), known).amin(dim=1)
    assert len(distances) == 32 and distances.max() < 1e-2


@pytest.mark.parametrize("told", [False, True])
def test_a_stock_student(told, arguments, trainable_folder, tmp_path):
    unet = UNet2DConditionModel(**STOCK, time_cond_proj_dim=16 if told else None)
    options = {"model": save_student(trainable_folder, tmp_path / "student", unet)}
    if told:
        options |= {"task_weight": 0, "max_guidance_scale": 4}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", demo_every=2, **options)) == 0
    folder = tmp_path / "run" / "pipeline"
    assert type(UNet2DConditionModel.from_pretrained(folder / "unet")) is UNet2DConditionModel
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert any(not torch.equal(w, unet.state_dict()[n]) for n, w in weights_of(tmp_path / "run").items())


# Interruption and processes


def test_killed_at_random_it_resumes_to_the_bit(arguments, tmp_path):
    options = {**EVERYTHING, "max_steps": 12, "checkpointing_steps": 1, "checkpoints_total_limit": 2}
    assert run_here(SCRIPT, *arguments(tmp_path / "whole", **options)) == 0
    kill_and_resume(SCRIPT, arguments(tmp_path / "killed", **options), tmp_path / "killed", kills=2, seed=1)
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_two_processes_have_the_gradient_of_one(arguments, tmp_path):
    options = {**EVERYTHING, "demo_every": 0, "max_steps": 2, "checkpointing_steps": 1}
    run(SCRIPT, *arguments(tmp_path / "two", **options, train_batch_size=2), launch="ddp")
    assert run_here(SCRIPT, *arguments(tmp_path / "one", **options, train_batch_size=4)) == 0
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "step-00000001" / "optimizer.bin", weights_only=True)["state"]
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for key in one:
        assert torch.allclose(one[key]["exp_avg"], two[key]["exp_avg"], atol=1e-6)
    losses = [[e["loss"] for e in read_log(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_another_teacher_is_another_run(arguments, student_folder, tmp_path, capsys):
    assert run_here(SCRIPT, *arguments(tmp_path / "run", max_steps=1)) == 0
    changed = arguments(tmp_path / "run", max_steps=2, teacher=student_folder)
    assert run_here(SCRIPT, *changed, "--resume", "latest") == 2
    assert "teacher was" in capsys.readouterr().err


def test_the_recipe_for_wikiart_can_be_read():
    config_class = runpy.run_path(str(ROOT / SCRIPT))["DistillConfig"]
    path = ROOT / "training" / "configs" / "distill" / "wikiart.yaml"
    assert parse_config(config_class, "", ["--config", str(path)]).teacher == "ccld-wikiart"


# Wrong input

STEPS = {"student_steps": 4, "teacher_steps": 8, "max_guidance_scale": 8, "task_weight": 0}
STEPS |= {"demo_inference_steps": None}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_weight": 0}, "use finetune.py to train without a teacher"),
        ({"task_weight": -1}, "must not be negative"),
        ({"other_conditions": 1.5}, "between 0 and 1"),
        ({"condition_prompts": "missing.txt"}, "needs other_conditions"),
        ({"condition_prompts": "missing.txt", "other_conditions": 0.5}, "missing.txt: the file does not exist"),
        ({"max_guidance_scale": 8}, "give task_weight 0"),
        ({"max_guidance_scale": 8, "task_weight": 0}, "--guidance-embedding-dim"),
        ({"max_guidance_scale": 1, "task_weight": 0}, "larger than 1"),
        ({"max_guidance_scale": 2, "task_weight": 0, "demo_guidance_scale": 3}, "demo_guidance_scale is beyond"),
        ({"student_steps": 4}, "belong together"),
        ({"student_steps": 4, "teacher_steps": 8}, "needs max_guidance_scale"),
        ({**STEPS, "teacher_steps": 6}, "multiple of student_steps"),
        ({**STEPS, "feature_weight": 1}, "give feature_weight 0"),
        ({**STEPS, "snr_gamma": 5}, "leave it out"),
        ({**STEPS, "demo_inference_steps": 7}, "can only be student_steps"),
        ({"teacher": "nowhere"}, "nowhere: this is neither a folder"),
    ],
)
def test_wrong_settings_are_refused(options, message, arguments, told_folder, tmp_path, capsys):
    if "student_steps" in options:
        options = {"model": told_folder, **options}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["autoencoder", "scale"])
def test_a_student_of_another_pipeline_is_refused(change, arguments, student_folder, tmp_path, capsys):
    pipe = CCLDPipeline.from_pretrained(student_folder)
    if change == "autoencoder":
        pipe.vae.encoder.conv_in.weight.data.mul_(1.1)
    else:
        pipe.vae.register_to_config(scaling_factor=0.3)
    pipe.save_pretrained(tmp_path / "student")
    assert run_here(SCRIPT, *arguments(tmp_path / "run", model=tmp_path / "student")) == 2
    assert "differs from the teacher's" in capsys.readouterr().err


def test_finetuning_refuses_a_network_that_is_told_the_scale(arguments, told_folder, cache, tmp_path, capsys):
    options = ("--model", told_folder, "--cache", cache, "--output_dir", tmp_path / "run")
    assert run_here("training/finetune.py", *options) == 2
    assert "use distill.py" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_recipes_of_the_table_are_whole(tmp_path, capsys):
    """Each recipe has a file of settings, and the script that trains it accepts them."""
    settings = ROOT / "training" / "configs" / "distill" / "table"
    recipes = yaml.safe_load(settings.with_suffix(".yaml").read_text())
    assert {path.stem for path in settings.glob("*.yaml")} == recipes.keys()
    for name, recipe in recipes.items():
        options = ["--config", settings / f"{name}.yaml", "--model", "nowhere", "--cache", tmp_path / "no-cache"]
        options += ["--output_dir", tmp_path / name]
        if recipe["script"] == "distill.py":
            options += ["--teacher", "nowhere"]
        assert run_here(f"training/{recipe['script']}", *options) == 2
        assert "nowhere" in capsys.readouterr().err
