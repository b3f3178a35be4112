"""The weights of ONNX graphs, in safetensors files beside them.

An initialiser of an ONNX graph can be a range of bytes in another file. A safetensors file is a header, followed by
the bytes of its tensors. So the graphs of a pipeline can use the weights that are already in its folder. Graphs stay
below protobuf's limit of 2 GB, whatever the size of the network.
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

# Smaller weights are not quantised: that would save little space, but might add much error.
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
    """Lists the tensors of a safetensors file by name."""
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
    """Writes weights to a safetensors file, quantised or without loss.

    Without loss, a tensor is stored as float16 if this does not change any of its elements. Quantised weights are
    integers from −127 to 127. A second tensor with the suffix ".scale" has the scale of each output channel.
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
    """Makes a graph read its weights from a safetensors file, and convert them to the dtype that it computes in.

    Args:
        graph: The graph, without initialisers for the weights. It is changed in place.
        weights: The weights that the graph needs.
        folder: The folder that contains the graph.
        path: Path of the weight file in the folder, with slashes.
        prefix: Prefix of the graph's names of weights, which names in the file do not have.

    Raises:
        ValueError: If the file does not have a tensor, or has it with another shape or an unknown type.
    """
    stored = stored_tensors(folder / path)
    nodes = []
    for name, weight in weights.items():
        entry = stored.get(name.removeprefix(prefix))
        if entry is None or entry.shape != list(weight.shape) or entry.type not in ONNX_TYPES:
            raise ValueError(f"{folder / path} does not have a matching tensor {name.removeprefix(prefix)}.")
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
