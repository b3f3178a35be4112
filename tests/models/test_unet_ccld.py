import pytest
import torch
from diffusers import UNet2DConditionModel

from diffusers_ccld import CCLDUNet2DConditionModel
from diffusers_ccld.original.tensors.tables import from_original, to_original
from diffusers_ccld.original.tensors.unet import SCALE_BUFFER, unet_config, unet_table
from support import original_files

PARAMETERS = {
    "tiny-64": 15_560_716,
    "student-105m": 105_380_428,
    "danbooru-128": 557_350_988,
    "teacher-1.2b": 1_174_321_228,
}
SIZES = [
    "tiny-64",
    "student-105m",
    pytest.param("danbooru-128", marks=pytest.mark.slow),
    pytest.param("teacher-1.2b", marks=pytest.mark.slow),
]
TINY = {"block_out_channels": (64, 64, 64, 64), "layers_per_block": 1, "mapping_dim": 64, "cross_attention_dim": 32}


def original_unet(size):
    state = original_files.unet_state(size, tame=False)
    with torch.device("meta"):
        unet = CCLDUNet2DConditionModel(**unet_config(state))
    shapes = {name: tensor.shape for name, tensor in unet.state_dict().items()}
    unet.load_state_dict(from_original(state, unet_table(), shapes, SCALE_BUFFER)[0], assign=True)
    return unet.eval()


def timestep_of(t):
    return 1000 * torch.as_tensor(t) - 1


@pytest.fixture
def unet():
    return CCLDUNet2DConditionModel(**TINY)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_the_network_is_the_originals(size):
    unet = original_unet(size)
    expected = original_files.reference(f"unet_{size}")
    assert sum(p.numel() for p in unet.parameters()) == PARAMETERS[size]

    x, c = original_files.inputs("unet.x", (2, 4, 32, 32)), original_files.inputs("unet.cond", (2, 512))
    for i in range(3):
        v = unet(x, timestep_of(expected[f"t{i}"]), c).sample
        assert original_files.relative_error(v, expected[f"v{i}"]) < 2e-5
    v = unet(x, timestep_of([0.5, 0.9]), torch.zeros_like(c)).sample
    assert original_files.relative_error(v, expected["v_uncond"]) < 2e-5
    if "v_wide" in expected:  # the two largest networks do not have this reference
        v = unet(original_files.inputs("unet.x.wide", (1, 4, 24, 40)), timestep_of(0.6), c[:1]).sample
        assert original_files.relative_error(v, expected["v_wide"]) < 2e-5


def test_the_default_is_the_published_student():
    with torch.device("meta"):
        unet = CCLDUNet2DConditionModel()
    assert isinstance(unet, UNet2DConditionModel)
    assert sum(p.numel() for p in unet.parameters()) == PARAMETERS["student-105m"]


@pytest.mark.parametrize("size", PARAMETERS)
def test_every_tensor_of_the_original_has_a_place(size):
    shapes = original_files.read_json("unet_shapes")[size]
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"):
        ours = CCLDUNet2DConditionModel(**unet_config(state)).state_dict()
    table = [entry for entry in unet_table() if entry.names[0] in ours]
    assert {entry.original for entry in table} == state.keys() - {SCALE_BUFFER}
    assert sorted(name for entry in table for name in entry.names) == sorted(ours)


def test_the_way_to_the_original_and_back_changes_no_bit():
    state = original_files.unet_state("tiny-64")
    unet = original_unet("tiny-64")
    back = to_original(unet.state_dict(), unet_table())
    tame = {"net.8.main.4.weight", "net.8.main.4.bias", "net.8.skip.weight", SCALE_BUFFER}
    assert back.keys() == state.keys() - {SCALE_BUFFER}
    assert all(torch.equal(back[name], state[name]) for name in back.keys() - tame)


def test_initialisation_is_the_originals():
    unet = CCLDUNet2DConditionModel(block_out_channels=(128, 128, 128, 128), layers_per_block=1)
    assert unet.fourier.weight.std() == pytest.approx(1, abs=0.6)
    assert unet.mapping.fourier.weight.std() == pytest.approx(1, abs=0.3)
    assert not unet.fourier.weight.requires_grad
    attention = unet.down_blocks[1].attentions[0]
    torch.testing.assert_close(attention.group_norm.weight, torch.full((128,), 0.5**0.5))
    bound = 0.5**0.5 / 128**0.5  # PyTorch's uniform default for 128 inputs, shrunk
    assert 0.95 * bound < attention.to_q.weight.abs().max() <= bound
    conv = unet.down_blocks[1].resnets[0].conv1
    assert 0.95 < conv.weight.abs().max() / (0.5**0.5 / (9 * 128) ** 0.5) <= 1


