"""`ccld demo`."""

import argparse
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from functools import partial

from ..utils.addresses import address_of
from ..utils.arguments import whole
from ..utils.requirements import install_command
from .arguments import add_option, require_model
from .runtimes import MANIFEST_NAME, model_folder

HELP = "serve a page to paint in the browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add_shared("--model")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: %(default)s)")
    add("--port", type=whole(1, 65535), default=7860, help="port to listen on (default: %(default)s)")
    add(
        "--queue-size",
        type=whole(1),
        default=20,
        metavar="N",
        help="maximum number of waiting requests (default: %(default)s)",
    )
    add(
        "--max-steps",
        type=whole(1),
        default=150,
        metavar="N",
        help="maximum number of steps of a request (default: %(default)s)",
    )
    add(
        "--max-images",
        type=whole(1),
        default=4,
        metavar="N",
        help="maximum number of pictures of a request (default: %(default)s)",
    )
    add("--mcp", action="store_true", help="also serve the painter as tools for MCP clients, at /gradio_api/mcp/")
    add_shared("--device")
    add_shared("--dtype")
    add_shared("--compile")
    add(
        "--runtime",
        choices=["torch", "onnx"],
        default="torch",
        help="what runs the U-Net and the decoder: torch, or onnxruntime on the CPU, for the bundled model and for "
        "folders to which `ccld export-onnx` added ONNX files (default: %(default)s)",
    )


def check(args: argparse.Namespace) -> argparse.Namespace:
    require_model(args.model)
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(f"The demo needs Gradio: {install_command('demo')}")
    if args.mcp and importlib.util.find_spec("mcp") is None:
        raise ValueError(f"--mcp needs the package mcp: {install_command('mcp')}")
    if args.runtime == "onnx":
        _check_onnx(args)
    _check_address(args.host, args.port)
    return args


def _check_onnx(args):
    if args.compile or args.device not in (None, "cpu") or args.dtype not in ("auto", "fp32"):
        raise ValueError("--runtime onnx computes in fp32 on the CPU: leave out --compile, --device and --dtype.")
    if not (model_folder(args.model) / MANIFEST_NAME).is_file():
        raise ValueError(f"--runtime onnx: --model {args.model} has no ONNX files. `ccld export-onnx DIR` adds them.")


def run(args: argparse.Namespace) -> None:
    """Serve a page that paints from prompts and pictures, edits and inpaints. It fetches nothing from elsewhere and
    sends no telemetry. Uploads are removed after an hour, and when the server ends."""
    from ..inference.devices import usable_device
    from ..inference.loading import load_pipeline

    # A folder of our own; by default Gradio shares one with all its other apps on the machine.
    with tempfile.TemporaryDirectory(prefix="ccld-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        from ..demo.page import build, launch
        from ..demo.painter import Painter
        from ..demo.requests import Limits
        from ..demo.tools import MCP_PATH

        is_onnx = args.runtime == "onnx"
        dtype, device = ("fp32", "cpu") if is_onnx else (args.dtype, args.device)
        pipe = load_pipeline(args.model, dtype, usable_device(device), compiled=args.compile)
        if is_onnx:
            from ..onnx.acceleration import run_by_onnxruntime

            run_by_onnxruntime(pipe, model_folder(args.model))
        limits = Limits(num_inference_steps=args.max_steps, num_images=args.max_images)
        if args.compile:
            _compile(pipe, limits.num_images)
        page = build(Painter(pipe, args.model, args.runtime), limits, with_tools=args.mcp)
        address = address_of(args.host, args.port)
        print(address, flush=True)
        if args.mcp:
            print(f"for MCP clients: {address}{MCP_PATH}", flush=True)
        try:
            launch(page, limits, args.host, args.port, args.queue_size)
        except KeyboardInterrupt:
            shutil.rmtree(folder, ignore_errors=True)
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(130)  # a regular end would wait for open pages and for the painting


def _check_address(host, port):
    """Raises `ValueError` if nothing can listen at the address."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port}: nothing can listen there; choose another --port. ({error})"
        ) from error


def _compile(pipe, max_images):
    """Samples with the settings that the page starts with, so that few visitors wait for the compiler."""
    for num_images in range(1, max_images + 1):
        print(f"compiling for {num_images} of {max_images} pictures", flush=True)
        pipe("a painting", num_images_per_prompt=num_images)
