"""Autoencoders of latent-diffusion and taming-transformers, converted: the same functions, from all sorts of files."""

import json

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, AutoModel, VQModel

from diffusers_ccld import CCLDPipeline, GumbelVQModel
from diffusers_ccld.cli import main
from diffusers_ccld.original.tensors.autoencoder import infer_autoencoder
from support import original_files
from support.original_files import small_vq_state

KINDS = {
    "kl-f8-tiny": AutoencoderKL,
    "kl-f8": AutoencoderKL,
    "ldm-vq-f4": VQModel,
    "ldm-vq-f8": VQModel,
    "taming-vqgan-f16": VQModel,
    "taming-gumbel-f8": GumbelVQModel,
}

# What the published YAML files say of those whose outputs are not among the reference.
PUBLISHED = {
    "kl-f4": ("AutoencoderKL", 3, None, {"ch_mult": [1, 2, 4], "z_channels": 3}),
    "kl-f16": ("AutoencoderKL", 16, None, {"ch_mult": [1, 1, 2, 2, 4], "z_channels": 16, "attn_resolutions": [16]}),
    "kl-f32": (
        "AutoencoderKL",
        64,
        None,
        {"ch_mult": [1, 1, 2, 2, 4, 4], "z_channels": 64, "attn_resolutions": [16, 8]},
    ),
    "vq-f4-noattn": ("VQModel", 3, 8192, {"ch_mult": [1, 2, 4], "z_channels": 3, "attn_type": "none"}),
    "vq-f8-n256": ("VQModel", 4, 256, {"ch_mult": [1, 2, 2, 4], "z_channels": 4, "attn_resolutions": [32]}),
    "vq-f16": ("VQModel", 8, 16384, {"ch_mult": [1, 1, 2, 2, 4], "z_channels": 8, "attn_resolutions": [16]}),
    "vqgan-16384": ("VQModel", 256, 16384, {"ch_mult": [1, 1, 2, 2, 4], "z_channels": 256, "attn_resolutions": [16]}),
}


def published_params(name):
    kind, embed_dim, num_codes, changes = PUBLISHED[name]
    dd = {"resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "num_res_blocks": 2, "attn_resolutions": []}
    dd |= {"double_z": kind == "AutoencoderKL", "dropout": 0.0, **changes}
    params = {"embed_dim": embed_dim, "ddconfig": dd}
    return kind, params if num_codes is None else {**params, "n_embed": num_codes}


def convert(autoencoder, output, *options):
    scale = ("--autoencoder-scale", "2.55")
    return main([str(a) for a in ("convert", "--autoencoder", autoencoder, *scale, "--output", output, *options)])


def converted(kind, folder):
    source = original_files.write_autoencoder(folder / "ae.ckpt", kind, bare=True)
    yaml_file = ("--autoencoder-config", folder / "ae.yaml")
    assert convert(source, folder / "out", *yaml_file) == 0
    return folder / "out" / "vae"


@pytest.mark.parametrize("kind", KINDS)
def test_our_shapes_are_the_references(kind):
    case = original_files.read_json("autoencoders")[kind]
    assert original_files.autoencoder_shapes(case["class"].split(".")[1], case["params"]) == case["keys"]


@pytest.mark.parametrize("kind", ["kl-f8-tiny", "kl-f8"])
@torch.no_grad()
def test_the_kl_autoencoder_is_the_originals(kind, tmp_path):
    vae = AutoencoderKL.from_pretrained(converted(kind, tmp_path))
    assert vae.config.scaling_factor == pytest.approx(1 / 2.55) and not vae.config.force_upcast
    expected = original_files.reference(f"ae_{kind}")
    size = original_files.read_json("autoencoders")[kind]["image_size"]
    latents = vae.encode(torch.tanh(original_files.inputs("ae.image", (1, 3, size, size)))).latent_dist
    assert original_files.relative_error(latents.mean, expected["mean"]) < 1e-4
    assert original_files.relative_error(latents.logvar, expected["logvar"]) < 1e-4
    decoded = vae.decode(original_files.inputs("ae.latent", expected["mean"].shape)).sample
    stride = size // 64
    assert original_files.relative_error(decoded[..., ::stride, ::stride], expected["decoded"]) < 1e-4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("kl")])
