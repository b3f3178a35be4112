"""Files and arguments that the converter refuses: one clear error, and nothing left behind."""

import json
import re

import pytest
import torch
import yaml

from support import original_files
from support.converter import convert, run_script
from support.mutated_files import Exploit


def damaged_unet(tmp_path, change):
    state = original_files.unet_state("tiny-64")
    change(state)
    torch.save(state, tmp_path / "damaged.ckpt")
    return tmp_path / "damaged.ckpt"


NAME = "net.4.main.9.main.3.main.0.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop(NAME), f"lacks {NAME}"),
        (lambda state: state.update({"net.4.main.9.main.33.weight": state.pop(NAME)}), f"lacks {NAME}"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected tensors: extra"),
        (lambda state: state.update({NAME: torch.zeros(64, 65, 3, 3)}), f"{NAME} (64, 65, 3, 3)"),
        (lambda state: state[NAME].__setitem__((0, 0, 0, 0), float("nan")), f"NaN or infinite values in {NAME}"),
        (lambda state: [state.pop(name) for name in list(state) if name.startswith("net.8")], "not a U-Net of CCLD"),
    ],
)
def test_damaged_unets_are_refused(tmp_path, capsys, change, message):
    unet = damaged_unet(tmp_path, change)
    assert convert("--unet", unet, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert [p.name for p in tmp_path.iterdir()] == ["damaged.ckpt"]


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": torch.zeros(3)},
        {"net.0.main.0.weight": [1.0]},
        {"net.0.main.0.weight": 1.0},
        {3: torch.zeros(3)},
        {"net.0.main.0.weight": torch.zeros(3).to_sparse()},
        {"state_dict": {"model_ema.net.0.main.0.weight": torch.zeros(3), "modle.x": torch.zeros(1)}},
        {"net.0.main.0.weight": torch.zeros(3)},
        {},
    ],
)
def test_files_that_are_no_state_dict(tmp_path, capsys, content):
    torch.save(content, tmp_path / "file.ckpt")
    for option in ("--unet", "--autoencoder"):
        scale = ("--autoencoder-scale", "2") if option == "--autoencoder" else ()
        assert convert(option, tmp_path / "file.ckpt", *scale, "--output", tmp_path / "out") == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_shared_memory_and_large_values(tmp_path, capsys):
    state = original_files.unet_state("tiny-64")
    state["net.1.main.0.bias"] = state["net.0.main.0.bias"]
    state["net.2.main.0.bias"].fill_(1e6)
    torch.save(state, tmp_path / "unet.ckpt")
    assert convert("--unet", tmp_path / "unet.ckpt", "--output", tmp_path / "out") == 0
    assert convert("--unet", tmp_path / "unet.ckpt", "--dtype", "fp16", "--output", tmp_path / "half") == 2
    assert "too large for fp16" in capsys.readouterr().err


def write_yaml(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_wrong_arguments_leave_nothing_behind(originals, tmp_path, capsys):
    kl = yaml.safe_load(originals.autoencoder_config.read_text())
    vq = {"model": {**kl["model"], "target": "ldm.models.autoencoder.VQModel"}}
    dvae = {"model": {**kl["model"], "target": "dall_e.DVAE"}}
    other = json.loads(json.dumps(kl))
    other["model"]["params"]["ddconfig"]["ch_mult"] = [1, 2, 4, 4]
    attention = json.loads(json.dumps(kl))
    attention["model"]["params"]["ddconfig"]["attn_resolutions"] = [16]
    size = json.loads(json.dumps(kl))
    size["model"]["params"]["ddconfig"]["resolution"] = -5
    heads = original_files.read_json("cloob")["models"]["tiny"]["config"]
    heads["text_encoder"]["n_heads"] = 3
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    ae = ("--autoencoder", originals.autoencoder)
    scaled = (*ae, "--autoencoder-scale", "2.55")
    cases = [
        ((), "Nothing to convert"),
        (("--unet", tmp_path / "nowhere.ckpt"), "nowhere.ckpt: the file does not exist"),
        (("--unet", originals.cloob), "not a PyTorch checkpoint"),
        (("--unet", originals.autoencoder), "no U-Net of CCLD; it holds an autoencoder"),
        (("--unet", originals.unet, "--no-ema"), "leave out --no-ema"),
        (("--cloob", originals.unet), "no CLOOB; it holds a U-Net of CCLD"),
        (("--cloob", originals.cloob, "--cloob-config", "vit_b_16"), "does not belong"),
        (("--cloob", originals.cloob, "--cloob-config", "vit_h_14"), "vit_h_14.*vit_l_14"),
        (("--cloob", originals.cloob, "--no-ema"), "no U-Net"),
        (("--cloob", originals.cloob, "--cloob-config", tmp_path / "nowhere.json"), "neither a file"),
        (ae, "scale is unknown.*--autoencoder-scale"),
        ((*ae, "--autoencoder-scale", "-1"), "positive number"),
        ((*ae, "--autoencoder-scale", "nan"), "positive number"),
        (
            ("--autoencoder", originals.unet, "--autoencoder-scale", "2.55"),
            "not an autoencoder of latent-diffusion",
        ),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "0.yaml", "model: [")), "is not YAML"),
        (
            (*scaled, "--autoencoder-config", write_yaml(tmp_path / "1.yaml", {"lr": 1})),
            "does not describe an autoencoder",
        ),
        (
            (*scaled, "--autoencoder-config", write_yaml(tmp_path / "2.yaml", vq)),
            "kind is VQModel there",
        ),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "6.yaml", dvae)), "describes a dall_e.DVAE"),
        (
            (*scaled, "--autoencoder-config", write_yaml(tmp_path / "3.yaml", other)),
            "does not belong to these weights",
        ),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "4.yaml", attention)), "attention by level"),
        ((*scaled, "--autoencoder-config", write_yaml(tmp_path / "5.yaml", size)), "resolution -5"),
        (("--cloob", originals.cloob, "--cloob-config", tmp_path / "heads.json"), "multiple of n_heads"),
        (("--unet", originals.unet, "--autoencoder-scale", "2.55"), "no autoencoder"),
        (("--unet", originals.unet, "--preset", "wikiart"), "widths .*768"),
        (("--unet", originals.unet, "--autoencoder-config", originals.autoencoder_config), "no autoencoder"),
        (("--unet", originals.unet, "--cloob-config", "vit_b_16"), "no CLOOB"),
    ]
    for arguments, message in cases:
        status = convert(*arguments, "--output", tmp_path / "out")
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert status == 2, arguments
        assert error.startswith("error: "), error
        assert re.search(message, error), (message, error)
        assert not (tmp_path / "out").exists()


def test_a_file_that_would_run_code_does_not(tmp_path):
    torch.save({"state_dict": {}, "hook": Exploit(tmp_path / "trace")}, tmp_path / "evil.ckpt")
    result = run_script("--unet", tmp_path / "evil.ckpt", "--output", tmp_path / "out")
    assert result.returncode == 2 and "Nothing in it was run" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.ckpt"]


def test_weights_that_give_nan_are_found_by_running_them(tmp_path, capsys):
    unet = damaged_unet(tmp_path, lambda state: state["net.8.main.0.weight"].fill_(3e38))
    assert convert("--unet", unet, "--output", tmp_path / "out") == 2
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unusual_heads_are_asked_about(originals, tmp_path, capsys):
    assert convert("--cloob", originals.cloob, "--output", tmp_path / "out") == 0
    assert "number of heads" in capsys.readouterr().err


def test_help_is_for_strangers():
    result = run_script("--help")
    assert result.returncode == 0 and "--autoencoder-scale" in result.stdout
