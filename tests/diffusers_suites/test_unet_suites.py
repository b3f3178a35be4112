"""diffusers' model suites on `CCLDUNet2DConditionModel`."""

import torch
from diffusers.utils.torch_utils import randn_tensor
from models import UNET
from tests.testing_utils import torch_device
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from diffusers_ccld import CCLDUNet2DConditionModel
from tests.models import testing_utils as suites


class UNetConfig(suites.BaseModelTesterConfig):
    @property
    def model_class(self):
        return CCLDUNet2DConditionModel

    @property
    def output_shape(self):
        return (4, 16, 16)

    @property
    def model_split_percents(self):
        return [0.5, 0.6, 0.7]

    @property
    def main_input_name(self):
        return "sample"

    def get_init_dict(self):
        return dict(UNET)

    def get_dummy_inputs(self, height=16, width=16):
        generator = torch.Generator("cpu").manual_seed(0)
        return {
            "sample": randn_tensor((2, 4, height, width), generator=generator, device=torch_device),
            "timestep": torch.tensor([10.0, 700.0], device=torch_device),
            "encoder_hidden_states": randn_tensor((2, 32), generator=generator, device=torch_device),
        }


class TestModel(UNetConfig, suites.ModelTesterMixin):
    pass


class TestTraining(UNetConfig, suites.TrainingTesterMixin):
    def test_gradient_checkpointing_is_applied(self):
        super().test_gradient_checkpointing_is_applied(expected_set={"DownLevel", "UpLevel"})


class TestMemory(UNetConfig, suites.MemoryTesterMixin):
    pass


class TestAttention(UNetConfig, suites.AttentionTesterMixin):
    pass


class TestLora(UNetConfig, suites.LoraTesterMixin):
    pass


class TestLoraHotSwap(UNetConfig, suites.LoraHotSwappingForModelTesterMixin):
    @property
    def different_shapes_for_compilation(self):
        return [(8, 8), (16, 16), (16, 24)]


class TestCompile(UNetConfig, suites.TorchCompileTesterMixin):
    @property
    def different_shapes_for_compilation(self):
        return [(8, 8), (16, 16), (16, 24)]


class TestTorchAo(UNetConfig, suites.TorchAoTesterMixin):
    pass


@torch.no_grad()
def test_torchao_int8_weights():
    """Not among the project's own tests, because an installed torchao prints a warning at every import."""
    torch.manual_seed(0)
    unet = CCLDUNet2DConditionModel(**UNET).eval()
    inputs = TestModel().get_dummy_inputs()
    expected = unet(**inputs).sample
    quantize_(unet, Int8WeightOnlyConfig())
    result = unet(**inputs).sample
    assert not torch.equal(result, expected)
    assert ((result - expected).abs().max() / expected.std()).item() < 0.1
