"""`ccld export-onnx`."""

import argparse
from functools import partial
from pathlib import Path

from ..utils.requirements import install_command
from .arguments import add_option, require_model
from .outputs import require_writable
from .runtimes import MANIFEST_NAME, model_folder

HELP = "convert a pipeline to ONNX files, for runtimes without torch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add("folder", metavar="DIR", help='folder or Hub name of a pipeline, or "default" for the bundled model')
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder to write (default: DIR itself, whose weights the graphs then use)",
    )
    add(
        "--dtype",
        choices=["fp32", "fp16", "int8"],
        default="fp32",
        help="fp16: the U-Net computes in half precision, for WebGPU; int8: weights take a quarter of the space; the "
        "error is printed (default: %(default)s)",
    )
    add("--encoder", action="store_true", help="export the autoencoder's encoder, too")
    add_shared("--overwrite", help="replace an earlier export")


def check(args: argparse.Namespace) -> argparse.Namespace:
    if args.folder != "default":
        require_model(args.folder, "")
    if args.output is not None:
        require_writable(args.output)
    if args.output is None and args.dtype != "fp32":
        raise ValueError(f"--dtype {args.dtype} cannot use the pipeline's own weights: give --output, too.")
    _require_no_export(args.output or model_folder(args.folder), args.overwrite)
    return args


def _require_no_export(folder: Path, overwrite: bool) -> None:
    if (folder / MANIFEST_NAME).is_file() and not overwrite:
        raise ValueError(f"{folder} has an earlier export. Give --overwrite to replace it.")


def run(args: argparse.Namespace) -> None:
    """Write the networks of a pipeline as ONNX files, with a manifest that the ONNX runtime and the page in web/ read.
    Each network is compared with torch. If one differs too much, nothing is written."""
    try:
        from ..inference.loading import find_folder
        from ..onnx.export import ExportRequest, export
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnx_ir", "onnxscript", "onnxruntime"):
            raise
        raise ValueError(f"The export needs {error.name}: {install_command('onnx')}") from error

    if args.output is None:  # the folder of a model of the Hub is known only now
        _require_no_export(find_folder(args.folder), args.overwrite)
    manifest = export(ExportRequest(args.folder, args.output, args.dtype, args.encoder))
    print("network          graph, kB   weights, MB   largest difference   relative error")
    for name, network in manifest.networks.items():
        print(
            f"{name:15} {network.graph.size / 1e3:10.0f} {network.weights.size / 1e6:13.1f}"
            f" {network.difference:20.1e} {network.relative_error:16.1e}"
        )
    print(f"wrote {args.output or find_folder(args.folder)}")
