"""Layers that compute faster on a CPU while no gradients are recorded, with the weights and names of torch's layers.

oneDNN, torch's library for convolutions, computes with weights in an order of its own. Torch's layers convert them in
every call; these keep a converted copy beside the weight, outside of the module's state. Whatever trains, compiles,
traces or runs on another device computes as in torch's layers.
"""

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

# Operators that torch.compile puts in place of layers. There are not public names for them.
OPERATORS = ("_convolution_pointwise", "_reorder_convolution_weight", "_linear_pointwise")
HAS_OPERATORS = (
    torch.backends.mkldnn.is_available()
    and platform.machine() in ("x86_64", "AMD64")
    and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)
)
# Networks with more parameters keep no copies: those of 250 million take 1 GB in float32.
MAX_COPIED_PARAMETERS = 250_000_000
MIN_ROWS = 16  # with fewer rows, torch's own product of a linear layer is faster
NUM_COMPARED_VALUES = 16  # of a copied weight, in every call


def records_nothing() -> bool:
    """True if the operations that follow are neither recorded for derivatives nor traced nor compiled."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0  # torch.func.jvp
        or torch._C._functorch.peek_interpreter_stack() is not None  # torch.func.vmap
    )


def infers_on_cpu(hidden_states: torch.Tensor, weight: torch.Tensor) -> bool:
    """True if a layer computes only its result, from plain tensors of one precision on a CPU, and oneDNN can do it."""
    return (
        HAS_OPERATORS
        and records_nothing()
        and type(hidden_states) is torch.Tensor
        and type(weight) is nn.Parameter  # quantised and parametrised weights are of other types
        and hidden_states.is_cpu
        and weight.is_cpu
        and hidden_states.dtype == weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
    )


class WeightCopy:
    """A form of a weight that is faster to compute with, and what tells that the weight has changed since.

    Args:
        weight: The weight.
        form: The same in the other form.
    """

    def __init__(self, weight: nn.Parameter, form: torch.Tensor):
        self.form, self.version = form, weight._version
        # Adapters and averages write through `weight.data`, which counts no version, so that values are compared, too.
        # The view also keeps the storage: its address then cannot become another weight's.
        count = min(NUM_COMPARED_VALUES, weight.numel())
        self.view = weight.detach().as_strided((count,), (weight.numel() // count,))
        self.values = self.view.clone()

    def is_of(self, weight: nn.Parameter) -> bool:
        """True if the weight still has the storage and the values that were copied."""
        return (
            weight.data_ptr() == self.view.data_ptr()
            and weight._version == self.version
            and torch.equal(self.view, self.values)
        )


class KeepsCopy:
    """A module with a copy of a weight. The copy is not part of its state, and it is not copied, moved or pickled."""

    weight_copy: WeightCopy | None = None

    def form_of(self, weight: nn.Parameter, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Returns the other form of a weight, which is made if there is none or if the weight has changed."""
        kept = self.weight_copy  # read once, because several threads may call one module
        if kept is None or not kept.is_of(weight):
            kept = self.weight_copy = WeightCopy(weight, make())
        return kept.form

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "weight_copy"}

    def _apply(self, fn, recurse=True):  # all of torch's conversions, `to`, `half` and so on, come through here
        self.weight_copy = None
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> nn.Module:
        """As of `nn.Module`; frees the copy if the module is to be trained."""
        if mode:
            self.weight_copy = None
        return super().train(mode)


class InferenceConv2d(KeepsCopy, nn.Conv2d):
    """A convolution that keeps its weight in oneDNN's order while it infers. Its output is channels-last then."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if not (infers_on_cpu(hidden_states, weight) and self._can_copy(hidden_states)):
            return super().forward(hidden_states)
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
        geometry = self.padding, self.stride, self.dilation, self.groups
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        reordered = self.form_of(weight, lambda: reorder(weight.detach(), *geometry, hidden_states.shape))
        return torch.ops.mkldnn._convolution_pointwise(hidden_states, reordered, self.bias, *geometry, "none", [], "")

    def _can_copy(self, hidden_states):
        return (
            self.weight.dtype in (torch.float32, torch.bfloat16)
            and hidden_states.ndim == 4
            and hidden_states.numel() > 0
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and not self.weight.is_inference()  # such weights count no versions
        )


class InferenceLinear(nn.Linear):
    """A linear layer that oneDNN computes while it infers, and not MKL, which is half as fast on AMD's processors."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        num_rows = hidden_states.numel() // weight.shape[1]
        if num_rows < MIN_ROWS or weight.dtype != torch.float32 or not infers_on_cpu(hidden_states, weight):
            return super().forward(hidden_states)
        return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, self.bias, "none", [], "")


def use_inference_layers(network: nn.Module) -> None:
    """Changes the class of a network's convolutions and linear layers to those of this file.

    Their weights, names and, but for rounding, outputs stay the same. A network that is too large to be copied keeps
    its convolutions.
    """
    copies = sum(parameter.numel() for parameter in network.parameters()) <= MAX_COPIED_PARAMETERS
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = InferenceLinear
        elif type(module) is nn.Conv2d and copies:
            module.__class__ = InferenceConv2d
