"""Exports a pipeline to ONNX files, and compares each network with torch."""

import copy
import math
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from tqdm import tqdm

from ..inference.loading import find_model
from ..models.prediction import is_guidance_distilled
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..schedulers.names import ONNX_ALGORITHMS
from ..schedulers.scheduling_ccld import CCLDScheduler
from ..sharing.base_models import card_license
from ..utils.files import folder_moved_into_place
from ..utils.words import PROMPTS_NAME
from ..version import __version__
from .graphs import PREFIX, NetworkSpec, networks_of, trace
from .manifest import FORMAT, MANIFEST_NAME, ExportError, File, Manifest, Network
from .networks import load_session
from .weights import connect, store

DTYPES = ("fp32", "fp16", "int8")
LARGEST_DIFFERENCE = 1e-4  # from torch, in float32
LARGEST_ERROR = 0.2  # root mean square difference in other precisions, relative to the outputs
UNFINISHED = ".part"
TOKENIZER = "tokenizer/tokenizer.json"


@dataclass(frozen=True)
class ExportRequest:
    """Settings of an export.

    Attributes:
        source: Folder or Hub name of a pipeline, or "default".
        output: Folder to write. `None` adds the graphs to the pipeline's own folder, and they use its weights.
        dtype: "fp32"; "fp16" for the U-Net, and for a decoder that does not overflow in it; or "int8" for weights.
        with_encoder: True to export the autoencoder's encoder, too.
    """

    source: str
    output: Path | None
    dtype: str = "fp32"
    with_encoder: bool = False

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}: choose one of {', '.join(DTYPES)}.")
        if self.output is None and self.dtype != "fp32":
            raise ValueError(f"--dtype {self.dtype} cannot use the pipeline's own weights: give --output, too.")
        if self.output is not None and self.output.exists():
            if not self.output.is_dir() or (
                any(self.output.iterdir()) and not (self.output / MANIFEST_NAME).is_file()
            ):
                raise ValueError(
                    f"--output {self.output} exists and was not written by this command; give another name."
                )
            if (self.output / "model_index.json").is_file():
                raise ValueError(f"--output {self.output} is a pipeline; give another name.")


def export(request: ExportRequest) -> Manifest:
    """Exports a pipeline. If this fails, the folder does not change.

    Returns:
        The manifest, with the differences from torch.

    Raises:
        ValueError: If the pipeline cannot be exported.
        ExportError: If the outputs of a network differ too much from torch's.
    """
    folder = find_model(request.source)
    pipe = CCLDPipeline.from_pretrained(folder, dtype=torch.float32)
    _require_supported(pipe)
    specs = networks_of(pipe, request.with_encoder)
    with _target(folder, request.output) as target:
        networks = {}
        for spec in tqdm(specs, desc="networks", unit="network", disable=None):
            networks[spec.name] = _export_network(spec, folder, target, request)
        if request.output is not None:
            (target / TOKENIZER).parent.mkdir()
            pipe.tokenizer.backend_tokenizer.save(str(target / TOKENIZER))
            if (folder / PROMPTS_NAME).is_file():  # the page's examples
                shutil.copyfile(folder / PROMPTS_NAME, target / PROMPTS_NAME)
        else:
            networks = {name: _named(network, target) for name, network in networks.items()}
        manifest = _manifest(pipe, folder, target, request, networks)
        manifest.write(target)
    return manifest


def _named(network, target):
    """Renames the graph of a network to its final name."""
    path = network.graph.path.removeprefix(".").removesuffix(UNFINISHED)
    os.replace(target / network.graph.path, target / path)
    return replace(network, graph=replace(network.graph, path=path))


def _require_supported(pipe):
    if not isinstance(pipe.scheduler, CCLDScheduler) or pipe.scheduler.config.algorithm_type not in ONNX_ALGORITHMS:
        pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, algorithm_type="dpmpp")
    if pipe.scheduler.config.num_train_timesteps != 1000:
        raise ValueError("Only pipelines with timesteps from 0 to 999 can be exported.")


@contextmanager
def _target(folder, output):
    """Context with the folder to write to. Graphs beside a pipeline's own weights get their final names at the end."""
    if output is not None:
        with folder_moved_into_place(output) as temporary:
            yield temporary
        return
    try:
        yield folder
    finally:
        for path in folder.glob(f".*{UNFINISHED}"):
            path.unlink()


