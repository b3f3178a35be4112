"""Drop-in replacements for torch's convolutions and linear layers that are faster at inference on a CPU.

oneDNN, torch's CPU library for convolutions, computes with weights in its own memory layout. torch's layers convert
the weight in every call. These layers cache the converted weight outside of the state dict. In training, compilation
and tracing, and on other devices, they call torch's own implementation.
"""

import functools
import platform
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from .winograd import (
    NUM_PRODUCTS,
    convolve_batch,
    convolve_in_parts,
    map_kernels,
    tiles_at_once,
    winograd_is_faster,
)

# Operators to which torch.compile lowers these layers. torch does not give them public names.
OPERATORS = (
    "_convolution_pointwise",
    "_reorder_convolution_weight",
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_is_mkldnn_bf16_supported",
)
HAS_OPERATORS = (
    torch.backends.mkldnn.is_available()
    and platform.machine() in ("x86_64", "AMD64")
    and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
)
# Larger networks do not cache copies: those of 250 million parameters take 1 GB in float32.
MAX_COPIED_PARAMETERS = 250_000_000
MIN_LINEAR_WEIGHTS = 32_768  # with fewer, calling oneDNN takes longer than it saves
MIN_COPIED_LINEAR_WEIGHTS = 262_144  # with fewer, looking for changes takes longer than a converted weight saves
ANY_NUMBER_OF_ROWS = 16  # for which a linear weight is converted: from two rows on, oneDNN has one layout for all
NUM_COMPARED_VALUES = 16  # values of a copied weight that every call compares
MAX_FORMS = 2  # of one weight: a guided and an unguided batch alternate


def records_nothing() -> bool:
    """True if torch is not recording, tracing or compiling the operations that follow."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0  # torch.func.jvp
        or torch._C._functorch.peek_interpreter_stack() is not None  # torch.func.vmap
    )


def compiles_in_float32_on_cpu(hidden_states: torch.Tensor, weight: torch.Tensor) -> bool:
    """True while torch.compile, but not torch.export, traces a layer that infers with oneDNN in float32."""
    return (
        HAS_OPERATORS
        and torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and type(weight) is nn.Parameter
        and hidden_states.is_cpu
        and hidden_states.numel() > 0
        and hidden_states.dtype == weight.dtype == torch.float32
    )


def compiles_weights_as_constants() -> bool:
    """True if torch.compile computes once what depends on weights alone, as `inference.optimization` has it do."""
    import torch._inductor.config  # takes a second, and torch.compile has imported it

    return torch._inductor.config.freezing


def has_exact_matrix_products() -> bool:
    """False if the user lets oneDNN round float32 in matrix products, which is too much for the maps of Winograd."""
    return torch.backends.mkldnn.matmul.fp32_precision not in ("tf32", "bf16")


def infers_on_cpu(hidden_states: torch.Tensor, weight: torch.Tensor) -> bool:
    """True if a layer may call oneDNN's operators: at inference, on a CPU, with plain tensors of one dtype."""
    return (
        HAS_OPERATORS
        and records_nothing()
        and type(hidden_states) is torch.Tensor
        and type(weight) is nn.Parameter  # quantised and parametrised weights have other types
        and hidden_states.is_cpu
        and weight.is_cpu
        and hidden_states.dtype == weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
    )