def test_conditions_and_timesteps_may_have_several_shapes(unet):
    x, c = torch.randn(2, 4, 16, 8), torch.randn(2, 32)
    expected = unet(x, torch.tensor([499.0, 499.0]), c).sample
    for timestep in (499, 499.0, torch.tensor(499), torch.tensor([499.0])):
        assert torch.equal(unet(x, timestep, c).sample, expected)
    assert torch.equal(unet(x, 499, c[:, None]).sample, expected)
    assert torch.equal(unet(x, 499, c, return_dict=False)[0], expected)
    torch.testing.assert_close(unet(x, 499, 7 * c).sample, expected)  # only the direction matters


def test_the_zero_condition_is_a_condition_of_its_own(unet):
    x = torch.randn(1, 4, 8, 8)
    unconditional = unet(x, 499, torch.zeros(1, 32)).sample
    assert torch.isfinite(unconditional).all()
    assert not torch.allclose(unconditional, unet(x, 499, torch.randn(1, 32)).sample)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(unet):
    x, c = torch.randn(4, 4, 8, 8), torch.randn(4, 32)
    t = torch.tensor([10.0, 200.0, 499.0, 999.0])
    together = unet(x, t, c).sample
    for i in range(4):
        torch.testing.assert_close(unet(x[i : i + 1], t[i : i + 1], c[i : i + 1]).sample[0], together[i])


def test_saving_and_loading(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    loaded = CCLDUNet2DConditionModel.from_pretrained(tmp_path)
    x, c = torch.randn(1, 4, 8, 8), torch.randn(1, 32)
    assert torch.equal(loaded(x, 3, c).sample, unet(x, 3, c).sample)


def test_fourier_features_stay_in_float32(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    loaded = CCLDUNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.fourier.weight.dtype == loaded.mapping.fourier.weight.dtype == torch.float32
    v = loaded(torch.randn(1, 4, 8, 8, dtype=torch.bfloat16), 3, torch.randn(1, 32)).sample
    assert v.dtype == torch.bfloat16 and torch.isfinite(v).all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_knows_the_zero_condition(unet, dtype):
    x, c = torch.randn(2, 4, 8, 8), torch.stack([torch.zeros(32), torch.randn(32)])
    expected = unet(x, 499, c).sample
    result = unet.to(dtype)(x.to(dtype), 499, c.to(dtype)).sample
    assert original_files.relative_error(result, expected) < 0.1


def test_every_weight_but_the_frequencies_learns(unet):
    unet(torch.randn(2, 4, 8, 8), torch.tensor([1.0, 700.0]), torch.randn(2, 32)).sample.square().mean().backward()
    without = {name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"fourier.weight", "mapping.fourier.weight"}


def test_levels_of_different_depth():
    unet = CCLDUNet2DConditionModel(**{**TINY, "block_out_channels": (64, 128, 64), "layers_per_block": (1, 3, 2)})
    assert [len(level.resnets) for level in unet.down_blocks] == [1, 3, 2]
    assert [len(level.resnets) for level in unet.up_blocks] == [2, 3, 1]
    assert unet(torch.randn(1, 4, 4, 12), 1, torch.randn(1, 32)).sample.shape == (1, 4, 4, 12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"block_out_channels": (96, 96, 96, 96)}, "multiple of attention_head_dim=64"),
        ({"block_out_channels": (64,)}, "two or more levels"),
        ({"layers_per_block": (1, 2)}, "layers_per_block"),
        ({"layers_per_block": 0}, "layers_per_block"),
    ],
)
def test_impossible_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CCLDUNet2DConditionModel(**{**TINY, **options})


def test_wrong_inputs_are_refused(unet):
    x, c = torch.randn(2, 4, 8, 8), torch.randn(2, 32)
    for sample in (torch.randn(2, 4, 12, 8), torch.randn(2, 3, 8, 8), torch.randn(4, 8, 8)):
        with pytest.raises(ValueError, match="multiples of 8"):
            unet(sample, 1, c)
    for condition in (torch.randn(2, 512), torch.randn(2, 2, 32), torch.randn(1, 32)):
        with pytest.raises(ValueError, match="one CLOOB embedding per image"):
            unet(x, 1, condition)
    with pytest.raises(ValueError, match="timestep has shape"):
        unet(x, torch.tensor([1, 2, 3]), c)
    with pytest.raises(ValueError, match="FreeU"):
        unet.enable_freeu(1, 1, 1, 1)
