"""Networks with LoRA adapters in place, which their own `save_pretrained` would save under names that do not load."""

import copy
import functools
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from diffusers import ModelMixin

Network = TypeVar("Network", bound=torch.nn.Module)


def adapter_layers(network: torch.nn.Module) -> list[Any]:
    """Layers that PEFT has put in the place of a network's own; none without PEFT."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        return []
    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def without_adapters(network: Network, name: str) -> Network:
    """Returns a network as it can be saved: itself, or a copy of one whose adapters were fused, without their layers.

    Args:
        network: The network; it is not changed.
        name: What it is called in an error.

    Raises:
        ValueError: If it has adapters that were not fused.
    """
    layers = adapter_layers(network)
    if not layers:
        return network
    if not all(layer.merged for layer in layers):
        adapters = ", ".join(sorted({adapter for layer in layers for adapter in layer._all_available_adapter_names()}))
        raise ValueError(
            f"The {name} has a LoRA in place ({adapters}), and would be saved under names that do not load. Make it "
            f"part of the weights with pipe.fuse_lora(), or take it out with pipe.unload_lora_weights() and save the "
            f"LoRA file beside the model."
        )
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    plain = recurse_remove_peft_layers(copy.deepcopy(network))
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if hasattr(plain, attribute):
            delattr(plain, attribute)
    return plain


class SavedWithoutAdapters:
    """Mixin of a diffusers network: it is saved under names that load, and loads only with all of its weights."""

    @functools.wraps(ModelMixin.save_pretrained, assigned=())  # pipelines ask its signature for `variant`
    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Saves the network; arguments as for `ModelMixin.save_pretrained`. A fused LoRA is saved as weights.

        Raises:
            ValueError: If a LoRA is in place that was not fused.
        """
        super(SavedWithoutAdapters, without_adapters(self, "network")).save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, path: str | Path, **kwargs: Any) -> Self:
        """Loads the network; arguments as for `ModelMixin.from_pretrained`, which would make up missing weights.

        Raises:
            ValueError: If weights are missing, as in a file that was saved with a LoRA in place.
        """
        model, info = super().from_pretrained(path, **{**kwargs, "output_loading_info": True})
        missing = sorted(info["missing_keys"])
        if missing:
            has_lora = any("lora_" in name or "base_layer" in name for name in info["unexpected_keys"])
            raise ValueError(
                f"{path} lacks {len(missing)} weights, {missing[0]} for one: "
                + (
                    "it was saved with a LoRA in place; save it again after pipe.fuse_lora()."
                    if has_lora
                    else "it is damaged, or belongs to another network."
                )
            )
        return (model, info) if kwargs.get("output_loading_info") else model