@torch.no_grad()
def test_the_vq_autoencoder_is_the_originals(kind, tmp_path):
    folder = converted(kind, tmp_path)
    vae = AutoModel.from_pretrained(str(folder))
    assert type(vae) is KINDS[kind]
    expected = original_files.reference(f"ae_{kind}")
    size = original_files.read_json("autoencoders")[kind]["image_size"]
    pixels = torch.tanh(original_files.inputs("ae.image", (1, 3, size, size)))
    latents = VQModel.encode(vae, pixels).latents
    step = latents.shape[1] // expected["pre_quant"].shape[1]
    assert original_files.relative_error(latents[:, ::step], expected["pre_quant"]) < 1e-4

    if kind == "taming-gumbel-f8":
        indices, latents = vae.code_indices(pixels).flatten(), vae.encode(pixels).latents
    else:
        indices = vae.quantize(latents)[2][2].flatten()
    assert indices.tolist() == expected["indices"].tolist()
    if "quant" in expected:
        assert original_files.relative_error(vae.quantize(latents)[0], expected["quant"]) < 1e-5

    # Decoding is the stock class's, which a folder of the subclass can be loaded as, too.
    decoded, stride = VQModel.from_pretrained(folder).decode(latents).sample, max(size // 64, 1)
    assert original_files.relative_error(decoded[..., ::stride, ::stride], expected["decoded"]) < 1e-4
    whole = torch.stack([decoded.mean(), decoded.std()])
    assert torch.allclose(whole, torch.from_numpy(expected["decoded_mean_std"]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_are_read_off_the_weights(name):
    kind, params = published_params(name)
    shapes = original_files.autoencoder_shapes(kind, params)
    with torch.device("meta"):
        autoencoder = infer_autoencoder({name: torch.empty(shape) for name, shape in shapes.items()})
        model = autoencoder.kind(**autoencoder.config)
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    entries = [entry for entry in autoencoder.table if entry.names[0] in ours]
    assert {entry.original for entry in entries} == set(shapes) and {entry.names[0] for entry in entries} == set(ours)
    for entry in entries:
        theirs = shapes[entry.original][:2] if entry.layout == "conv1x1" else shapes[entry.original]
        assert ours[entry.names[0]] == tuple(theirs)


@pytest.mark.parametrize("name", ["vq-f4-noattn", "kl-f16"])
@torch.no_grad()
def test_published_shapes_convert_with_their_yaml(name, tmp_path):
    """At a fraction of the width, for speed."""
    kind, params = published_params(name)
    params["ddconfig"]["ch"] = 32
    state = {
        key: original_files.torch_weight(key, tuple(shape))
        for key, shape in original_files.autoencoder_shapes(kind, params).items()
    }
    torch.save(state, tmp_path / "ae.ckpt")
    config = {"model": {"target": f"ldm.models.autoencoder.{kind}", "params": params}}
    (tmp_path / "ae.yaml").write_text(yaml.safe_dump(config))
    assert convert(tmp_path / "ae.ckpt", tmp_path / "out", "--autoencoder-config", tmp_path / "ae.yaml") == 0
    vae = AutoModel.from_pretrained(str(tmp_path / "out" / "vae"))
    assert vae.config.latent_channels == params["ddconfig"]["z_channels"] and vae.config.sample_size == 256

    params["ddconfig"] |= {"attn_type": "vanilla", "attn_resolutions": [64]}
    (tmp_path / "ae.yaml").write_text(yaml.safe_dump(config))
    assert convert(tmp_path / "ae.ckpt", tmp_path / "no", "--autoencoder-config", tmp_path / "ae.yaml") == 2
    assert not (tmp_path / "no").exists()


def test_a_transformers_first_stage(tmp_path):
    state = {f"first_stage_model.{name}": tensor for name, tensor in small_vq_state().items()}
    state |= {"transformer.tok_emb.weight": torch.zeros(8, 8), "first_stage_model.loss.x": torch.zeros(3)}
    torch.save({"state_dict": state, "global_step": 7}, tmp_path / "transformer.ckpt")
    assert convert(tmp_path / "transformer.ckpt", tmp_path / "out") == 0
    weights = VQModel.from_pretrained(tmp_path / "out" / "vae").state_dict()
    assert torch.equal(weights["quantize.embedding.weight"], small_vq_state()["quantize.embedding.weight"])
    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    assert {"transformer.tok_emb.weight", "loss.x", "global_step"} <= set(report["components"]["vae"]["ignored"])


@torch.no_grad()
def test_a_pipeline_on_a_vq_autoencoder(originals, tmp_path):
    torch.save(small_vq_state(), tmp_path / "vq.ckpt")
    files = ("--unet", originals.unet, "--cloob", originals.cloob, "--cloob-config", originals.cloob_config)
    assert convert(tmp_path / "vq.ckpt", tmp_path / "out", *files) == 0
    pipe = CCLDPipeline.from_pretrained(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.vae) is VQModel
    options = {"height": 64, "width": 64, "num_inference_steps": 2, "prompt": "a fox"}
    latents, pixels = (
        pipe(**options, generator=torch.Generator().manual_seed(0), output_type=kind).images
        for kind in ("latent", "pt")
    )
    codes = pipe.vae.quantize(latents / pipe.vae.config.scaling_factor)[0]
    expected = pipe.vae.decode(codes, force_not_quantize=True).sample
    assert torch.allclose(pixels, (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("size", [{"ch_mult": [1] * 9}, {"num_res_blocks": 5}])
def test_sizes_that_no_trial_run_could_bear_are_refused(size, tmp_path, capsys):
    kind, params = published_params("vq-f4-noattn")
    params["ddconfig"] |= {"ch": 32, **size}
    shapes = original_files.autoencoder_shapes(kind, params)
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "ae.ckpt")
    assert convert(tmp_path / "ae.ckpt", tmp_path / "out") == 2
    assert "more than are supported" in capsys.readouterr().err


def without(state, *parts):
    return {name: tensor for name, tensor in state.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: without(s, "decoder.mid.attn_1.q"), "lacks decoder.mid.attn_1.q.weight"),
        (lambda s: without(s, "quantize", "encoder.down.0"), "not an autoencoder of latent-diffusion"),
        (lambda s: without(s, "sample.conv"), "resizes without convolutions"),
        (lambda s: {**s, "quantize.embedding.weight": torch.zeros(64, 5)}, "codes of 5 numbers, embeddings of 4"),
        (lambda s: {**s, "quantize.embedding.weight": torch.zeros(64)}, "lacks quantize.embedding.weight"),
        (lambda s: {**s, "encoder.mid.attn_1.to_qkv.weight": torch.zeros(3)}, "linear attention"),
        (lambda s: without(s, "quantize"), "neither the means and variances"),
    ],
)
def test_files_that_are_no_vq_autoencoder_are_refused(change, message, tmp_path, capsys):
    torch.save(change(small_vq_state()), tmp_path / "vq.ckpt")
    assert convert(tmp_path / "vq.ckpt", tmp_path / "out") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
