"""Tests of `training/finetune.py`: results, files, wrong settings, resumption."""

import json
import struct

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from diffusers_ccld import CCLDPipeline, CCLDUNet2DConditionModel
from diffusers_ccld.data.latent_cache import LatentCache
from diffusers_ccld.original.conversion import convert
from diffusers_ccld.original.reading.checkpoints import CheckpointError
from diffusers_ccld.original.request import ConversionRequest
from diffusers_ccld.original.training_state import read_training_state
from diffusers_ccld.training.checkpoints import list_checkpoints
from diffusers_ccld.training.log import read_log
from support import original_files
from support.picture_files import write_broken_pictures, write_pictures
from support.scripts import run_here

SCRIPT = "training/finetune.py"
QUICK = ("--report_to", "none", "--demo_every", 0, "--logging_steps", 1, "--dataloader_num_workers", 0)
QUICK = (*QUICK, "--mixed_precision", "no")


def finetune(model, output, *arguments):
    return run_here(SCRIPT, "--model", model, "--output_dir", output, "--train_batch_size", 4, *QUICK, *arguments)


def weights_of(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def losses_of(folder):
    return [entry["loss"] for entry in read_log(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def finished(trainable_folder, pictures, tmp_path_factory):
    """A run of six steps with demos and both trackers."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    prompts = folder.parent / "prompts.txt"
    prompts.write_text("a sunset\n\n  a boat\nthe moon\na red rose\nfog\n")
    options = (
        "--report_to",
        "tensorboard",
        "wandb",
        "--demo_every",
        4,
        "--demo_inference_steps",
        2,
        "--license",
        "mit",
    )
    options = (*options, "--demo_prompts", prompts, "--max_steps", 6, "--checkpointing_steps", 3, "--lora_rank", 0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_DIR", str(folder.parent))
        monkeypatch.setenv("WANDB_SILENT", "true")
        assert finetune(trainable_folder, folder, "--dataset", pictures, *options) == 0
    return folder


def records_of(log: bytes, header: int = 7, block: int = 2**15):
    """The records of a log in LevelDB's format, after a header: each in parts of checksum, length, kind and data."""
    position, data = header, b""
    while position + 7 <= len(log):
        if block - position % block < 7:  # too short for a part
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", log, position + 4)
        data += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield data
            data = b""


class TestAFinishedRun:
    def test_its_result_is_a_pipeline_with_the_averaged_weights(self, finished, trainable_folder):
        pipe = DiffusionPipeline.from_pretrained(finished / "pipeline")
        assert type(pipe) is CCLDPipeline and pipe.unet.config.sample_size == 4
        average = load_file(finished / "checkpoints" / "step-00000006" / "average-0.safetensors")
        weights = weights_of(finished / "pipeline")
        assert all(torch.equal(weights[name], value) for name, value in average.items())
        assert set(weights) - set(average) == {"fourier.weight", "mapping.fourier.weight"}
        trained = load_file(finished / "checkpoints" / "step-00000006" / "model.safetensors")
        assert not torch.equal(
            trained["up_blocks.1.resnets.0.conv1.weight"], average["up_blocks.1.resnets.0.conv1.weight"]
        )
        for name in ("vae", "text_encoder", "image_encoder"):
            files = [
                next((folder / name).glob("*.safetensors")) for folder in (finished / "pipeline", trainable_folder)
            ]
            assert files[0].read_bytes() == files[1].read_bytes()

    def test_its_log_has_every_figure(self, finished):
        entries = read_log(finished / "metrics.jsonl")
        assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6]
        for entry in entries:
            for name in ("loss", "grad_norm", "images_per_second", "memory_gib"):
                assert np.isfinite(entry[name]) and entry[name] > 0
            assert entry["learning_rate"] == 3e-5 and entry["ema_decay"] == 0.99 and entry["bad_images"] == 0
            quartiles = [entry[f"loss_t{i}"] for i in range(4) if f"loss_t{i}" in entry]
            assert min(quartiles) <= entry["loss"] <= max(quartiles)
        assert entries[-1]["images_seen"] == 24

    def test_its_demos_are_grids_at_the_first_step_and_every_fourth(self, finished):
        names = sorted(path.name for path in (finished / "demos").iterdir())
        assert names == ["step-00000001.png", "step-00000004.png", "step-00000006.png"]
        grid = Image.open(finished / "demos" / names[-1])
        assert grid.size == (4 * 32, 2 * 32)
        assert np.asarray(grid)[32:, 32:].min() == 255  # five prompts leave three places blank
        assert np.asarray(grid)[:32].std() > 5

    def test_tensorboard_has_grid_and_scalars(self, finished):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(finished / "logs" / "ccld")).Reload()
        assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
        assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses_of(finished))
        assert {"grad_norm", "learning_rate", "images_per_second", "memory_gib", "ema_decay", "bad_images"} <= set(
            events.Tags()["scalars"]
        )
        images = events.Images("demo")
        assert [e.step for e in images] == [1, 4, 6] and (images[0].width, images[0].height) == (128, 64)

    def test_wandb_has_grid_and_scalars_offline(self, finished):
        from wandb.proto.wandb_internal_pb2 import Record

        (folder,) = (finished.parent / "wandb").glob("offline-run-*")
        records = [Record.FromString(data) for data in records_of(next(folder.glob("*.wandb")).read_bytes())]
        history = [
            {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for record in records
            if record.WhichOneof("record_type") == "history"
        ]
        logged = [row["loss"] for row in history if "loss" in row]
        assert logged == pytest.approx(losses_of(finished))
        grids = sorted((folder / "files" / "media" / "images").glob("demo_*.png"))
        assert len(grids) == 3 and Image.open(grids[0]).size == (128, 64)

    def test_its_card_tells_how_it_was_made(self, finished, pictures):
        card = (finished / "pipeline" / "README.md").read_text()
        header = yaml.safe_load(card.split("---")[1])
        assert header["license"] == "mit" and header["pipeline_tag"] == "text-to-image" and "ccld" in header["tags"]
        for text in (pictures.name, "6, 24 images seen", "learning_rate: 3.0e-05", "samples.png", "losses.png", "CPU"):
            assert text in card
        assert str(pictures.parent) not in card
        grid = Image.open(finished / "pipeline" / "samples.png")
        assert list(grid.getdata()) == list(Image.open(finished / "demos" / "step-00000006.png").getdata())
        assert Image.open(finished / "pipeline" / "losses.png").size == (800, 450)
        assert (finished / "pipeline" / "prompts.txt").read_text() == "a sunset\na boat\nthe moon\na red rose\nfog\n"

    def test_its_settings_are_saved_and_make_the_same_run(self, finished, trainable_folder, tmp_path):
        options = ("--config", finished / "config.yaml", "--output_dir", tmp_path / "again", "--report_to", "none")
        assert run_here(SCRIPT, *options) == 0
        a, b = weights_of(finished / "pipeline"), weights_of(tmp_path / "again" / "pipeline")
        assert all(torch.equal(a[name], b[name]) for name in a)
        for name in ("demos/step-00000001.png", "demos/step-00000006.png"):
            assert (finished / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    def test_it_is_not_written_over_but_may_go_on(self, finished, trainable_folder, pictures, capsys):
        options = ("--dataset", pictures, "--max_steps", 6)
        assert finetune(trainable_folder, finished, *options) == 2
        assert "--resume latest" in capsys.readouterr().err
        assert len(losses_of(finished)) == 6


def test_a_tiny_network_learns_eight_images_by_heart(trainable_folder, tmp_path):
    write_pictures(tmp_path / "eight", 8)
    options = ("--model", trainable_folder, "--dataset", tmp_path / "eight", "--dataloader_num_workers", 0)
    assert run_here("training/precompute.py", *options, "--output", tmp_path / "cache") == 0
    (tmp_path / "unet.json").write_text(
        json.dumps({"block_out_channels": [64, 64], "layers_per_block": 2, "mapping_dim": 256, "sample_size": 4})
    )
    options = ("--cache", tmp_path / "cache", "--unet_config", tmp_path / "unet.json", "--train_batch_size", 16)
    options = (*options, "--max_steps", 350, "--learning_rate", 2e-3, "--lr_scheduler", "cosine", "--max_grad_norm", 1)
    options = (
        *options,
        "--ema_decays",
        0.95,
        "--ema_decay_starts",
        0,
        "--condition_dropout",
        0,
        "--logging_steps",
        10,
    )
    assert finetune(trainable_folder, tmp_path / "run", *options) == 0
    losses = losses_of(tmp_path / "run")
    assert losses[-1] < losses[0] / 10

    pipe = CCLDPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    batch = LatentCache.open(tmp_path / "cache", 0).__getitems__(list(range(8)))
    latents = batch["latent_mean"] * pipe.vae.config.scaling_factor
    options = {"num_inference_steps": 20, "guidance_scale": 1.0, "output_type": "latent"}
    painted = pipe(image_embeds=batch["image_embeds"], generator=torch.Generator().manual_seed(0), **options).images
    nearest = torch.cdist(painted.flatten(1), latents.flatten(1)).argmin(dim=1)
    assert nearest.tolist() == list(range(8))


def test_options_change_what_they_say(trainable_folder, cache, tmp_path):
    """Every option of training against a plain run: it changes the result, or must not change it."""
    plain = ("--cache", cache, "--max_steps", 3, "--learning_rate", 1e-3)
    assert finetune(trainable_folder, tmp_path / "plain", *plain) == 0
    expected, first_loss = weights_of(tmp_path / "plain" / "pipeline"), losses_of(tmp_path / "plain")[0]

    def difference(name, *options):
        assert finetune(trainable_folder, tmp_path / name, *plain, *options) == 0
        weights = weights_of(tmp_path / name / "pipeline")
        return max((weights[key] - expected[key]).abs().max().item() for key in expected)

    assert difference("checkpointing", "--gradient_checkpointing") == 0
    assert difference("workers", "--dataloader_num_workers", 2) == 0
    assert difference("seed", "--seed", 1) > 1e-5
    assert difference("clip", "--max_grad_norm", 0.01) > 1e-6
    assert difference("decay", "--weight_decay", 10.0) > 1e-5
    assert difference("ema", "--ema_decays", 0.5, "--ema_decay_starts", 0) > 1e-5
    assert difference("dropout", "--condition_dropout", 1.0) > 1e-6
    assert difference("snr", "--snr_gamma", 1.0) > 1e-6
    assert losses_of(tmp_path / "snr")[0] == first_loss  # what is logged is not weighted
    assert difference("warm-up", "--lr_scheduler", "constant_with_warmup", "--lr_warmup_steps", 2) > 1e-6
    rates = [entry["learning_rate"] for entry in read_log(tmp_path / "warm-up" / "metrics.jsonl")]
    assert rates == pytest.approx([0, 5e-4, 1e-3])
    assert 1e-7 < difference("bf16", "--mixed_precision", "bf16") < 5e-3
    assert difference("accumulation", "--train_batch_size", 2, "--gradient_accumulation_steps", 2) < 1e-5


def test_other_resolutions_and_crops(trainable_folder, pictures, tmp_path):
    options = ("--dataset", pictures, "--max_steps", 2, "--resolution", 64, "--random_crop", "--random_flip")
    assert finetune(trainable_folder, tmp_path / "run", *options) == 0
    assert CCLDUNet2DConditionModel.load_config(tmp_path / "run" / "pipeline" / "unet")["sample_size"] == 8


def test_lora(trainable_folder, cache, tmp_path):
    options = ("--cache", cache, "--max_steps", 4, "--lora_rank", 2, "--lora_alpha", 4, "--learning_rate", 1e-2)
    options = (*options, "--checkpointing_steps", 2)
    assert finetune(trainable_folder, tmp_path / "run", *options) == 0
    assert not (tmp_path / "run" / "pipeline").exists()
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    paint = {"num_inference_steps": 2, "output_type": "pt"}
    before = pipe("a boat", generator=torch.Generator().manual_seed(0), **paint).images
    pipe.load_lora_weights(tmp_path / "run" / "lora")
    after = pipe("a boat", generator=torch.Generator().manual_seed(0), **paint).images
    assert not torch.equal(before, after)
    assert pipe.unet.peft_config["default_0"].lora_alpha == 4
    trained = load_file(tmp_path / "run" / "checkpoints" / "step-00000004" / "average-0.safetensors")
    assert trained and all("lora_" in name for name in trained)
    lora = {n: p for n, p in pipe.unet.named_parameters() if "lora_" in n}
    assert all(torch.equal(p, trained[n.replace("default_0", "default")]) for n, p in lora.items())
    assert "load_lora_weights" in (tmp_path / "run" / "lora" / "README.md").read_text()


def test_a_dry_run_writes_nothing_and_tells_what_would_be(trainable_folder, pictures, tmp_path, capsys):
    assert finetune(trainable_folder, tmp_path / "run", "--dataset", pictures, "--max_steps", 600, "--dry_run") == 0
    printed = capsys.readouterr().out
    for text in (
        "parameters: ",
        "images: 24, 4 a step; 600 steps are 100.0 epochs",
        "memory: ",
        "s a step",
        "note: ",
    ):
        assert text in printed
    assert not (tmp_path / "run").exists()


def test_a_run_that_turns_nan_stops_and_keeps_the_step(trainable_folder, cache, tmp_path, capsys):
    options = ("--cache", cache, "--max_steps", 20, "--learning_rate", 1e30, "--checkpointing_steps", 1)
    assert finetune(trainable_folder, tmp_path / "run", *options) == 2
    (aside,) = (tmp_path / "run").glob("failed-step-*")
    step = int(aside.name.rpartition("-")[2])
    assert f"of step {step} is not finite" in capsys.readouterr().err
    batch = load_file(aside / "batch-0.safetensors")
    assert batch["latents"].shape == (4, 4, 4, 4) and {"noisy_latents", "timesteps", "condition", "losses"} <= set(
        batch
    )
    assert (aside / "model.safetensors").is_file()
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == f"step-{step - 1:08d}"


def test_settings_may_change_on_the_way_and_then_hold(trainable_folder, cache, tmp_path):
    options = ("--cache", cache, "--lr_scheduler", "linear", "--checkpoints_total_limit", 0)
    assert finetune(trainable_folder, tmp_path / "run", *options, "--max_steps", 3, "--learning_rate", 3e-3) == 0
    options = (*options, "--max_steps", 6, "--learning_rate", 1e-3, "--resume", "latest")
    assert finetune(trainable_folder, tmp_path / "run", *options) == 0
    rates = [entry["learning_rate"] for entry in read_log(tmp_path / "run" / "metrics.jsonl")]
    assert rates == pytest.approx([3e-3, 2e-3, 1e-3, 5e-4, 1e-3 / 3, 1e-3 / 6])
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["resume"] is None


def test_another_accumulation_goes_on_with_the_same_gradients(trainable_folder, cache, tmp_path):
    plain = ("--cache", cache, "--learning_rate", 1e-3, "--checkpointing_steps", 3)
    assert finetune(trainable_folder, tmp_path / "whole", *plain, "--max_steps", 5) == 0
    assert finetune(trainable_folder, tmp_path / "parts", *plain, "--max_steps", 3) == 0
    split = ("--train_batch_size", 2, "--gradient_accumulation_steps", 2, "--max_steps", 5, "--resume", "latest")
    assert finetune(trainable_folder, tmp_path / "parts", *plain, *split) == 0
    whole, parts = (read_log(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [e["grad_norm"] for e in whole] == pytest.approx([e["grad_norm"] for e in parts], rel=1e-4)


def test_going_back_to_an_earlier_checkpoint_drops_what_came_after(trainable_folder, cache, tmp_path):
    options = ("--cache", cache, "--checkpointing_steps", 1)
    all_kept = (*options, "--checkpoints_total_limit", 0, "--max_steps", 6)
    assert finetune(trainable_folder, tmp_path / "run", *all_kept) == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    back = (*options, "--resume", checkpoints / "step-00000002", "--max_steps", 3, "--learning_rate", 1e-4)
    assert finetune(trainable_folder, tmp_path / "run", *back) == 0
    assert [path.name[-1] for path in list_checkpoints(checkpoints)] == ["1", "2", "3"]
    assert [entry["step"] for entry in read_log(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]


def test_a_run_does_not_go_on_as_another(trainable_folder, cache, pictures, tmp_path, capsys):
    assert finetune(trainable_folder, tmp_path / "run", "--dataset", pictures, "--max_steps", 2) == 0
    for option, message in (
        (("--dataset", pictures, "--random_flip"), "random_flip was False and is True"),
        (("--dataset", pictures, "--seed", 1), "seed was 0 and is 1"),
        (("--dataset", pictures, "--resolution", 64), "resolution was 32 and is 64"),
        (("--dataset", pictures, "--lora_rank", 2), "lora was"),
        (("--cache", cache), "cache was None"),
        (("--dataset", pictures, "--max_steps", 1), "at step 2 already"),
    ):
        assert finetune(trainable_folder, tmp_path / "run", "--max_steps", 4, *option, "--resume", "latest") == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_run_goes_on_with_copies_of_its_images_and_not_with_others(trainable_folder, tmp_path, capsys):
    paths = write_pictures(tmp_path / "pictures", 4)
    options = ("--dataset", tmp_path / "pictures", "--resume", "latest")
    assert finetune(trainable_folder, tmp_path / "run", *options, "--max_steps", 1) == 0
    for path in paths:
        path.touch()
    assert finetune(trainable_folder, tmp_path / "run", *options, "--max_steps", 2) == 0
    paths[1].write_bytes(paths[0].read_bytes())
    assert finetune(trainable_folder, tmp_path / "run", *options, "--max_steps", 3) == 2
    assert "belongs to another run: images: their contents differ, not their names" in capsys.readouterr().err


def test_a_tracker_that_is_not_installed_is_missed(trainable_folder, cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffusers_ccld.training.accelerator.get_available_trackers", lambda: ["tensorboard"])
    assert finetune(trainable_folder, tmp_path / "run", "--cache", cache, "--report_to", "wandb") == 2
    assert "--report-to wandb: not installed" in capsys.readouterr().err


def test_errors_of_the_processes_that_read_are_one_line(trainable_folder, tmp_path, capsys):
    write_broken_pictures(tmp_path / "broken")
    options = ("--dataset", tmp_path / "broken", "--dataloader_num_workers", 2)
    assert finetune(trainable_folder, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 100 pictures in a row are bad")


def test_broken_images_are_skipped_and_reported(trainable_folder, tmp_path):
    good, broken = write_pictures(tmp_path / "good", 180), write_broken_pictures(tmp_path / "broken")
    order = np.random.default_rng(0).permutation(200)
    (tmp_path / "train.txt").write_text("\n".join(str([*good, *broken][i]) for i in order))
    options = ("--dataset", tmp_path / "train.txt", "--max_steps", 13, "--train_batch_size", 16, "--logging_steps", 2)
    assert finetune(trainable_folder, tmp_path / "run", *options) == 0
    listed = [json.loads(line) for line in (tmp_path / "run" / "bad_images.jsonl").read_text().splitlines()]
    assert {entry["image"] for entry in listed} == set(map(str, broken))
    assert read_log(tmp_path / "run" / "metrics.jsonl")[-1]["bad_images"] == 20


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dataset", "/nowhere"], "no such folder"),
        (["--model", "/nowhere"], "/nowhere: this is neither a folder"),
        (["--dataset", "{empty}s"], "emptys: there is no such folder or file. Did you mean {empty}?"),
        (["--model", "{empty}s"], "a model on the Hub, named owner/name. Did you mean {empty}?"),
        (["--cache", "{empty}s"], "There is no folder {empty}s. Did you mean {empty}?"),
        (["--cache", "{empty}"], "is not a cache"),
        (["--cache", "{cache}", "--random_flip"], "is stale"),
        (["--cache", "{cache}", "--dataset", "{empty}"], "has no images"),
        (["--cache", "{cache}", "--unet_config", "/nowhere.json"], "/nowhere.json: the file does not exist"),
        (["--cache", "{cache}", "--unet_config", "{wrong}"], "unknown settings: width"),
        (["--cache", "{cache}", "--resume", "/nowhere"], "not a checkpoint"),
        (["--cache", "{cache}", "--optimizer", "adamw8bit"], "pip install"),
        (["--cache", "{cache}", "--condition_noise", "-0.1"], "condition_noise must not be negative"),
        (["--cache", "{cache}", "--lora_alpha", "2"], "lora_alpha needs"),
        (["--cache", "{cache}", "--original_checkpoint", "/nowhere.ckpt"], "does not exist"),
        (["--cache", "{cache}", "--original_checkpoint", "a", "--lora_rank", "2"], "leave out"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(arguments, message, trainable_folder, cache, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.json").write_text('{"width": 3}')
    places = {"cache": cache, "empty": tmp_path / "empty", "wrong": tmp_path / "wrong.json"}
    arguments = [argument.format(**places) for argument in arguments]
    assert finetune(trainable_folder, tmp_path / "run", "--max_steps", 2, *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message.format(**places) in error
    assert not (tmp_path / "run").exists()


class TestTheOriginalsTrainingRuns:
    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("original") / "training.ckpt"
        return original_files.write_training_checkpoint(path, "tiny-64", "tiny", "kl-f8-tiny", optimizer=True)

    def test_weights_average_and_moments_are_found(self, checkpoint):
        unet = CCLDUNet2DConditionModel(block_out_channels=(64,) * 4)
        state = read_training_state(checkpoint, unet)
        assert state.step == 149999
        optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=1e-4)
        state.load_into(unet, optimizer)
        assert optimizer.param_groups[0]["lr"] == 1e-4

        def original(name, seed):
            return original_files.torch_weight(name, original_files.read_json("unet_shapes")["tiny-64"][name], seed)

        attention = unet.down_blocks[1].attentions[1]
        for i, layer in enumerate((attention.to_q, attention.to_k, attention.to_v)):
            moments = optimizer.state[layer.weight]
            rows = slice(64 * i, 64 * (i + 1))
            theirs = "net.4.main.4.qkv_proj.weight"
            torch.testing.assert_close(layer.weight, original(theirs, 1)[rows].flatten(1))
            torch.testing.assert_close(moments["exp_avg"], 1e-3 * original(theirs, 2)[rows].flatten(1))
            torch.testing.assert_close(moments["exp_avg_sq"], 1e-6 * original(theirs, 3)[rows].flatten(1).square())
            assert moments["step"] == 149999
        assert len(optimizer.state) == len([p for p in unet.parameters() if p.requires_grad])

    def test_they_go_on(self, checkpoint, pictures, tmp_path):
        convert(ConversionRequest(output=tmp_path / "model", unet=checkpoint), warn=lambda message: None)
        options = ("--dataset", pictures, "--resolution", 64, "--original_checkpoint", checkpoint)
        assert finetune(tmp_path / "model", tmp_path / "run", *options, "--max_steps", 150001) == 0
        entries = read_log(tmp_path / "run" / "metrics.jsonl")
        assert [entry["step"] for entry in entries] == [150000, 150001]
        assert entries[0]["ema_decay"] == 0.999 and entries[0]["learning_rate"] == 3e-5
        averaged = weights_of(tmp_path / "run" / "pipeline")
        before = weights_of(tmp_path / "model")
        raw = load_file(tmp_path / "run" / "checkpoints" / "step-00150001" / "model.safetensors")
        name = "down_blocks.1.resnets.0.conv1.weight"
        expected = before[name] * 0.999**2 + raw[name] * (1 - 0.999**2)
        torch.testing.assert_close(averaged[name], expected, atol=1e-5, rtol=1e-4)

    def test_files_without_a_training_run_are_refused(self, originals):
        unet = CCLDUNet2DConditionModel(block_out_channels=(64,) * 4)
        with pytest.raises(CheckpointError, match="lacks AdamW's state"):
            read_training_state(originals.training, unet)
        with pytest.raises(CheckpointError, match="not a training checkpoint"):
            read_training_state(originals.unet, unet)
