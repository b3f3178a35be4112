"""Layers for inference must compute what torch's do, follow every change of a weight, and show no trace elsewhere."""

import copy
import pickle

import pytest
import torch
from torch import nn

from diffusers_ccld.models import inference_layers
from diffusers_ccld.models.inference_layers import (
    HAS_OPERATORS,
    InferenceConv2d,
    InferenceLinear,
    use_inference_layers,
)

needs_operators = pytest.mark.skipif(not HAS_OPERATORS, reason="needs oneDNN on x86")


@pytest.fixture
def conv():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1))
    use_inference_layers(network)
    return network[0]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": (1, 3), "groups": 4, "dilation": 2, "padding": (0, 2)},
    ],
    ids=str,
)
def test_a_convolution_is_the_same_function(options):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 12, **options)
    changed = copy.deepcopy(plain)
    use_inference_layers(nn.Sequential(changed))
    for size in ((2, 8, 9, 6), (1, 8, 5, 5), (0, 8, 5, 5), (8, 5, 5)):
        inputs = torch.randn(size)
        for layout in (inputs, inputs.contiguous(memory_format=torch.channels_last) if len(size) == 4 else inputs):
            with torch.no_grad():
                torch.testing.assert_close(changed(layout), plain(layout), atol=1e-5, rtol=1e-5)
    inputs.requires_grad_()
    assert torch.equal(changed(inputs), plain(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 5, 9), (7, 3, 9), (9,), (0, 9)], ids=str)
@torch.no_grad()
def test_a_linear_layer_is_the_same_function(shape, dtype, monkeypatch):
    monkeypatch.setattr(inference_layers, "MIN_LINEAR_WEIGHTS", 0)
    torch.manual_seed(0)
    plain = nn.Linear(9, 4).to(dtype)
    changed = copy.deepcopy(plain)
    use_inference_layers(nn.Sequential(changed))
    inputs = torch.randn(shape).to(dtype)
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(changed(inputs), plain(inputs), atol=tolerance, rtol=tolerance)
    tokens = torch.randn(4, 6, 9).to(dtype).transpose(0, 1)
    torch.testing.assert_close(changed(tokens), plain(tokens), atol=tolerance, rtol=tolerance)


@pytest.fixture
def large_linear(monkeypatch):
    monkeypatch.setattr(inference_layers, "MIN_LINEAR_WEIGHTS", 0)
    monkeypatch.setattr(inference_layers, "MIN_COPIED_LINEAR_WEIGHTS", 0)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 48, bias=False))
    use_inference_layers(network)
    return network[0]


@needs_operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_large_linear_weight_is_converted_once_for_every_number_of_rows(large_linear, dtype):
    if not inference_layers.can_multiply_in(dtype):
        pytest.skip("this processor has no matrix products in bfloat16")
    large_linear.to(dtype)
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
    kept = None
    for shape in ((2, 64), (1, 64), (64,), (3, 7, 64), (500, 64)):
        inputs = torch.randn(shape).to(dtype)
        expected = nn.functional.linear(inputs, large_linear.weight)
        torch.testing.assert_close(large_linear(inputs), expected, atol=tolerance, rtol=tolerance)
        assert kept is None or large_linear.weight_copy is kept
        kept = large_linear.weight_copy
    assert len(kept.forms) == 1
    large_linear.weight.data *= -1
    torch.testing.assert_close(large_linear(inputs), -expected, atol=tolerance, rtol=tolerance)


@torch.no_grad()
def test_a_wrong_number_of_features_is_torchs_error(large_linear, conv):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        large_linear(torch.randn(2, 32))
    with pytest.raises(RuntimeError, match=r"expected input.* to have 8 channels, but got 4"):
        conv(torch.randn(1, 4, 8, 8))


def test_small_linear_weights_are_not_copied(monkeypatch):
    monkeypatch.setattr(inference_layers, "MIN_LINEAR_WEIGHTS", 0)
    network = nn.Sequential(nn.Linear(64, 48))
    use_inference_layers(network)
    with torch.no_grad():
        network(torch.randn(2, 64))
    assert network[0].weight_copy is None


def test_a_compiled_linear_layer_is_a_convolution(large_linear):
    operations = []

    def recorded(graph, _):
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    inputs = torch.randn(3, 7, 64)
    with torch.no_grad():
        for shaped in (inputs, inputs[0], inputs[0, 0]):
            torch.testing.assert_close(
                torch.compile(large_linear, backend=recorded, dynamic=False)(shaped),
                nn.functional.linear(shaped, large_linear.weight),
                atol=1e-5,
                rtol=1e-5,
            )
        assert sum("conv2d" in operation for operation in operations) == 3
        exported = torch.export.export(large_linear, (inputs,))
    operations.clear()
    torch.compile(large_linear, backend=recorded, dynamic=False)(inputs).sum().backward()  # the weight has a gradient
    for graph in (operations, [str(node.target) for node in exported.graph.nodes]):
        assert any("linear" in operation for operation in graph) and not any("conv" in name for name in graph)


@needs_operators
@torch.no_grad()
def test_a_weight_of_another_shape_in_the_same_memory_is_noticed(large_linear):
    square = nn.Parameter(torch.randn(64, 64))
    large_linear.weight = square
    inputs = torch.randn(2, 64)
    torch.testing.assert_close(large_linear(inputs), inputs @ square.T, atol=1e-4, rtol=1e-4)
    large_linear.weight = nn.Parameter(square.t())
    torch.testing.assert_close(large_linear(inputs), inputs @ square, atol=1e-4, rtol=1e-4)


