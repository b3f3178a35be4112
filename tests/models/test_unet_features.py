"""The features that diffusers expects of a model, on our U-Net."""

import pytest
import torch
from diffusers import AutoModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from diffusers_ccld import CCLDPipeline, CCLDScheduler, CCLDUNet2DConditionModel
from diffusers_ccld.models.attention_processor import SpatialAttnProcessor
from diffusers_ccld.original.reading.checkpoints import CheckpointError

TINY = {"block_out_channels": (64,) * 4, "layers_per_block": 1, "mapping_dim": 64, "cross_attention_dim": 32}
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj", "linear1"]}


@pytest.fixture
def unet():
    return CCLDUNet2DConditionModel(**TINY).eval()


@pytest.fixture
def two_heads():
    return CCLDUNet2DConditionModel(**{**TINY, "block_out_channels": (64, 64, 64, 128)}).eval()


@pytest.fixture
def small_pipe(pipe):
    """One block per level, with DDIM: the multistep methods amplify rounding in few steps."""
    pipe.unet = CCLDUNet2DConditionModel(**{**TINY, "cross_attention_dim": 512}).eval()
    pipe.scheduler = CCLDScheduler(algorithm_type="ddim")
    return pipe


def example(batch_size=2, dtype=torch.float32, dim=32, size=16):
    generator = torch.Generator().manual_seed(1)
    x, c = (torch.randn(shape, generator=generator) for shape in ((batch_size, 4, size, size), (batch_size, dim)))
    return x.to(dtype), torch.linspace(10, 900, batch_size), c.to(dtype)


@torch.no_grad()
def run(unet, **options):
    return unet(*example(**options)).sample.float()


def error(actual, expected):
    return ((actual - expected).abs().max() / expected.std()).item()


def latents(pipe, **options):
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 3, "generator": generator, "output_type": "latent", **options}
    return pipe("a sunset", height=64, width=64, **options).images


# LoRA


