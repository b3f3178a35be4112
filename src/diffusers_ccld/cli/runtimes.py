"""What runs the networks of `ccld sample`: torch, or onnxruntime, which paints before torch would be imported."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

from ..schedulers.names import ONNX_ALGORITHMS
from ..utils.requirements import require_torch

RUNTIMES = ("auto", "torch", "onnx")
BUNDLED = Path(__file__).parents[1] / "default_model"
MANIFEST_NAME = "onnx.json"  # as in `onnx.manifest`


def chosen_runtime(args: argparse.Namespace) -> str:
    """Returns "torch" or "onnx", by default "onnx" for the bundled model and for folders that have only ONNX files.

    Where torch is not installed, the default is "onnx" for all folders that have ONNX files.

    Raises:
        ValueError: If the ONNX runtime was asked for with options that need torch, or what is needed is not installed.
    """
    if args.runtime == "torch":
        require_torch("--runtime torch")
        return "torch"
    needs_torch = options_for_torch(args)
    is_installed = find_spec("onnxruntime") is not None
    if args.runtime == "onnx":
        if needs_torch:
            raise ValueError(f"--runtime onnx does not have {', '.join(needs_torch)}; leave out --runtime.")
        if not is_installed:
            raise ValueError("--runtime onnx needs onnxruntime: pip install onnxruntime")
        return "onnx"
    if preferred_runtime(args) == "onnx":
        return "onnx"
    require_torch(", ".join(needs_torch) or f"--model {args.model or 'default'}")
    return "torch"


def preferred_runtime(args: argparse.Namespace) -> str:
    """The runtime of `--runtime auto`, installed or not."""
    folder = model_folder(args.model)
    has_onnx = os.path.isfile(folder / MANIFEST_NAME)
    torch_can = os.path.isfile(folder / "model_index.json") and find_spec("torch") is not None
    is_preferred = args.model is None or (has_onnx and not torch_can)
    is_possible = not options_for_torch(args) and find_spec("onnxruntime") is not None
    return "onnx" if is_preferred and is_possible else "torch"


def options_for_torch(args: argparse.Namespace) -> list[str]:
    """The given options that the ONNX runtime does not have."""
    given = {
        "--init": args.init is not None,
        "--edit": args.edit is not None,
        "--best": args.best is not None,
        "--cloob-guidance": bool(args.cloob_guidance),
        "--parallel-guidance": args.parallel_guidance != 1,
        "--embedding": bool(args.embedding),
        "--compile": args.compile,
        f"--device {args.device}": args.device not in (None, "cpu"),
        f"--dtype {args.dtype}": args.dtype not in ("auto", "fp32"),
        f"--algorithm {args.algorithm}": args.algorithm not in (None, *ONNX_ALGORITHMS),
    }
    return [option for option, is_given in given.items() if is_given]


def model_folder(model: str | None) -> Path:
    """The folder that `--model` names; that of the bundled model without one."""
    return BUNDLED if model in (None, "default") else Path(os.path.expanduser(model))


def name_of_model(model: str | None, article: str = "the") -> str:
    """The name of a model in a sentence; `article` begins that of the bundled model."""
    return f"{article} bundled model" if model in (None, "default") else model