@functools.cache
def can_multiply_in(dtype: torch.dtype) -> bool:
    """True if oneDNN has matrix products in a dtype on this processor."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class WeightCopy:
    """Converted copies of a weight, which detect later changes of the weight.

    Args:
        weight: The original weight.
    """

    def __init__(self, weight: nn.Parameter):
        self.forms, self.version, self.geometry = {}, weight._version, (weight.shape, weight.stride())
        # Adapters and moving averages write to `weight.data`, which does not change the version. So some values are
        # compared, too. The view also keeps the storage alive, so that another weight cannot get its address.
        count = min(NUM_COMPARED_VALUES, weight.numel())
        self.view = weight.detach().as_strided((count,), (weight.numel() // count,))
        self.values = self.view.clone()

    def is_of(self, weight: nn.Parameter) -> bool:
        """True if the weight has the same storage, shape and values as when it was copied."""
        return (
            weight.data_ptr() == self.view.data_ptr()
            and (weight.shape, weight.stride()) == self.geometry
            and weight._version == self.version
            and torch.equal(self.view, self.values)
        )

    def put_last(self, kind: Hashable, form: torch.Tensor) -> None:
        """Notes that a form was used, and keeps the `MAX_FORMS` that were used last."""
        others = [(other, old) for other, old in self.forms.items() if other != kind]
        self.forms = dict([*others, (kind, form)][-MAX_FORMS:])  # replaced as a whole: other threads may read it


class KeepsCopy:
    """Mixin for modules that cache a converted weight. The cache is not saved, copied, moved or pickled."""

    weight_copy: WeightCopy | None = None

    def form_of(self, weight: nn.Parameter, make: Callable[[], torch.Tensor], kind: Hashable = None) -> torch.Tensor:
        """Returns the converted weight of a kind. Converts it if it is not cached or if the weight has changed."""
        kept = self.weight_copy  # read once, because other threads may replace it
        if kept is None or not kept.is_of(weight):
            kept = self.weight_copy = WeightCopy(weight)
        forms = kept.forms
        form = make() if kind not in forms else forms[kind]
        if kind not in forms or kind != next(reversed(forms)):
            kept.put_last(kind, form)
        return form

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "weight_copy"}

    def _apply(self, fn, recurse=True):  # `to`, `half` and all other conversions of torch call this
        self.weight_copy = None
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> nn.Module:
        """Sets the mode as `nn.Module.train` does. Training mode frees the cached weight."""
        if mode:
            self.weight_copy = None
        return super().train(mode)


class InferenceConv2d(KeepsCopy, nn.Conv2d):
    """A convolution that caches its weight in oneDNN's layout. At inference, its output is channels-last.

    Large ones of 3×3 pixels in float32 cache their weight for Winograd's algorithm, which takes four times the memory.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if compiles_in_float32_on_cpu(hidden_states, weight) and self._can_compile_winograd(hidden_states):
            return self._compiled_by_winograd(hidden_states)
        if not (infers_on_cpu(hidden_states, weight) and self._can_copy(hidden_states)):
            return super().forward(hidden_states)
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
        if self._suits_winograd(hidden_states) and has_exact_matrix_products():
            return self._by_winograd(hidden_states)
        geometry = self.padding, self.stride, self.dilation, self.groups
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        shape = hidden_states.shape
        reordered = self.form_of(weight, lambda: reorder(weight.detach(), *geometry, shape), self._layout_for(shape))
        return torch.ops.mkldnn._convolution_pointwise(hidden_states, reordered, self.bias, *geometry, "none", [], "")

    def _suits_winograd(self, hidden_states):
        geometry = self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.padding_mode
        return (
            self.weight.dtype == torch.float32
            and hidden_states.ndim == 4
            and geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
            and winograd_is_faster(self.in_channels, self.out_channels, *hidden_states.shape[2:])
        )

    def _by_winograd(self, hidden_states):
        geometry = (0, 0), (1, 1), (1, 1), NUM_PRODUCTS
        num_tiles = tiles_at_once(*hidden_states.shape[2:])
        shape = 1, NUM_PRODUCTS * self.in_channels, num_tiles, 1

        def converted():
            kernels = map_kernels(self.weight.detach())
            return torch.ops.mkldnn._reorder_convolution_weight(kernels, *geometry, shape)

        def multiply(tiles):
            return torch.ops.mkldnn._convolution_pointwise(tiles, kernels, None, *geometry, "none", [], "")

        kernels = self.form_of(self.weight, converted, ("winograd", num_tiles))
        return convolve_in_parts(hidden_states, self.bias, self.out_channels, multiply)

    def _can_compile_winograd(self, hidden_states):
        return compiles_weights_as_constants() and self._suits_winograd(hidden_states)

    def _compiled_by_winograd(self, hidden_states):
        multiply = functools.partial(F.conv2d, weight=map_kernels(self.weight), groups=NUM_PRODUCTS)
        return convolve_batch(hidden_states, self.bias, multiply)

    def _layout_for(self, shape):
        # oneDNN chooses the layout by the size of the picture, and in bfloat16 also by whether there is one picture
        # or more. If the weight has another layout, it converts the weight in every call, which takes up to ten times
        # as long.
        is_alone = self.weight.dtype == torch.bfloat16 and shape[0] == 1
        return shape[2:], is_alone

    def _can_copy(self, hidden_states):
        return (
            self.weight.dtype in (torch.float32, torch.bfloat16)
            and hidden_states.ndim == 4
            and hidden_states.shape[1] == self.in_channels
            and hidden_states.numel() > 0
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and not self.weight.is_inference()  # inference tensors do not have versions
        )


class InferenceLinear(KeepsCopy, nn.Linear):
    """A linear layer that uses oneDNN at inference. torch uses MKL, which is half as fast on AMD processors.

    Attributes:
        copies_weight: True to cache a large weight in oneDNN's layout. The products of few rows, such as those of a
            modulation, mostly wait for their weights and take half as long.
    """

    copies_weight = False

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if hidden_states.numel() == 0 or hidden_states.shape[-1:] != (self.in_features,):
            return super().forward(hidden_states)  # which raises an error for another number of features
        if self.copies_weight and compiles_in_float32_on_cpu(hidden_states, weight):
            return self._as_convolution(hidden_states)
        is_small = weight.numel() < MIN_LINEAR_WEIGHTS
        if is_small or not infers_on_cpu(hidden_states, weight) or not can_multiply_in(weight.dtype):
            return super().forward(hidden_states)
        if self.copies_weight and weight.numel() >= MIN_COPIED_LINEAR_WEIGHTS and not weight.is_inference():
            reorder = torch.ops.mkldnn._reorder_linear_weight
            weight = self.form_of(weight, lambda: reorder(weight.detach(), ANY_NUMBER_OF_ROWS))
        return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, self.bias, "none", [], "")

    def _as_convolution(self, hidden_states):
        # torch.compile lowers linear layers in float32 to MKL, and convolutions to oneDNN.
        rows = hidden_states.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)  # channels-last
        outputs = F.conv2d(rows, self.weight[:, :, None, None], self.bias).permute(0, 2, 3, 1)
        return outputs.reshape(*hidden_states.shape[:-1], self.out_features)


def use_inference_layers(network: nn.Module) -> None:
    """Changes the classes of a network's convolutions and linear layers to those of this module, in place.

    Weights and names stay the same, and so do outputs up to rounding. A network above `MAX_COPIED_PARAMETERS` keeps
    torch's convolutions.
    """
    copies = sum(parameter.numel() for parameter in network.parameters()) <= MAX_COPIED_PARAMETERS
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__, module.copies_weight = InferenceLinear, copies
        elif type(module) is nn.Conv2d and copies:
            module.__class__ = InferenceConv2d
