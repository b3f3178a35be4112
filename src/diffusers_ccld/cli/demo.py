"""`ccld demo`."""

import argparse
import os
import socket
import tempfile

from ..inference.devices import usable_device
from .arguments import add_compile_argument, add_device_arguments

HELP = "paint in the browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="DIR", help="folder or hub id of a pipeline (default: the small one of the package)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all of them (default: 127.0.0.1)")
    add("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    add("--queue-size", type=int, default=20, metavar="N", help="requests that may wait (default: 20)")
    add("--max-steps", type=int, default=150, metavar="N", help="steps that a request may have (default: 150)")
    add("--max-images", type=int, default=4, metavar="N", help="pictures that a request may have (default: 4)")
    add_device_arguments(parser)
    add_compile_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Serve a page to paint with: from prompts and pictures, with editing and inpainting. Nothing is fetched from
    elsewhere, and nothing is reported to anybody. Uploads are removed after an hour, and when it ends."""
    if not 1 <= args.port <= 65535:
        raise ValueError("--port must be a number from 1 to 65535.")
    if min(args.queue_size, args.max_steps, args.max_images) < 1:
        raise ValueError("--queue-size, --max-steps and --max-images must be at least 1.")
    try:
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        socket.create_server((args.host, args.port), family=family).close()
    except OSError as error:
        raise ValueError(f"--host {args.host} --port {args.port}: nothing can listen there. ({error})") from error
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError("The demo needs Gradio: pip install 'diffusers-ccld[demo]'") from error

    from ..inference.loading import load_pipeline

    # A folder of our own; by default Gradio shares one with all its other apps on the machine.
    with tempfile.TemporaryDirectory(prefix="ccld-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        from ..demo.page import build, launch
        from ..demo.painter import Painter
        from ..demo.requests import Limits

        pipe = load_pipeline(args.model, args.dtype, usable_device(args.device), compiled=args.compile)
        limits = Limits(num_inference_steps=args.max_steps, num_images=args.max_images)
        if args.compile:  # what the page asks for by default, so that few visitors wait for it
            guidance_scale = min(3.0, pipe.config.max_guidance_scale or 3.0)
            for num_images in range(1, limits.num_images + 1):
                print(f"compiling for {num_images} of {limits.num_images} pictures", flush=True)
                pipe("a painting", guidance_scale=guidance_scale, num_images_per_prompt=num_images)
        page = build(Painter(pipe), limits, is_bundled=args.model is None)
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(f"http://{host}:{args.port}", flush=True)
        launch(page, limits, args.host, args.port, args.queue_size)
