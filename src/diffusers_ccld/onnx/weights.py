"""The weights of ONNX graphs, in safetensors files beside them.

ONNX lets a graph take an initialiser from a range of bytes of another file, and a safetensors file is a header before
the bytes of its tensors. So the graphs of a pipeline can use the weights that are already in its folder, and a network
of several gigabytes does not meet protobuf's limit of 2 GB.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save

ONNX_TYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "I8": TensorProto.INT8}
FLOATS = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}

# Weights with fewer elements are not quantised: their share of the file is small, that of the error may not be.
SMALLEST_QUANTISED = 4096


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        type: Its type, as safetensors names it.
        shape: Its shape.
        offset: Its first byte in the file.
        length: Its number of bytes.
    """

    type: str
    shape: list[int]
    offset: int
    length: int


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(entry["dtype"], entry["shape"], 8 + length + start, end - start)
        for name, entry in header.items()
        for start, end in [entry["data_offsets"]]
    }


def store(weights: dict[str, torch.Tensor], path: Path, quantise: bool) -> None:
    """Writes weights, as small as they can be without loss.

    float32 numbers are stored as float16 where none of a tensor changes by it. Quantised weights are whole numbers
    from −127 to 127 with a scale for each output channel, in a second tensor with the suffix ".scale".
    """
    tensors = {}
    for name, weight in weights.items():
        weight = weight.detach().contiguous()
        half = weight.to(torch.float16)
        if quantise and weight.ndim > 1 and weight.numel() >= SMALLEST_QUANTISED:
            scale = weight.float().flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
            rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
            tensors[name], tensors[f"{name}.scale"] = (weight.float() / rows).round().to(torch.int8), scale
        else:
            tensors[name] = half if torch.equal(half.to(weight.dtype), weight) else weight.clone()
    path.write_bytes(save(tensors))  # `save_file` makes a file that only its owner can read


def connect(graph: onnx.ModelProto, weights: dict[str, torch.Tensor], folder: Path, path: str, prefix: str) -> None:
    """Gives a graph its weights from a safetensors file, converted to the type that the graph computes in.

    Args:
        graph: The graph, without initialisers for the weights. It is changed.
        weights: The weights that the graph needs.
        folder: The folder of the graph.
        path: The file of the weights in the folder, with slashes.
        prefix: What the names in the file lack at their beginning.

    Raises:
        ValueError: If the file does not have a tensor, or not with these values' shape.
    """
    stored = stored_tensors(folder / path)
    nodes = []
    for name, weight in weights.items():
        entry = stored.get(name.removeprefix(prefix))
        if entry is None or entry.shape != list(weight.shape) or entry.type not in ONNX_TYPES:
            raise ValueError(f"{folder / path} does not have {name.removeprefix(prefix)} as the network needs it.")
        wanted = FLOATS[weight.dtype]
        source = name if ONNX_TYPES[entry.type] == wanted else f"{name}.stored"
        graph.graph.initializer.append(_external(source, entry, path))
        if entry.type == "I8":
            scale = stored[f"{name.removeprefix(prefix)}.scale"]
            graph.graph.initializer.append(_external(f"{name}.scale", scale, path))
            nodes.append(helper.make_node("DequantizeLinear", [source, f"{name}.scale"], [name], axis=0))
        elif source != name:
            nodes.append(helper.make_node("Cast", [source], [name], to=wanted))
    nodes += graph.graph.node
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _external(name, entry, path):
    tensor = TensorProto(name=name, dims=entry.shape, data_type=ONNX_TYPES[entry.type])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", path), ("offset", entry.offset), ("length", entry.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