class Quantized(torch.Tensor):
    """Stands for a weight of other libraries, which does not have all operations."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        assert function is not torch.Tensor.__getitem__
        return super().__torch_function__(function, types, args, kwargs or {})


@torch.no_grad()
def test_compiled_layers_of_other_weights_stay_linear(large_linear):
    large_linear.weight = nn.Parameter(large_linear.weight.data.as_subclass(Quantized), requires_grad=False)
    inputs = torch.randn(3, 64)
    compiled = torch.compile(large_linear, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(inputs), inputs @ large_linear.weight.data.as_subclass(torch.Tensor).T)
    with torch.backends.mkldnn.flags(enabled=False):
        large_linear.weight = nn.Parameter(large_linear.weight.data.as_subclass(torch.Tensor))
        assert compiled(inputs[:0]).shape == (0, 48)


def write_through_data(conv):
    conv.weight.data += 0.1


def replace_data(conv):
    conv.weight.data = conv.weight.data * 2


def replace_parameter(conv):
    conv.weight = nn.Parameter(conv.weight * 2)


def step(conv):
    conv.weight.grad = torch.ones_like(conv.weight)
    torch.optim.AdamW(conv.parameters(), lr=0.1).step()


def load(conv):
    conv.load_state_dict({name: tensor * 3 for name, tensor in conv.state_dict().items()})


def assign(conv):
    conv.load_state_dict({name: tensor * 3 for name, tensor in conv.state_dict().items()}, assign=True)


def move(conv):
    conv.to(memory_format=torch.channels_last)
    conv.double().float()
    conv.weight.data[0] = 0


@needs_operators
@pytest.mark.parametrize("change", [write_through_data, replace_data, replace_parameter, step, load, assign, move])
def test_every_change_of_a_weight_is_noticed(conv, change):
    inputs = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        before = conv(inputs)
        assert conv.weight_copy is not None
    change(conv)
    expected = conv(inputs).detach()  # with gradients: torch's own layer
    assert not torch.allclose(expected, before)
    with torch.no_grad():
        torch.testing.assert_close(conv(inputs), expected, atol=1e-5, rtol=1e-5)


@needs_operators
def test_a_copy_is_made_once_and_leaves_no_trace(conv):
    inputs = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        conv(inputs)
        kept = conv.weight_copy
        conv(inputs)
    assert conv.weight_copy is kept is not None
    assert set(conv.state_dict()) == {"weight", "bias"} and len(list(conv.parameters())) == 2
    for other in (copy.deepcopy(conv), copy.copy(conv), pickle.loads(pickle.dumps(conv))):
        assert other.weight_copy is None and torch.equal(other.weight, conv.weight)
    conv.train()
    assert conv.weight_copy is None


@needs_operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_calls_that_alternate_between_two_shapes_convert_the_weight_once_for_each(conv, dtype, monkeypatch):
    conv.to(dtype)
    plain = nn.Conv2d(8, 12, 3, padding=1).to(dtype)
    plain.load_state_dict(conv.state_dict())
    alone, guided, large = (torch.randn(shape).to(dtype) for shape in ((1, 8, 6, 6), (2, 8, 6, 6), (1, 8, 12, 12)))
    conversions = []
    make_form = conv.form_of
    monkeypatch.setattr(
        conv, "form_of", lambda weight, make, kind: make_form(weight, lambda: conversions.append(kind) or make(), kind)
    )
    for _ in range(3):
        for inputs in (alone, guided):
            torch.testing.assert_close(conv(inputs), plain(inputs))
    assert len(conversions) == (2 if dtype == torch.bfloat16 else 1)  # in float32 one layout serves both
    for inputs in (large, torch.cat([large, large])):
        torch.testing.assert_close(conv(inputs), plain(inputs))
    assert len(conv.weight_copy.forms) == inference_layers.MAX_FORMS  # the others were dropped


@needs_operators
def test_only_plain_inference_is_computed_otherwise(conv, monkeypatch):
    inputs = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        expected = conv(inputs)
        conv.weight_copy = None
        with torch.autocast("cpu", torch.bfloat16):
            assert conv(inputs).dtype == torch.bfloat16
        assert torch.jit.trace(conv, inputs, check_trace=False)(inputs).shape == expected.shape
        _, tangent = torch.func.jvp(conv, (inputs,), (torch.ones_like(inputs),))
        assert tangent.abs().max() > 0
        torch.testing.assert_close(torch.func.vmap(conv)(inputs[None])[0], expected, atol=1e-5, rtol=1e-5)
        exported = torch.export.export(conv, (inputs,)).module()
        torch.testing.assert_close(exported(inputs), expected, atol=1e-5, rtol=1e-5)
        with torch.backends.mkldnn.flags(enabled=False):
            torch.testing.assert_close(conv(inputs), expected, atol=1e-5, rtol=1e-5)
    conv(inputs)  # with gradients
    assert conv.weight_copy is None


def test_large_networks_are_not_copied(monkeypatch):
    monkeypatch.setattr(inference_layers, "MAX_COPIED_PARAMETERS", 100)
    network = nn.Sequential(nn.Conv2d(8, 12, 3), nn.Linear(4, 4))
    use_inference_layers(network)
    assert type(network[0]) is nn.Conv2d and type(network[1]) is InferenceLinear
    monkeypatch.setattr(inference_layers, "MAX_COPIED_PARAMETERS", 1000)
    use_inference_layers(network)
    assert type(network[0]) is InferenceConv2d
