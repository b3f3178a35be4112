"""Compilation of networks for inference."""

import functools

import torch

from ..models.inference_layers import MAX_COPIED_PARAMETERS
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..utils.errors import first_line

# Shapes that a network may be compiled for. By default torch.compile silently stops compiling after 8.
MAX_COMPILATIONS = 64


def require_compiler() -> None:
    """Raises `ValueError` if torch.compile would find no C++ compiler, which it calls for networks on a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # torch has no public way to look for the compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            "Compiling needs a C++ compiler, but none was found. Install g++, or set the variable CXX. "
            f"({first_line(error)})"
        ) from error


def compile_networks(pipe: CCLDPipeline) -> None:
    """Compiles the U-Net at its next call, in place, and the decoder if it is not on a CPU.

    Each new image size, batch size or number of conditions is compiled again. On a CPU the U-Net's weights become
    constants: changes made to them in place afterwards, such as fusing a LoRA, have no effect. There the decoder's own
    classes are as fast as compiled ones. A U-Net that is too large to be copied is compiled block by block, which
    takes less time and memory; its weights stay variable.
    """
    # With offloading, `pipe.device` is not the device of the calls; diffusers has no public name for that.
    is_on_cpu = pipe._execution_device.type == "cpu"
    settings = {"freezing": is_on_cpu}
    if not is_on_cpu:
        pipe.vae.decoder.forward = _with_settings(torch.compile(pipe.vae.decoder.forward, dynamic=False), settings)
    if pipe.unet.num_parameters() <= MAX_COPIED_PARAMETERS:
        pipe.unet.forward = _with_settings(torch.compile(pipe.unet.forward, dynamic=False), settings)
    else:
        pipe.unet.compile_repeated_blocks(dynamic=False)
        pipe.unet.forward = _with_settings(pipe.unet.forward, {})


def _with_settings(forward, settings):
    # torch has these settings under no public name. They are per thread and read by the call that compiles, so
    # torch.compile cannot take them as options.
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    @functools.wraps(forward)
    def call(*args, **kwargs):
        with inductor.patch(settings), dynamo.patch(recompile_limit=MAX_COMPILATIONS):
            return forward(*args, **kwargs)

    return call
