"""Snapshots of pipelines and arguments, to see that a call changes neither."""

import copy
from typing import Any

import numpy as np
import torch
from PIL import Image


def same(a: Any, b: Any) -> bool:
    """True if two values are equal to the bit, tensors and pictures inside lists and objects included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, Image.Image):
        return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes() and a.info == b.info
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (torch.Generator, np.random.RandomState)) or callable(a):
        return True
    if hasattr(a, "__dict__"):
        return same(vars(a), vars(b))
    return a == b or (a != a and b != b)


def copied(value: Any) -> Any:
    """A copy of an argument; generators and callbacks, which calls may change, are left as they are."""
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, torch.Generator) or callable(value):
        return value
    return copy.deepcopy(value)


def state(pipe: Any) -> dict[str, Any]:
    """Everything of a pipeline that a call must leave as it is, by name."""
    found = {"config": dict(pipe.config), "scheduler": vars(pipe.scheduler), "settings": _own(vars(pipe))}
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            found[f"weights of {name}"] = dict(part.state_dict(keep_vars=True))
            found[f"modes of {name}"] = [
                (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m))
                for m in part.modules()
            ]
            found[f"gradients of {name}"] = [p.requires_grad for p in part.parameters()]
            found[f"config of {name}"] = (
                part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
            )
    tokenizer = pipe.tokenizer
    found["tokenizer"] = {
        "vocab": len(tokenizer),
        "length": tokenizer.model_max_length,
        "side": tokenizer.padding_side,
    }
    found["feature_extractor"] = pipe.feature_extractor.to_dict()
    found["torch"] = (torch.get_default_dtype(), torch.is_grad_enabled())
    return copied_state(found)


def _own(attributes):
    return {
        name: value for name, value in attributes.items() if isinstance(value, (int, float, str, bool, type(None)))
    }


def copied_state(found: dict[str, Any]) -> dict[str, Any]:
    """A copy of a state; its tensors have no gradients."""
    return {
        key: {name: w.detach().clone() for name, w in value.items()} if key.startswith("weights") else copied(value)
        for key, value in found.items()
    }


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    return sorted(key for key in before.keys() | after.keys() if not same(before.get(key), after.get(key)))
