"""Wraps the networks of a pipeline in modules that take and return tensors, and traces their ONNX graphs."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
import onnx_ir
import onnxscript.optimizer
import torch
from torch import nn
from torch.nn import functional as F

from ..models.prediction import is_guidance_distilled, predict_velocity
from ..pipelines.pipeline_ccld import CCLDPipeline

OPSET = 20
PREFIX = "part."  # of the names that a component's weights have in its wrapper


class UNet(nn.Module):
    """Predicts the velocity of latents. Inputs and outputs are float32; the network may compute in another dtype."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, sample, timestep, condition, guidance_scale=None):
        dtype = self.part.dtype
        return predict_velocity(
            self.part, sample.to(dtype), timestep, condition[:, None].to(dtype), guidance_scale
        ).float()


class Decoder(nn.Module):
    """Decodes scaled latents to pixels in [−1, 1]."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, latents):
        scaled = latents / self.part.config.scaling_factor
        return self.part.decode(scaled.to(self.part.dtype), return_dict=False)[0].float()


class Encoder(nn.Module):
    """Encodes pixels in [−1, 1] to scaled latents: the mode of the posterior, not a sample."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, pixels):
        encoded = self.part.encode(pixels.to(self.part.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * self.part.config.scaling_factor


class TextEncoder(nn.Module):
    """Maps token ids to embeddings of unit length."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, input_ids):
        return self.part(input_ids).text_embeds


class TextVariation(nn.Module):
    """Adds noise with the covariance of the fit's residuals to embeddings; see `PromptEmbedding.vary_texts`."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, embeds, noise):
        return F.normalize(embeds + noise @ self.part.residual_factor.T, dim=-1)


class ImageEncoder(nn.Module):
    """Maps normalised square images to embeddings of unit length."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, pixel_values):
        return self.part(pixel_values).image_embeds


@dataclass(frozen=True)
class NetworkSpec:
    """A network to export.

    Attributes:
        name: Its name in the manifest.
        component: The pipeline's component that has its weights.
        module: The network.
        inputs: Shape of each input by name. A string in a shape names a dynamic axis.
        outputs: Shape of the output by name.
        multiples: Dynamic heights and widths must be multiples of this number.
        integers: Exclusive upper bound of each integer input by name.
    """

    name: str
    component: str
    module: nn.Module
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    multiples: int = 1
    integers: dict[str, int] = field(default_factory=dict)

    def example(self, batch: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Returns random inputs. The first row has the zero condition."""
        generator = torch.Generator().manual_seed(seed)
        sizes = {"batch": batch, "height": height, "width": width}
        tensors = []
        for name, shape in self.inputs.items():
            shape = [sizes.get(length, length) for length in shape]
            if name in self.integers:
                tensors.append(torch.randint(0, self.integers[name], shape, generator=generator))
            elif name == "timestep":
                tensors.append(torch.rand(shape, generator=generator) * 999)
            elif name == "guidance_scale":
                tensors.append(1 + 4 * torch.rand(shape, generator=generator))
            else:
                tensors.append(torch.randn(shape, generator=generator))
            if name == "condition":
                tensors[-1][0] = 0
        return tuple(tensors)


def networks_of(pipe: CCLDPipeline, with_encoder: bool = False) -> list[NetworkSpec]:
    """Lists the networks of a pipeline.

    Args:
        pipe: The pipeline.
        with_encoder: True to include the autoencoder's encoder, which sampling from noise does not need.
    """
    config, text = pipe.unet.config, pipe.text_encoder.config
    latents = ["batch", config.in_channels, "height", "width"]
    embeds = ["batch", config.cross_attention_dim]
    unet_inputs = {"sample": latents, "timestep": ["batch"], "condition": embeds}
    if is_guidance_distilled(pipe.unet):
        unet_inputs["guidance_scale"] = ["batch"]
    multiple = 2 ** (len(config.block_out_channels) - 1)
    pixels = ["batch", 3, "height", "width"]
    ids = {"input_ids": ["batch", text.max_position_embeddings]}
    specs = [
        NetworkSpec("unet", "unet", UNet(pipe.unet), unet_inputs, {"velocity": latents}, multiple),
        NetworkSpec("decoder", "vae", Decoder(pipe.vae), {"latents": latents}, {"pixels": pixels}),
        NetworkSpec(
            "text_encoder",
            "text_encoder",
            TextEncoder(pipe.text_encoder),
            ids,
            {"embeds": embeds},
            integers={"input_ids": text.vocab_size},
        ),
    ]
    if getattr(pipe.text_encoder, "residual_factor", None) is not None:
        inputs = {"embeds": embeds, "noise": embeds}
        module = TextVariation(pipe.text_encoder)
        specs.append(NetworkSpec("text_variation", "text_encoder", module, inputs, {"varied": embeds}))
    if pipe.has_image_encoder:
        size = pipe.image_encoder.config.image_size
        inputs = {"pixel_values": ["batch", 3, size, size]}
        module = ImageEncoder(pipe.image_encoder)
        specs.append(NetworkSpec("image_encoder", "image_encoder", module, inputs, {"embeds": embeds}))
    if with_encoder:
        module = Encoder(pipe.vae)
        specs.append(
            NetworkSpec("encoder", "vae", module, {"pixels": pixels}, {"latents": latents}, pipe.vae_scale_factor)
        )
    return specs


def trace(spec: NetworkSpec) -> tuple[onnx.ModelProto, dict[str, torch.Tensor]]:
    """Traces a network.

    Returns:
        The graph, whose weights are initialisers without data, and the weights by name. Weights are not
        constant-folded: each is a tensor of the component.
    """
    module = spec.module.eval()
    with torch.no_grad(), _quietly():
        program = torch.onnx.export(
            module,
            spec.example(3, 2 * spec.multiples, 3 * spec.multiples),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            dynamic_shapes=_dynamic_shapes(spec),
            optimize=False,
            verbose=False,
        )
        weights = dict(module.state_dict())
        graph = program.model.graph
        used = {value for node in graph for value in node.inputs if value is not None}
        kept = [value for name, value in graph.initializers.items() if name in weights and value in used]
        # The optimizer folds constants, but not inputs. So the weights are inputs while it runs.
        num_inputs = len(graph.inputs)
        graph.inputs.extend(kept)
        onnxscript.optimizer.optimize(program.model)
        del graph.inputs[num_inputs:]
    names = {value.name for value in kept}
    for name in names:
        graph.initializers[name].const_value = None
    return _stripped(program.model, weights), {name: weights[name] for name in sorted(names)}


def _dynamic_shapes(spec):
    batch = torch.export.Dim("batch", max=63)  # diffusers' upsamplers treat batches of 64 or more differently
    sides = {name: spec.multiples * torch.export.Dim(f"_{name}", min=1, max=512) for name in ("height", "width")}
    if spec.multiples == 1:
        sides = dict.fromkeys(sides, torch.export.Dim.DYNAMIC)
    dims = {"batch": batch, **sides}
    shapes = [{i: dims[n] for i, n in enumerate(shape) if n in dims} for shape in spec.inputs.values()]
    return tuple(shapes)


def _stripped(model, weights):
    """Converts the model to protobuf without weights, metadata and inferred shapes."""
    for name in weights:
        model.graph.initializers.pop(name, None)
    proto = onnx_ir.to_proto(model)
    for value in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer, proto.graph):
        del value.metadata_props[:]
        value.doc_string = ""
    del proto.metadata_props[:], proto.graph.value_info[:]
    proto.producer_name, proto.producer_version, proto.graph.name = "diffusers-ccld", "", "network"
    return proto


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences the log messages and warnings of the exporter. Its errors are exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
