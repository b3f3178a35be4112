"""A run that is too short for the average of its weights says so."""

import pytest

from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.training.config import TrainingConfig
from diffusers_ccld.training.run import warn_of_slow_ema
from support.scripts import run_here


def parse(*argv):
    return parse_config(TrainingConfig, "", ["--model", "m", "--output_dir", "o", *argv])


@pytest.mark.parametrize("options", [("0.998",), ("0.9", "0.99", "--ema_decay_starts", "0", "5"), ("0.9", "0.5")])
def test_the_initial_share_of_the_average_is_that_of_its_updates(options):
    config = parse("--max_steps", "12", "--ema_decays", *options)
    share = 1.0
    for step in range(12):
        share *= config.ema_decay_at(step)
    assert config.initial_share_of_ema == pytest.approx(share)


@pytest.mark.parametrize("steps, decay, remedy", [(100, 0.998, "0.9"), (3, 0.99, "0"), (400, 0.998, None)])
def test_an_average_that_hardly_moves_is_warned_of(steps, decay, remedy, caplog):
    warn_of_slow_ema(parse("--max_steps", str(steps), "--ema_decays", str(decay)))
    expected = [] if remedy is None else [f"Give --ema-decays {remedy} or more steps."]
    assert [record.getMessage().partition("steps. ")[2] for record in caplog.records] == expected


def test_a_script_warns_at_its_start(trainable_folder, cache, tmp_path, caplog):
    options = ("--model", trainable_folder, "--cache", cache, "--output_dir", tmp_path / "run", "--dry_run")
    options += ("--max_steps", 20, "--ema_decays", 0.998, "--train_batch_size", 4, "--report_to", "none")
    assert run_here("training/finetune.py", *options) == 0
    assert "96% of it will be the weights before the first of the 20 steps" in caplog.text
