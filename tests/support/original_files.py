#!/usr/bin/env python3
"""Writes files in the original's formats, with weights that follow from their names alone.

Every array is drawn from a seed that is the CRC of its name, so reference outputs of networks of any size need no
stored weights. The files look like those of 2022: Lightning headers refer to classes of packages that are not
installed, pickles to numpy's modules of that time.

    original_files.py DIR [--size tiny|student]

writes a U-Net, a CLOOB and an autoencoder, to be converted.
"""

import argparse
import json
import pickle
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch
import yaml

REFERENCE = Path(__file__).parents[1] / "reference"
SCALES = {"tiny-64": 2.55, "student-105m": 2.55, "danbooru-128": 9.3154, "teacher-1.2b": 2.55}
SIZES = {"tiny": ("tiny-64", "tiny", "kl-f8-tiny"), "student": ("student-105m", "vit-b-16", "kl-f8")}


def normal(name: str, shape, seed: int = 0) -> np.ndarray:
    """Standard normal float32 array that belongs to a name."""
    generator = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    return generator.standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)


def inputs(name: str, shape) -> torch.Tensor:
    """Test input that belongs to a name."""
    return torch.from_numpy(normal(name, shape))


def reference(name: str) -> dict[str, np.ndarray]:
    """Reference outputs, by key."""
    with np.load(REFERENCE / f"{name}.npz") as file:
        return dict(file)


def read_json(name: str):
    return json.loads((REFERENCE / f"{name}.json").read_text())


def relative_error(actual, expected) -> float:
    """Largest absolute error over the standard deviation of what was expected."""
    actual, expected = (torch.as_tensor(x).double() for x in (actual, expected))
    return ((actual - expected).abs().max() / expected.std()).item()


def torch_weight(name: str, shape, seed: int = 0) -> torch.Tensor:
    """Weight of a U-Net or an autoencoder: Fourier frequency, matrix, normalisation or bias, by name and rank."""
    value = normal(name, shape, seed)
    if "timestep_embed" not in name:
        if len(shape) >= 2:
            value = value / np.float32(np.sqrt(int(np.prod(shape[1:]))))
        elif name.endswith(".weight"):
            value = 1 + np.float32(0.1) * value
        else:
            value = np.float32(0.1) * value
    return torch.from_numpy(value.astype(np.float32))


def jax_weight(module: str, leaf: str, shape) -> np.ndarray:
    """Weight of a CLOOB in JAX's layout; sharp attention, so that a wrong mask shows."""
    value = normal(f"{module}/{leaf}", shape)
    if leaf == "scale":
        value = 1 + np.float32(0.1) * value
    elif leaf in ("offset", "b"):
        value = np.float32(0.1) * value
    elif leaf == "class_embed" or module.endswith("pos_embed"):
        value = np.float32(0.5) * value
    elif leaf != "embeddings":
        gain = 3 if "/query" in module or "/key" in module else 1
        value = value * np.float32(gain) / np.float32(np.sqrt(int(np.prod(shape[:-1]))))
    return value.astype(np.float32)


def unet_state(size: str, tame: bool = True, seed: int = 0) -> dict[str, torch.Tensor]:
    """A U-Net's state dict. Tamed, its output is small enough for sampled latents to stay of natural size."""
    state = {"autoencoder_scale": torch.tensor(SCALES[size])}
    for name, shape in read_json("unet_shapes")[size].items():
        if name not in state:
            state[name] = torch_weight(name, tuple(shape), seed)
    if tame:
        for name, factor in (("main.4.weight", 0.2), ("main.4.bias", 0.2), ("skip.weight", 0.05)):
            state[f"net.8.{name}"].mul_(factor)
    return state


def _normalised_convolutions(name, ins, outs, shapes):
    """Shapes of a residual block's tensors."""
    for i, width in (("1", ins), ("2", outs)):
        shapes[f"{name}.norm{i}.weight"] = shapes[f"{name}.norm{i}.bias"] = [width]
        shapes[f"{name}.conv{i}.weight"], shapes[f"{name}.conv{i}.bias"] = [outs, width, 3, 3], [outs]
    if ins != outs:
        shapes[f"{name}.nin_shortcut.weight"], shapes[f"{name}.nin_shortcut.bias"] = [outs, ins, 1, 1], [outs]


def _attention(name, width, shapes):
    shapes[f"{name}.norm.weight"] = shapes[f"{name}.norm.bias"] = [width]
    for part in ("q", "k", "v", "proj_out"):
        shapes[f"{name}.{part}.weight"], shapes[f"{name}.{part}.bias"] = [width, width, 1, 1], [width]


