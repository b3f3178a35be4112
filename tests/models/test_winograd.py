"""Winograd's convolutions must compute what torch's do, picture by picture, and be used where they are faster."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusers_ccld.models import inference_layers, winograd
from diffusers_ccld.models.inference_layers import HAS_OPERATORS, use_inference_layers

needs_operators = pytest.mark.skipif(not HAS_OPERATORS, reason="needs oneDNN on x86")


@pytest.fixture
def small_sizes(monkeypatch):
    """Small convolutions count as fast, and each part has few tiles."""
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 2)
    monkeypatch.setattr(winograd, "MIN_PIXELS_PER_CHANNEL", 0)
    monkeypatch.setattr(winograd, "MIN_TILES", 1)
    monkeypatch.setattr(winograd, "MAX_TILES", 6)


@pytest.fixture
def conv():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(5, 7, 3, padding=1))
    use_inference_layers(network)
    return network[0]


def relative_error(outputs, expected):
    return float((outputs - expected).norm() / expected.norm())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 4, 4), (2, 8, 12), (3, 20, 8), (1, 28, 36)], ids=str)
@torch.no_grad()
def test_it_is_the_same_function(size, bias, small_sizes):
    torch.manual_seed(0)
    num_images, height, width = size
    inputs, weight = torch.randn(num_images, 5, height, width), torch.randn(7, 5, 3, 3)
    bias = torch.randn(7) if bias else None
    expected = F.conv2d(inputs.double(), weight.double(), None if bias is None else bias.double(), padding=1)
    kernels = winograd.map_kernels(weight)
    tile_counts = set()

    def multiply(tiles):
        tile_counts.add(tiles.shape[2])
        return F.conv2d(tiles, kernels, groups=winograd.NUM_PRODUCTS)

    in_parts = winograd.convolve_in_parts(inputs, bias, 7, multiply)
    assert tile_counts == {winograd.tiles_at_once(height, width)}
    whole = winograd.convolve_batch(inputs, bias, multiply)
    for outputs in (in_parts, whole):
        assert outputs.shape == expected.shape and outputs.is_contiguous(memory_format=torch.channels_last)
        assert relative_error(outputs, expected) < 2e-6


def test_parts_divide_the_picture():
    for height, width in ((32, 32), (256, 256), (4, 2000), (44, 52), (512, 8)):
        rows, tiles = winograd.rows_at_once(height, width), winograd.tiles_at_once(height, width)
        assert (height // 4) % rows == 0 and tiles == rows * width // 4
        assert tiles <= winograd.MAX_TILES or rows == 1


def test_small_pictures_and_few_channels_are_convolved_as_usual():
    assert winograd.winograd_is_faster(192, 192, 32, 32)
    assert not winograd.winograd_is_faster(192, 192, 16, 16)
    assert not winograd.winograd_is_faster(64, 192, 32, 32) and not winograd.winograd_is_faster(192, 64, 32, 32)
    assert not winograd.winograd_is_faster(192, 192, 34, 32) and not winograd.winograd_is_faster(192, 192, 32, 34)
    assert winograd.tiles_at_once(92, 28) == 7  # 23 rows of tiles do not divide into parts
    assert not winograd.winograd_is_faster(128, 128, 92, 28)


@needs_operators
@torch.no_grad()
def test_a_layer_uses_it_and_follows_its_weight(small_sizes, conv):
    inputs = torch.randn(2, 5, 12, 8)
    expected = F.conv2d(inputs, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(inputs), expected, atol=1e-5, rtol=1e-5)
    assert list(conv.weight_copy.forms) == [("winograd", winograd.tiles_at_once(12, 8))]
    conv.weight.data *= -1
    expected = F.conv2d(inputs, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(inputs), expected, atol=1e-5, rtol=1e-5)
    conv(torch.randn(2, 5, 12, 7))  # not a multiple of four
    assert len(conv.weight_copy.forms) == 2


@needs_operators
@torch.no_grad()
def test_a_picture_does_not_depend_on_its_batch(small_sizes, conv):
    inputs = torch.randn(4, 5, 16, 16)
    together = conv(inputs)
    assert all(torch.equal(conv(inputs[i : i + 1]), together[i : i + 1]) for i in range(4))


@needs_operators
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": 1, "dtype": torch.bfloat16},
    ],
    ids=str,
)
@torch.no_grad()
def test_other_convolutions_do_not_use_it(options, small_sizes, monkeypatch):
    network = nn.Sequential(nn.Conv2d(4, 4, **options))
    use_inference_layers(network)
    monkeypatch.setattr(inference_layers, "map_kernels", None)
    network(torch.randn(1, 4, 8, 8, dtype=network[0].weight.dtype))


def test_training_does_not_use_it(small_sizes, conv, monkeypatch):
    monkeypatch.setattr(inference_layers, "map_kernels", None)
    conv(torch.randn(1, 5, 8, 8)).sum().backward()
    assert conv.weight.grad is not None


@needs_operators
def test_a_compiled_layer_uses_it_where_weights_are_constants(small_sizes, conv):
    import torch._inductor.config as inductor

    group_counts = []

    def recorded(graph, _):
        for node in graph.graph.nodes:
            if "conv2d" in str(node.target):
                group_counts.append(node.kwargs.get("groups", 1))
        return graph

    inputs = torch.randn(2, 5, 12, 8)
    with torch.no_grad():
        expected = F.conv2d(inputs, conv.weight, conv.bias, padding=1)
        for freezing in (False, True):
            torch.compiler.reset()
            with inductor.patch(freezing=freezing):
                outputs = torch.compile(conv, backend=recorded, dynamic=False, fullgraph=True)(inputs)
            torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)
    assert group_counts[-1] == winograd.NUM_PRODUCTS and len(group_counts) == 2 and group_counts[0] != 36


@needs_operators
@torch.no_grad()
def test_a_compiled_layer_maps_its_weight_once(small_sizes, conv):
    import torch._inductor.config as inductor

    precisions = set()

    def recorded(graph):
        precisions.update(node.meta["val"].dtype for node in graph.nodes if torch.is_tensor(node.meta.get("val")))

    torch.compiler.reset()
    inputs = torch.randn(2, 5, 12, 8)
    with inductor.patch(freezing=True, post_grad_custom_post_pass=recorded, force_disable_caches=True):
        outputs = torch.compile(conv, dynamic=False, fullgraph=True)(inputs)
    torch.testing.assert_close(outputs, F.conv2d(inputs, conv.weight, conv.bias, padding=1), atol=1e-5, rtol=1e-5)
    assert precisions == {torch.float32}  # kernels are mapped in float64, which is not in the graph of a call


@needs_operators
@torch.no_grad()
def test_compilation_for_any_size_stays_one(small_sizes, conv):
    import torch._inductor.config as inductor

    graphs = []

    def recorded(graph, _):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(conv, backend=recorded, dynamic=True)
    for side in (8, 12, 16, 20):
        compiled(torch.randn(2, 5, side, side))
    assert len(graphs) == 1
    torch.compiler.reset()
    inputs = torch.randn(2, 5, 12, 8)
    with inductor.patch(freezing=True):
        outputs = torch.compile(conv, backend=recorded, dynamic=True)(inputs)
    torch.testing.assert_close(outputs, F.conv2d(inputs, conv.weight, conv.bias, padding=1), atol=1e-5, rtol=1e-5)


@needs_operators
@torch.no_grad()
def test_matrix_products_with_fewer_digits_turn_it_off(small_sizes, conv, monkeypatch):
    usual = torch.get_float32_matmul_precision()
    monkeypatch.setattr(inference_layers, "map_kernels", None)
    try:
        torch.set_float32_matmul_precision("medium")
        conv(torch.randn(1, 5, 8, 8))
    finally:
        torch.set_float32_matmul_precision(usual)
    with pytest.raises(TypeError):
        conv(torch.randn(1, 5, 8, 8))


@needs_operators
@torch.no_grad()
def test_kernels_are_not_converted_again_for_another_batch(small_sizes, conv, monkeypatch):
    conv(torch.randn(1, 5, 8, 8))
    kept = conv.weight_copy
    for num_images in (2, 1, 5):
        conv(torch.randn(num_images, 5, 8, 8))
    assert conv.weight_copy is kept and len(kept.forms) == 1 <= inference_layers.MAX_FORMS
