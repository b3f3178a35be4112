"""What runs the networks of `ccld sample`: torch, or onnxruntime, which paints before torch would be imported."""

import argparse
import importlib.util
from pathlib import Path

from ..schedulers.names import ONNX_ALGORITHMS

RUNTIMES = ("auto", "torch", "onnx")
BUNDLED = Path(__file__).parents[1] / "default_model"
MANIFEST_NAME = "onnx.json"  # as in `onnx.manifest`


def chosen_runtime(args: argparse.Namespace) -> str:
    """Returns "torch" or "onnx", by default "onnx" for the bundled model and for folders that have only ONNX files.

    Raises:
        ValueError: If the ONNX runtime was asked for with options that need torch, or is not installed.
    """
    if args.runtime == "torch":
        return "torch"
    needs_torch = options_for_torch(args)
    is_installed = importlib.util.find_spec("onnxruntime") is not None
    if args.runtime == "onnx":
        if needs_torch:
            raise ValueError(f"--runtime onnx does not have {', '.join(needs_torch)}; leave out --runtime.")
        if not is_installed:
            raise ValueError("--runtime onnx needs onnxruntime: pip install onnxruntime")
        return "onnx"
    is_preferred = args.model is None or _has_only_onnx(Path(args.model).expanduser())
    return "onnx" if is_preferred and not needs_torch and is_installed else "torch"


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


def onnx_folder(model: str | None) -> Path:
    """The folder of ONNX files that `--model` names; that of the bundled model without one."""
    return BUNDLED if model in (None, "default") else Path(model).expanduser()


def _has_only_onnx(folder: Path) -> bool:
    return (folder / MANIFEST_NAME).is_file() and not (folder / "model_index.json").is_file()
