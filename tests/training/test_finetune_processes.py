"""Tests of `training/finetune.py` as processes: killed, interrupted, several at once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.log import read_log
from diffusers_ccld.training.state import read_state
from support.picture_files import patchwork
from support.scripts import ROOT, environment, run, run_here, start
from support.training_processes import assert_same, drain, kill, kill_and_resume, wait_for

SCRIPT = "training/finetune.py"


@pytest.fixture(scope="module")
def arguments(trainable_folder, cache, pictures):
    """Arguments of a run, by where its images come from."""

    def of(source, output, steps=16, batch_size=4, **options):
        values = {
            "model": trainable_folder,
            "dataset" if source == "pictures" else "cache": pictures if source == "pictures" else cache,
            "output_dir": output,
            "max_steps": steps,
            "train_batch_size": batch_size,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "condition_noise": 0.05,
            "lr_scheduler": "cosine",
            "checkpointing_steps": 1,
            "checkpoints_total_limit": 2,
            "logging_steps": 3,
            "demo_every": 8,
            "demo_inference_steps": 1,
            "report_to": "none",
            "mixed_precision": "no",
            "dataloader_num_workers": 1,
            **options,
        }
        return [str(part) for name, value in values.items() for part in (f"--{name}", value)]

    return of


@pytest.mark.parametrize("source", ["pictures", "cache"])
def test_killed_at_random_it_resumes_to_the_bit(source, arguments, tmp_path):
    assert run_here(SCRIPT, *arguments(source, tmp_path / "whole")) == 0
    kill_and_resume(SCRIPT, arguments(source, tmp_path / "killed"), tmp_path / "killed", kills=2, seed=1)
    assert_same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_killed_at_the_start_and_in_writing_the_result_it_ends_the_same(arguments, tmp_path):
    assert run_here(SCRIPT, *arguments("cache", tmp_path / "whole")) == 0
    killed, chance = tmp_path / "killed", random.Random(3)
    for _ in range(4):
        process = start(SCRIPT, *arguments("cache", killed), "--resume", "latest")
        time.sleep(chance.uniform(1, 8))
        kill(process)
    for _ in range(3):
        process = start(SCRIPT, *arguments("cache", killed), "--resume", "latest")
        wait_for(lambda: (killed / ".pipeline.part").exists() or process.poll() is not None, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.1))
        kill(process)
    run(SCRIPT, *arguments("cache", killed), "--resume", "latest")
    assert not list(killed.glob(".*"))
    assert_same(tmp_path / "whole", killed)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["pictures", "cache"])
def test_killed_ten_times_it_resumes_to_the_bit(source, arguments, tmp_path):
    assert run_here(SCRIPT, *arguments(source, tmp_path / "whole", steps=120)) == 0
    kill_and_resume(SCRIPT, arguments(source, tmp_path / "killed", steps=120), tmp_path / "killed", kills=10, seed=2)
    assert_same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_saves_and_goes_on_later(number, arguments, tmp_path, capsys):
    options = {"checkpointing_steps": 1000, "logging_steps": 1, "steps": 200, "demo_every": 0}
    options |= {"gradient_accumulation_steps": 8, "batch_size": 2, "dataloader_num_workers": 2}
    folder = tmp_path / "stopped"
    process = start(SCRIPT, *arguments("pictures", folder, **options))
    wait_for(lambda: len(read_log(folder / "metrics.jsonl")) >= 2, process)
    for more in ([], ["--resume", "latest"]):
        assert run_here(SCRIPT, *arguments("pictures", folder, **options), *more) == 2
        assert f"stopped is in use: process {process.pid} on " in capsys.readouterr().err
    os.killpg(process.pid, number)  # as a terminal or a job scheduler does: the readers get the signal, too
    printed = drain(process)
    assert process.returncode == 130 and "resume with --resume latest" in printed and "Traceback" not in printed
    step = read_state(find_checkpoint(folder / "checkpoints", "latest")).step
    assert 2 <= step < 200 and len(read_log(folder / "metrics.jsonl")) == step

    options["steps"] = step + 2
    assert run_here(SCRIPT, *arguments("pictures", folder, **options), "--resume", "latest") == 0
    assert len(read_log(folder / "metrics.jsonl")) == step + 2


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class TestTwoProcesses:
    @pytest.fixture(scope="class")
    def both(self, arguments, tmp_path_factory):
        """The same run on one process, and on two with half the batch each."""
        folder = tmp_path_factory.mktemp("both")
        options = {"logging_steps": 1, "demo_every": 2, "checkpoints_total_limit": 0, "steps": 4}
        run(SCRIPT, *arguments("pictures", folder / "two", batch_size=2, **options), launch="ddp")
        assert run_here(SCRIPT, *arguments("pictures", folder / "one", batch_size=4, **options)) == 0
        return folder

    def test_the_averaged_gradient_is_that_of_the_joint_batch(self, both):
        # After one step AdamW's first moment is a tenth of the gradient.
        moments = [
            torch.load(both / name / "checkpoints" / "step-00000001" / "optimizer.bin", weights_only=True)["state"]
            for name in ("one", "two")
        ]
        assert moments[0].keys() == moments[1].keys()
        one, two = (torch.cat([10 * m[key]["exp_avg"].flatten() for key in m]) for m in moments)
        assert one.norm() > 1 and (one - two).abs().max() < 1e-6

    def test_losses_and_images_are_those_of_one_process(self, both):
        one, two = (read_log(both / name / "metrics.jsonl") for name in ("one", "two"))
        assert [e["images_seen"] for e in one] == [e["images_seen"] for e in two] == [8, 16, 24, 32]
        assert [e["loss"] for e in one] == pytest.approx([e["loss"] for e in two], rel=1e-5)
        weights = [load_file(both / n / "pipeline/unet/diffusion_pytorch_model.safetensors") for n in ("one", "two")]
        assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 1e-5

    def test_when_one_is_killed_the_run_ends_with_an_error_and_resumes_on_any_number(self, both, arguments, tmp_path):
        folder = tmp_path / "run"
        options = {"logging_steps": 1, "demo_every": 2, "checkpoints_total_limit": 0, "steps": 4}
        long = arguments("pictures", folder, batch_size=2, **{**options, "steps": 500, "lr_scheduler": "constant"})
        process = start(SCRIPT, *long, launch="ddp")
        wait_for(lambda: find_checkpoint(folder / "checkpoints", "latest") is not None, process)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        assert "error" in drain(process).lower() and process.returncode not in (0, None)
        step = read_state(find_checkpoint(folder / "checkpoints", "latest")).step

        # On one process with the joint batch, which is the same run.
        short = {**options, "steps": step + 2, "lr_scheduler": "constant"}
        resume = ("--resume", "latest")
        assert run_here(SCRIPT, *arguments("pictures", folder, batch_size=4, **short), *resume) == 0
        assert run_here(SCRIPT, *arguments("pictures", tmp_path / "whole", batch_size=4, **short)) == 0
        resumed, whole = (read_log(f / "metrics.jsonl") for f in (folder, tmp_path / "whole"))
        assert [e["loss"] for e in resumed] == pytest.approx([e["loss"] for e in whole], rel=1e-4)

    def test_sharded_training_is_the_same_saves_and_resumes(self, both, arguments, tmp_path):
        options = {"logging_steps": 1, "demo_every": 2, "checkpoints_total_limit": 0}
        steps = {"steps": 4, **options}
        folder = tmp_path / "sharded"
        process = start(SCRIPT, *arguments("pictures", folder, batch_size=2, **steps), launch="fsdp")
        wait_for(lambda: find_checkpoint(folder / "checkpoints", "latest") is not None, process)
        kill(process)
        run(SCRIPT, *arguments("pictures", folder, batch_size=2, **steps), "--resume", "latest", launch="fsdp")
        one, sharded = (read_log(f / "metrics.jsonl") for f in (both / "one", folder))
        assert [e["loss"] for e in one] == pytest.approx([e["loss"] for e in sharded], rel=1e-4)
        weights = [load_file(f / "pipeline/unet/diffusion_pytorch_model.safetensors") for f in (both / "one", folder)]
        assert weights[0].keys() == weights[1].keys()
        assert max((weights[0][name] - weights[1][name]).abs().max() for name in weights[0]) < 1e-5


class TestStreams:
    @pytest.fixture(scope="class")
    def stream(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("stream") / "pictures.parquet"
        features = datasets.Features({"image": datasets.Image()})
        images = datasets.Dataset.from_dict({"image": [patchwork(i) for i in range(12)]}, features=features)
        images.cast_column("image", datasets.Image(decode=False)).to_parquet(path)
        return path

    @pytest.fixture(autouse=True)
    def no_waiting(self, monkeypatch):
        monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)

    def options(self, arguments, stream, folder, steps):
        own = {"lr_scheduler": "constant", "logging_steps": 1, "demo_every": 4, "dataloader_num_workers": 0}
        return [*arguments("pictures", folder, steps=steps, **own, dataset=stream), "--streaming"]

    def test_a_resumed_stream_is_the_same_run_to_the_bit(self, arguments, stream, tmp_path):
        assert run_here(SCRIPT, *self.options(arguments, stream, tmp_path / "whole", 8)) == 0
        for steps in (3, 5, 8):
            assert (
                run_here(SCRIPT, *self.options(arguments, stream, tmp_path / "parts", steps), "--resume", "latest")
                == 0
            )
        for folder in (tmp_path / "whole", tmp_path / "parts"):
            for demo in (folder / "demos").glob("*[135].png"):  # the last steps of the parts, and the first
                demo.unlink()
        assert_same(tmp_path / "whole", tmp_path / "parts")

    def test_another_number_of_processes_is_refused_with_the_reason(self, arguments, stream, tmp_path, capsys):
        folder = tmp_path / "run"
        assert run_here(SCRIPT, *self.options(arguments, stream, folder, 2)) == 0
        path = find_checkpoint(folder / "checkpoints", "latest") / "progress.json"
        progress = json.loads(path.read_text())
        progress["stream"] *= 2  # as two processes would have left it
        path.write_text(json.dumps(progress))
        assert run_here(SCRIPT, *self.options(arguments, stream, folder, 4), "--resume", "latest") == 2
        assert "with 2 processes" in capsys.readouterr().err


class TestTheHub:
    def test_the_result_is_uploaded(self, hub, arguments, tmp_path, capsys):
        options = ("--push_to_hub", "--hub_model_id", "paintings", "--hub_private_repo")
        assert run_here(SCRIPT, *arguments("cache", tmp_path / "run", steps=1), *options) == 0
        assert hub.created == [("paintings", True)] and list(hub.uploads) == ["somebody/paintings"]
        assert {"README.md", "model_index.json", "samples.png", "losses.png"} <= set(hub.uploads["somebody/paintings"])
        assert "https://huggingface.co/somebody/paintings" in capsys.readouterr().out
        assert 'from_pretrained("somebody/paintings")' in (tmp_path / "run" / "pipeline" / "README.md").read_text()

    def test_a_hub_that_refuses_does_so_before_any_work(self, hub, arguments, tmp_path, capsys):
        hub.refuses = "create_repo"
        assert run_here(SCRIPT, *arguments("cache", tmp_path / "run"), "--push_to_hub") == 2
        assert "hf auth login" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]])
def test_a_mistake_is_the_last_line(launcher, arguments, tmp_path):
    """accelerate adds a traceback without --quiet, as docs/training.md says."""
    wrong = [*arguments("pictures", tmp_path / "run"), "--max-step", "3"]
    ended = subprocess.run(
        [sys.executable, *launcher, str(ROOT / SCRIPT), *wrong], env=environment(), capture_output=True, text=True
    )
    assert ended.returncode == (1 if launcher else 2) and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: unrecognized arguments: --max-step 3. Did you mean --max")