def _export_network(spec: NetworkSpec, folder: Path, target: Path, request: ExportRequest) -> Network:
    """Exports one network, and compares it with torch on random inputs of two sizes."""
    reference = spec.module.eval()
    halves = request.dtype == "fp16" and _computes_in_half(spec)
    exported = replace(spec, module=copy.deepcopy(reference).half()) if halves else spec
    graph, weights = trace(exported)
    if request.output is None:
        (path,) = (folder / spec.component).glob("*.safetensors")
        weights_path = f"{spec.component}/{path.name}"
    else:
        weights_path = f"{spec.name}.safetensors"
        store(
            {name.removeprefix(PREFIX): w for name, w in weights.items()},
            target / weights_path,
            request.dtype == "int8",
        )
    connect(graph, weights, target, weights_path, PREFIX)
    graph_path = f"{spec.name}.onnx" if request.output is not None else f".{spec.name}.onnx{UNFINISHED}"
    onnx.save(graph, target / graph_path)
    difference, error = _differences(spec, load_session(target / graph_path))
    is_equal = difference <= LARGEST_DIFFERENCE if request.dtype == "fp32" else error <= LARGEST_ERROR
    if not is_equal:
        raise ExportError(
            f"The exported {spec.name} differs from torch's by up to {difference:.2g} (relative error {error:.2%})."
        )
    inputs, outputs = ({name: list(shape) for name, shape in shapes.items()} for shapes in (spec.inputs, spec.outputs))
    weights_file = File.of(target, weights_path)
    return Network(File.of(target, graph_path), weights_file, inputs, outputs, difference, error)


def _computes_in_half(spec):
    return spec.name == "unet" or (
        spec.name == "decoder" and not getattr(spec.module.part.config, "force_upcast", False)
    )


def _differences(spec, session):
    """Returns the largest difference of outputs, and the root mean square difference relative to the outputs."""
    largest = squares = total = 0.0
    for batch, height, width in ((2, 4, 4), (3, 2, 6)):
        inputs = spec.example(batch, height * spec.multiples, width * spec.multiples, seed=batch)
        with torch.no_grad():
            expected = spec.module(*inputs).numpy()
        (found,) = session.run(None, {name: value.numpy() for name, value in zip(spec.inputs, inputs)})
        gap = np.abs(found - expected)
        largest = max(largest, float(gap.max()))
        squares, total = squares + float((gap**2).sum()), total + float((expected**2).sum())
    return largest if math.isfinite(squares) else math.inf, math.sqrt(squares / total)


def _manifest(pipe, folder, target, request, networks):
    height, width = pipe.default_size
    config, scheduler = pipe.config, pipe.scheduler.config
    processor = pipe.feature_extractor if pipe.has_image_encoder else None
    names = ("size", "image_mean", "image_std")
    return Manifest(
        format=FORMAT,
        version=__version__,
        licence=card_license(folder),
        dtype=request.dtype,
        height=height,
        width=width,
        size_multiple=pipe.size_multiple,
        downsampling=pipe.vae_scale_factor,
        latent_channels=pipe.unet.config.in_channels,
        scaling_factor=pipe.vae.config.scaling_factor,
        embedding_dim=pipe.unet.config.cross_attention_dim,
        takes_guidance_scale=is_guidance_distilled(pipe.unet),
        defaults={
            "num_inference_steps": config.default_num_inference_steps,
            "guidance_scale": config.get("default_guidance_scale"),
            "variation": config.get("default_variation"),
            "max_guidance_scale": config.max_guidance_scale,
        },
        scheduler={name: scheduler[name] for name in ("algorithm_type", "timestep_schedule", "prediction_type")},
        context_length=pipe.tokenizer.model_max_length,
        tokenizer=File.of(target, TOKENIZER),
        image_processor=None if processor is None else {name: getattr(processor, name) for name in names},
        networks=networks,
        sources={
            path.relative_to(folder).as_posix(): File.of(folder, path.relative_to(folder).as_posix()).sha256
            for path in sorted(folder.rglob("*.safetensors"))
        },
    )
