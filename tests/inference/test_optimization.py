"""Compilation of a pipeline's networks."""

import pytest
import torch

from diffusers_ccld.inference.optimization import compile_networks


@pytest.mark.parametrize("device, compiled", [("cpu", ["UNet"]), ("cuda", ["Decoder", "UNet"])])
def test_only_networks_that_gain_from_it_are_compiled(pipe, device, compiled, monkeypatch):
    names = []

    def recorded(forward, **options):
        names.append(type(forward.__self__).__name__)
        return forward

    monkeypatch.setattr(torch, "compile", recorded)
    monkeypatch.setattr(type(pipe), "_execution_device", torch.device(device))
    compile_networks(pipe)
    assert len(names) == len(compiled) and all(part in name for part, name in zip(compiled, names))