def train_lora(unet, dim=32):
    """Two steps on noise: after the first, neither factor of an adapter is zero."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(**LORA))
    optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        unet(*example(dim=dim)).sample.square().mean().backward()
        optimizer.step()


def test_lora_of_a_model_is_saved_loaded_fused_and_unloaded(unet, tmp_path):
    before = run(unet)
    unet.save_pretrained(tmp_path / "unet")
    train_lora(unet)
    trained = run(unet)
    assert error(trained, before) > 0.01
    unet.save_lora_adapter(tmp_path / "lora")

    fresh = CCLDUNet2DConditionModel.from_pretrained(tmp_path / "unet")
    fresh.load_lora_adapter(tmp_path / "lora", prefix=None, use_safetensors=True)
    assert torch.equal(run(fresh), trained)
    fresh.fuse_lora()
    assert error(run(fresh), trained) < 1e-4
    fresh.unfuse_lora()
    assert error(run(fresh), trained) < 1e-4
    fresh.disable_lora()
    assert error(run(fresh), before) < 1e-4
    fresh.unload_lora()
    assert error(run(fresh), before) < 1e-4


def test_lora_trains_nothing_but_its_adapters(unet):
    train_lora(unet)
    trained = {name for name, p in unet.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    assert {name.split(".lora_")[0].split(".")[-1] for name in trained} >= {"to_q", "conv1", "proj", "linear1"}


def test_lora_of_a_pipeline_survives_saving(small_pipe, tmp_path):
    before = latents(small_pipe)
    small_pipe.save_pretrained(tmp_path / "pipe")
    train_lora(small_pipe.unet, dim=512)
    trained = latents(small_pipe)
    assert error(trained, before) > 0.01
    CCLDPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(small_pipe.unet),
        unet_lora_adapter_metadata=small_pipe.unet.peft_config["default"].to_dict(),  # weights do not include alpha
    )

    fresh = CCLDPipeline.from_pretrained(tmp_path / "pipe")
    fresh.load_lora_weights(tmp_path, adapter_name="noise")
    assert fresh.get_active_adapters() == ["noise"]
    assert torch.equal(latents(fresh), trained)
    fresh.set_adapters("noise", 0.0)
    assert error(latents(fresh), before) < 1e-4
    fresh.unload_lora_weights()
    weights, original = fresh.unet.state_dict(), small_pipe.unet.state_dict()
    kept = {name.replace(".base_layer", ""): w for name, w in original.items() if ".lora_" not in name}
    assert weights.keys() == kept.keys() and all(torch.equal(weights[name], kept[name]) for name in kept)
    # Not to the bit: on CPUs with AMX the last bits of a product depend on where in memory its weights lie.
    assert error(latents(fresh), before) < 1e-5

    fresh.load_lora_weights(load_file(tmp_path / "pytorch_lora_weights.safetensors"))  # with alpha 4 in place of 8
    unfused = latents(fresh)
    assert error(unfused, trained) > 0.01
    fresh.fuse_lora()
    assert error(latents(fresh), unfused) < 1e-4
    fresh.unload_lora_weights()  # fused weights stay
    assert error(latents(fresh), unfused) < 1e-4


def test_loading_lora_into_half_precision_keeps_the_frequencies(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    train_lora(unet)
    unet.save_lora_adapter(tmp_path / "lora")
    half = CCLDUNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    half.load_lora_adapter(tmp_path / "lora", prefix=None, use_safetensors=True)
    assert torch.equal(half.mapping.fourier.weight, unet.mapping.fourier.weight)


# The original's files


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name, ema", [("unet", True), ("training", True), ("training", False)])
def test_a_single_file_of_the_originals(originals, pipe, name, ema, dtype):
    unet = CCLDUNet2DConditionModel.from_single_file(str(getattr(originals, name)), torch_dtype=dtype, ema=ema)
    assert type(unet) is CCLDUNet2DConditionModel and not unet.training and unet.dtype == (dtype or torch.float32)
    assert torch.equal(unet.fourier.weight, pipe.unet.fourier.weight) == ema  # to the last digit
    v, expected = run(unet, dim=512, dtype=unet.dtype), run(pipe.unet, dim=512)
    if ema:
        assert error(v, expected) < (1e-6 if dtype is None else 0.1)
    else:
        assert error(v, expected) > 0.5
    assert len({p.untyped_storage().data_ptr() for p in unet.parameters()}) == len(list(unet.parameters()))


def test_wrong_files_are_refused(originals, tmp_path):
    for path, message in (
        (originals.autoencoder, "no U-Net of CCLD; it holds an autoencoder"),
        (originals.cloob, "cloob.pkl"),
        (tmp_path / "none.ckpt", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message):
            CCLDUNet2DConditionModel.from_single_file(path)
    with pytest.raises(CheckpointError, match="one set of weights"):
        CCLDUNet2DConditionModel.from_single_file(originals.unet, ema=False)


# Training and compiling


def test_gradient_checkpointing_gives_the_same_gradients(unet):
    gradients = []
    for enable in (unet.disable_gradient_checkpointing, unet.enable_gradient_checkpointing):
        enable()
        unet.train().zero_grad()
        unet(*example()).sample.square().mean().backward()
        gradients.append({name: p.grad for name, p in unet.named_parameters() if p.requires_grad})
    assert unet.is_gradient_checkpointing
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_a_pipeline_run_compiles_once(small_pipe):
    expected = latents(small_pipe)
    counter = CompileCounterWithBackend("aot_eager")  # unlike the default, this backend needs no C++ compiler
    torch._dynamo.reset()
    small_pipe.unet.compile(fullgraph=True, backend=counter)
    assert error(latents(small_pipe), expected) < 1e-5
    latents(small_pipe, num_inference_steps=5, guidance_scale=2.0, negative_prompt="a dog")
    assert counter.frame_count == 1


@pytest.mark.parametrize("algorithm_type", ["prk", "plms"])
def test_every_algorithm_compiles_once(small_pipe, algorithm_type):
    small_pipe.scheduler = CCLDScheduler(algorithm_type=algorithm_type)
    counter = CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    small_pipe.unet.compile(fullgraph=True, backend=counter)
    latents(small_pipe)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_the_default_compiler_changes_nothing(small_pipe):
    expected = latents(small_pipe)
    torch._dynamo.reset()
    small_pipe.unet.compile(fullgraph=True)
    assert error(latents(small_pipe), expected) < 1e-5


def test_repeated_blocks_compile(unet):
    expected = run(unet)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    unet.compile_repeated_blocks(fullgraph=True, backend=counter)
    assert error(run(unet), expected) < 1e-5
    num_blocks = sum(type(m).__name__ in unet._repeated_blocks for m in unet.modules())
    assert 0 < counter.frame_count < num_blocks


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casting_keeps_the_frequencies(unet, dtype):
    expected, frequencies = run(unet), unet.mapping.fourier.weight.clone()
    unet.to(dtype)
    assert unet.dtype == dtype and torch.equal(unet.mapping.fourier.weight, frequencies)
    assert error(run(unet, dtype=dtype), expected) < (0.1 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_the_zero_condition_in_half_precision(unet, dtype):
    x, t, c = example()
    expected = unet(x, t, torch.zeros_like(c)).sample
    half = unet.to(dtype)(x.to(dtype), t, torch.zeros_like(c, dtype=dtype)).sample
    assert error(half.float(), expected) < (0.1 if dtype == torch.bfloat16 else 0.01)


def test_layerwise_casting(unet):
    expected = run(unet)
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert unet.down_blocks[0].resnets[0].conv1.weight.dtype == torch.float8_e4m3fn
    assert unet.fourier.weight.dtype == torch.float32
    assert 0 < error(run(unet), expected) < 0.5


# Saving and loading


def test_shards_variants_and_device_maps(unet, tmp_path):
    expected = run(unet)
    unet.save_pretrained(tmp_path, max_shard_size="1MB")
    unet.half().save_pretrained(tmp_path, variant="fp16")
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    for options in ({}, {"device_map": "cpu"}, {"device_map": "auto"}, {"low_cpu_mem_usage": True}):
        assert torch.equal(run(CCLDUNet2DConditionModel.from_pretrained(tmp_path, **options)), expected)
    assert torch.equal(run(AutoModel.from_pretrained(str(tmp_path))), expected)
    half = CCLDUNet2DConditionModel.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float16)
    assert half.dtype == torch.float16
    assert torch.equal(run(half, dtype=torch.float16), run(unet, dtype=torch.float16))


# Attention


def test_attention_processors_agree(two_heads):
    expected = run(two_heads)
    for processor in (AttnProcessor(), AttnProcessor2_0()):
        two_heads.set_attn_processor(processor)
        assert error(run(two_heads), expected) < 1e-5
    two_heads.set_attn_processor(SpatialAttnProcessor())
    two_heads.fuse_qkv_projections()
    assert error(run(two_heads), expected) < 1e-5
    two_heads.unfuse_qkv_projections()
    assert torch.equal(run(two_heads), expected)
    two_heads.set_default_attn_processor()
    two_heads.set_attn_processor(SpatialAttnProcessor())
    assert torch.equal(run(two_heads), expected)
    two_heads.set_default_attn_processor()
    assert {type(processor) for processor in two_heads.attn_processors.values()} == {AttnProcessor}


def slice_sizes(unet):
    return [getattr(processor, "slice_size", None) for processor in unet.attn_processors.values()]


@pytest.mark.parametrize(
    "slice_size, sizes",
    [
        ("auto", [1] * 6),
        ("max", [1] * 6),
        (1, [1] * 6),
        (2, [1, 1, 2, 1, 1, 1]),
        ([1, 1, 2, 1, 1, 1], [1, 1, 2, 1, 1, 1]),
        (None, [None] * 6),
    ],
)
def test_attention_slicing(two_heads, slice_size, sizes):
    expected = run(two_heads)
    two_heads.set_attention_slice(slice_size)
    assert slice_sizes(two_heads) == sizes
    assert error(run(two_heads), expected) < 1e-5
    two_heads.set_attention_slice(None)
    assert torch.equal(run(two_heads), expected)


@pytest.mark.parametrize("slice_size", [0, -1, 3, "half", 1.5, [1], [1, 1, 2, 2, 1, 2], [0] * 6])
def test_wrong_attention_slices_are_refused(two_heads, slice_size):
    with pytest.raises(ValueError, match="slice_size="):
        two_heads.set_attention_slice(slice_size)
    assert slice_sizes(two_heads) == [None] * 6


def test_attention_slicing_of_a_pipeline_whose_levels_have_one_head(small_pipe):
    expected = latents(small_pipe)
    for slice_size in ("auto", "max", 1):
        small_pipe.enable_attention_slicing(slice_size)
        assert any(isinstance(p, SlicedAttnProcessor) for p in small_pipe.unet.attn_processors.values())
        assert error(latents(small_pipe), expected) < 1e-4
    small_pipe.disable_attention_slicing()
    assert torch.equal(latents(small_pipe), expected)