def autoencoder_shapes(kind: str, params: dict) -> dict[str, list[int]]:
    """Names and shapes of an autoencoder's tensors, as a YAML file's `params` have them made.

    Args:
        kind: The class's name: AutoencoderKL, VQModel or GumbelVQ.
        params: `embed_dim`, `ddconfig`, and of models with codes `n_embed`.
    """
    dd, shapes = params["ddconfig"], {}
    widths = [dd["ch"] * multiplier for multiplier in dd["ch_mult"]]
    z, embed, doubled = dd["z_channels"], params["embed_dim"], 2 if dd["double_z"] else 1
    has_attention = dd.get("attn_type") != "none"
    attends = [has_attention and dd["resolution"] // 2**i in dd["attn_resolutions"] for i in range(len(widths))]

    def conv(name, ins, outs, size=3):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = [outs, ins, size, size], [outs]

    def run(name, ins, width, blocks, attended):
        for i in range(blocks):
            _normalised_convolutions(f"{name}.block.{i}", ins if i == 0 else width, width, shapes)
            if attended:
                _attention(f"{name}.attn.{i}", width, shapes)

    for side, first, last in (("encoder", widths[0], widths[-1]), ("decoder", widths[-1], widths[0])):
        conv(f"{side}.conv_in", dd["in_channels"] if side == "encoder" else z, first)
        for i in ("1", "2"):
            _normalised_convolutions(f"{side}.mid.block_{i}", widths[-1], widths[-1], shapes)
        if has_attention:
            _attention(f"{side}.mid.attn_1", widths[-1], shapes)
        shapes[f"{side}.norm_out.weight"] = shapes[f"{side}.norm_out.bias"] = [last]
        conv(f"{side}.conv_out", last, doubled * z if side == "encoder" else dd["out_ch"])
    for i, width in enumerate(widths):
        run(f"encoder.down.{i}", widths[max(i - 1, 0)], width, dd["num_res_blocks"], attends[i])
        run(f"decoder.up.{i}", widths[min(i + 1, len(widths) - 1)], width, dd["num_res_blocks"] + 1, attends[i])
        if i < len(widths) - 1:
            conv(f"encoder.down.{i}.downsample.conv", width, width)
        if i > 0:
            conv(f"decoder.up.{i}.upsample.conv", width, width)
    conv("quant_conv", doubled * z, doubled * embed, 1)
    conv("post_quant_conv", embed, z, 1)
    if kind == "VQModel":
        shapes["quantize.embedding.weight"] = [params["n_embed"], embed]
    if kind == "GumbelVQ":
        shapes["quantize.embed.weight"] = [params["n_embed"], embed]
        conv("quantize.proj", embed, params["n_embed"], 1)
    return shapes


def autoencoder_state(kind: str, with_loss: bool = True) -> dict[str, torch.Tensor]:
    """An autoencoder's state dict, with a little of its training loss's."""
    shapes = read_json("autoencoders")[kind]["keys"]
    state = {name: torch_weight(name, tuple(shape)) for name, shape in shapes.items()}
    if with_loss:
        state["loss.logvar"] = torch.zeros(())
        state["loss.discriminator.main.0.weight"] = torch.zeros(64, 3, 4, 4)
    return state


def cloob_params(size: str) -> tuple[dict, dict]:
    """A CLOOB's parameters as JAX training leaves them: image tower, text tower."""
    return tuple(
        {
            module: {leaf: jax_weight(module, leaf, tuple(shape)) for leaf, shape in leaves.items()}
            for module, leaves in tree.items()
        }
        for tree in read_json("cloob")["models"][size]["params"]
    )


def cloob_port_state(size: str) -> dict[str, torch.Tensor]:
    """The same under the names and in the layout of the PyTorch port."""
    renamings = (
        ("vi_t_image_encoder", "image_encoder"),
        ("self_attention/multi_head_attention/linear", "attn/out"),
        ("self_attention/multi_head_attention", "attn"),
        ("self_attention/layer_norm", "attn/norm"),
        ("feed_forward/layer_norm", "ff/norm"),
        ("feed_forward", "ff"),
        ("layer_", "layers/"),
    )
    state = {}
    for tree in cloob_params(size):
        for module, leaves in tree.items():
            port = module
            for old, new in renamings:
                port = port.replace(old, new)
            for leaf, array in leaves.items():
                value = torch.from_numpy(array)
                if leaf == "w" and value.ndim == 4:
                    value = value.permute(3, 2, 0, 1)
                elif leaf == "w" and not port.endswith("pos_embed"):
                    value = value.T
                kind = {"class_embed": "class_embed", "b": "bias", "offset": "bias"}.get(leaf, "weight")
                state[f"{port}/{kind}".replace("/", ".")] = value.contiguous()
    return state


class PicklerOf2022(pickle._Pickler):
    """Writes numpy arrays under the module names that numpy had before version 2."""

    def save_global(self, obj, name=None):
        if getattr(obj, "__module__", "") != "numpy._core.multiarray":
            return super().save_global(obj, name)
        self.save("numpy.core.multiarray")
        self.save(obj.__name__)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    dispatch = {
        **pickle._Pickler.dispatch,
        types.BuiltinFunctionType: save_global,
        types.FunctionType: save_global,
    }


def lightning_header() -> dict:
    """The entries of a Lightning training checkpoint beside its state dict, keyed by a class that is not installed."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[module.__name__] = module
    state = {"monitor": "val/rec_loss", "best_model_score": np.float64(0.35), "best_model_path": Path("logs/1.ckpt")}
    return {
        "epoch": 1,
        "global_step": 149999,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {module.ModelCheckpoint: state},
        "lr_schedulers": [],
    }


def write_unet(path: Path, size: str, **options) -> Path:
    torch.save(unet_state(size, **options), path)
    return path


def write_cloob(path: Path, size: str) -> Path:
    with path.open("wb") as file:
        PicklerOf2022(file, protocol=4).dump({"params": cloob_params(size), "epoch": 16})
    return path


def write_autoencoder(path: Path, kind: str, bare: bool = False) -> Path:
    """Writes the checkpoint, and its YAML file beside it."""
    state = autoencoder_state(kind)
    torch.save(state if bare else {**lightning_header(), "state_dict": state}, path)
    params = read_json("autoencoders")[kind]["params"]
    library, name = read_json("autoencoders")[kind]["class"].split(".")
    module = {"ldm": "ldm.models.autoencoder", "taming": "taming.models.vqgan"}[library]
    config = {"model": {"target": f"{module}.{name}", "params": params}}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    return path


def adam_state(size: str) -> dict:
    """AdamW's state for a U-Net as PyTorch saves it: by the parameter's number, without the untrained ones."""
    names = [name for name in read_json("unet_shapes")[size] if name != "autoencoder_scale"]
    state = {}
    for number, name in enumerate(names):
        if "timestep_embed" not in name:
            shape = tuple(read_json("unet_shapes")[size][name])
            state[number] = {
                "step": 149999,
                "exp_avg": 1e-3 * torch_weight(name, shape, seed=2),
                "exp_avg_sq": 1e-6 * torch_weight(name, shape, seed=3).square(),
            }
    settings = {"lr": 3e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False}
    return {"state": state, "param_groups": [{**settings, "params": list(range(len(names)))}]}


def write_training_checkpoint(
    path: Path, unet: str, cloob: str | None = None, autoencoder: str | None = None, optimizer: bool = False
) -> Path:
    """Writes a Lightning checkpoint; its raw U-Net differs from the averaged one."""
    averaged = unet_state(unet)
    state = {f"model.{name}": tensor for name, tensor in unet_state(unet, seed=1).items()}
    state |= {f"model_ema.{name}": tensor for name, tensor in averaged.items()}
    state["scale_factor"] = averaged["autoencoder_scale"].clone()
    if autoencoder is not None:
        state |= {f"ae_model.{name}": tensor for name, tensor in autoencoder_state(autoencoder).items()}
    if cloob is not None:
        state |= {f"cloob.{name}": tensor for name, tensor in cloob_port_state(cloob).items()}
    optimizer_state = adam_state(unet) if optimizer else {"state": {}}
    torch.save({**lightning_header(), "state_dict": state, "optimizer_states": [optimizer_state]}, path)
    return path


def write_cloob_config(path: Path, size: str) -> Path:
    path.write_text(json.dumps(read_json("cloob")["models"][size]["config"]))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    args = parser.parse_args()
    unet, cloob, autoencoder = SIZES[args.size]
    args.directory.mkdir(parents=True, exist_ok=True)
    for path in (
        write_unet(args.directory / "unet.ckpt", unet),
        write_cloob(args.directory / "cloob.pkl", cloob),
        write_cloob_config(args.directory / "cloob.json", cloob),
        write_autoencoder(args.directory / "autoencoder.ckpt", autoencoder),
    ):
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def small_vq_state():
    params = {
        "embed_dim": 4,
        "n_embed": 64,
        "ddconfig": {"double_z": False, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32}
        | {"ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": []},
    }
    shapes = autoencoder_shapes("VQModel", params)
    return {name: torch_weight(name, tuple(shape)) for name, shape in shapes.items()}


if __name__ == "__main__":
    main()
