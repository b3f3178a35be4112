import json
import runpy
from pathlib import Path

import pytest

from diffusers_ccld import default_model
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.pipelines.saving import SETTINGS
from diffusers_ccld.training.config import TrainingConfig, save_config
from support.scripts import ROOT

CONFIGS = ROOT / "training" / "configs"
REQUIRED = ["--model", "m", "--output_dir", "o"]


def parse(*argv):
    return parse_config(TrainingConfig, "what it does", list(argv))


def test_the_defaults_are_the_originals_recipe():
    config = parse(*REQUIRED)
    assert (config.learning_rate, config.weight_decay, config.condition_dropout) == (3e-5, 0.01, 0.2)
    decays = [config.ema_decay_at(step) for step in (0, 19_999, 20_000, 199_999, 200_000, 10**7)]
    assert decays == [0.99, 0.99, 0.999, 0.999, 0.9999, 0.9999]


def test_a_file_is_read_as_flags_are_and_flags_go_before_it(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: m\noutput_dir: o\nlearning_rate: 1e-4\nrandom_flip: true\nema_decays: [0.9, 0.99]\n"
        "ema_decay_starts: [0, 10]\nmax_grad_norm: null\nseed: 5\nreport_to: [wandb]\n"
    )
    config = parse("--config", str(path), "--seed", "7")
    assert config.learning_rate == 1e-4 and config.random_flip is True and config.seed == 7
    assert config.ema_decays == [0.9, 0.99] and config.max_grad_norm is None and config.trackers == ["wandb"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_repositorys_settings_are_read(path):
    assert parse("--config", str(path)).output_dir


def test_files_of_settings_may_be_utf_16(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("dataset: картины\nmodel: m\noutput_dir: out\nseed: 3\n".encode("utf-16"))
    config = parse("--config", str(path))
    assert (config.dataset, config.seed) == ("картины", 3)


@pytest.mark.parametrize("data", [b"seed: \xe9", b"? [" * 20_000, b"a: [1", b"\xff\xfe\x00", b"a\x00b: 1"])
def test_damaged_files_of_settings_are_named_in_one_line(tmp_path, data):
    path = tmp_path / "run.yaml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"--config \S*run\.yaml is not YAML\. \([^\n]*\)$") as caught:
        parse("--config", str(path))
    assert not isinstance(caught.value, UnicodeError)


@pytest.mark.parametrize(
    ("name", "script", "config_class"),
    [
        ("vae", "train_autoencoder", "AutoencoderConfig"),
        ("cloob", "train_cloob", "CLOOBTrainingConfig"),
        ("judge", "train_judge", "JudgeConfig"),
        ("second_judge", "train_judge", "JudgeConfig"),
        ("decoder", "train_autoencoder", "AutoencoderConfig"),
        ("unet", "finetune", "FinetuneConfig"),
        ("teacher", "finetune", "FinetuneConfig"),
    ],
)
def test_the_settings_of_the_bundled_model_are_read(name, script, config_class, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    script = runpy.run_path(str(ROOT / "training" / f"{script}.py"))
    arguments = ["--config", f"training/configs/default/{name}.yaml", "--dataset", str(tmp_path)]
    if "judge" in name:
        arguments += ["--held_out_dataset", str(tmp_path)]
    config = parse_config(script[config_class], "", arguments)
    assert config.output_dir == f"outputs/default/{name.replace('_', '-')}"
    for setting in ("vae_config", "cloob_config", "unet_config"):
        if getattr(config, setting, None) is not None:
            assert json.loads((ROOT / getattr(config, setting)).read_text())


def test_the_settings_of_the_bundled_text_encoders_fit_are_those_of_the_bundled_model(tmp_path):
    script = runpy.run_path(str(ROOT / "training" / "fit_text.py"))
    arguments = ["--config", str(CONFIGS / "default" / "text.yaml"), "--dataset", str(tmp_path)]
    config = parse_config(script["TextFitConfig"], "", arguments)
    assert config.output == "outputs/default/fitted"
    index = json.loads((Path(default_model()) / "model_index.json").read_text())
    assert {name: getattr(config, name) for name in SETTINGS if hasattr(config, name)} == {
        "default_guidance_scale": index["default_guidance_scale"],
        "default_variation": index["default_variation"],
    }


def test_words_that_yaml_takes_for_booleans_are_words(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("mixed_precision: no\nrandom_flip: no\ncompile: yes\n")
    config = parse(*REQUIRED, "--config", str(path))
    assert config.mixed_precision == "no" and config.random_flip is False and config.compile is True


def test_saved_settings_are_read_again(tmp_path):
    config = parse(
        *REQUIRED, "--snr_gamma", "5", "--report_to", "none", "--ema_decays", "0.9", "--ema_decay_starts", "0"
    )
    save_config(config, tmp_path / "config.yaml")
    assert parse("--config", str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize("decays, starts", [(["0.9"], [0]), (["0.9", "0.99"], [0, 20_000])])
def test_fewer_decays_begin_at_the_first_usual_steps(decays, starts):
    config = parse(*REQUIRED, "--ema_decays", *decays)
    assert config.ema_decay_starts == starts
    assert config.ema_decay_at(100) == 0.9


def test_a_misspelt_option_is_one_line_with_a_suggestion(capsys):
    for typed in ("--max_step", "--max-step"):
        with pytest.raises(SystemExit) as end:
            parse(*REQUIRED, typed, "3")
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1
        assert error.startswith(f"error: unrecognized arguments: {typed} 3. Did you mean --max-steps? (")


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_rte: 1e-4", r"unknown settings: learning_rte. Did you mean learning_rate\?$"),
        ("nothing: 1", "unknown settings: nothing. There are dataset, "),
        ("- a\n- b", "no settings of the form"),
        ("run_name: {a: 1}", "run_name is a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_files(text, message, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse(*REQUIRED, "--config", str(path))
    with pytest.raises(ValueError, match="the file does not exist"):
        parse(*REQUIRED, "--config", str(tmp_path / "other.yaml"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--max_steps", "0"], "max_steps must be at least 1"),
        (["--train_batch_size", "-1"], "train_batch_size must be at least 1"),
        (["--learning_rate", "nan"], "learning_rate must be positive"),
        (["--condition_dropout", "1.5"], "between 0 and 1"),
        (["--lr_warmup_steps", "10"], "needs another lr_scheduler"),
        (["--ema_decays", "0.9", "--ema_decay_starts", "0", "5"], "as many ascending steps"),
        (["--ema_decays", "0.9", "1.0", "--ema_decay_starts", "0", "5"], "ema_decays must lie between"),
        (["--cache", "c", "--streaming"], "not streamed"),
        (["--report_to", "paper"], "not paper"),
        (["--report_to", "none", "wandb"], "none stands alone"),
        (["--demo_prompts", "nowhere.txt"], "nowhere.txt is not a file"),
        (["--seed", "-1"], "seed must lie"),
        (["--max_bad_share", "2"], "max_bad_share"),
    ],
)
def test_settings_that_do_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse(*REQUIRED, *arguments)


WRONG_FLAGS = (["--max_steps", "many"], ["--optimizer", "sgd"], ["--no_such_flag", "2"], ["--model", "m"])


@pytest.mark.parametrize("arguments", WRONG_FLAGS)
def test_wrong_flags_name_the_help(arguments, capsys):
    with pytest.raises(SystemExit):
        parse(*([] if arguments[0] == "--model" else REQUIRED), *arguments)
    assert "--help` lists the options" in capsys.readouterr().err


def test_help_tells_defaults_and_units(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "what it does" in text and "in pixels" in text and "(default: 3e-05)" in text
