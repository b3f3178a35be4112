#!/usr/bin/env python3
"""Builds the static page that paints in the browser: its own files, a model, and onnxruntime-web.

python web/build.py --output outputs/web --serve

The folder works on any host of static files. onnxruntime-web comes from npm once and is kept beside the output.
"""

import functools
import hashlib
import html.entities
import http.server
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "diffusers_ccld"  # not imported: this script needs no installation
BUNDLED = PACKAGE / "default_model"
PAGE = ("index.html", "style.css", "icon.svg", *sorted(path.name for path in HERE.glob("*.js")))

RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
RUNTIME_FILES = (
    "dist/ort.wasm.bundle.min.mjs",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
    "dist/ort.webgpu.bundle.min.mjs",
    "dist/ort-wasm-simd-threaded.asyncify.mjs",
    "dist/ort-wasm-simd-threaded.asyncify.wasm",
    "README.md",
)
HEADERS = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def of_package(name: str) -> dict[str, Any]:
    """The names of a module of the package's utils, which needs the standard library alone."""
    return runpy.run_path(str(PACKAGE / "utils" / f"{name}.py"))


def main(argv: list[str] | None = None) -> int:
    arguments = of_package("arguments")
    parser = arguments["ArgumentParser"](description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED, help="folder of `ccld export-onnx` (default: bundled)")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/web"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--runtime", type=Path, help=f"archive of {RUNTIME} (default: from the npm registry)")
    parser.add_argument("--serve", action="store_true", help="serve the folder afterwards")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 for all (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=arguments["whole"](0, 65535),
        default=8000,
        help="port to serve on, 0 for a free one; if it is taken, a free one is used (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    try:
        server = listen(args.output, args.host, args.port) if args.serve else None
        archive = args.runtime or fetch_runtime(args.output.with_name("onnxruntime-web.tgz"))
        build(args.model, archive, args.output)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.output}")
    if server is not None:
        serve(server, args.host)
    return 0


def fetch_runtime(path: Path) -> Path:
    """Downloads onnxruntime-web with npm, unless it is there, and returns its archive."""
    if not path.is_file():
        if shutil.which("npm") is None:
            raise ValueError(f"npm is needed once, to download {RUNTIME}; or give its archive as --runtime.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            subprocess.run(
                ["npm", "pack", "--silent", RUNTIME, "--pack-destination", folder],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            (archive,) = Path(folder).glob("*.tgz")
            archive.replace(path)
    return path


def build(model: Path, archive: Path, output: Path) -> None:
    """Writes the folder, which appears complete or not at all.

    Args:
        model: An exported model.
        archive: The npm archive of onnxruntime-web.
        output: The folder; one that was built before is replaced.
    """
    if output.exists() and any(output.iterdir()) and not (output / "service-worker.js").is_file():
        raise ValueError(f"{output} exists and was not built by this script; give another --output.")
    temporary = output.with_name(f".{output.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in PAGE:
        shutil.copyfile(HERE / name, temporary / name)
    copy_model(model, temporary / "model")
    (temporary / "model.json").write_text(json.dumps(description_of(model)), encoding="utf-8")
    unpack_runtime(archive, temporary / "runtime")
    (temporary / "entities.json").write_text(json.dumps(html.entities.html5, separators=(",", ":")))
    finish_service_worker(temporary)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(temporary, output)


def copy_model(model: Path, folder: Path) -> None:
    """Copies an exported model: its manifest, and the files that it lists."""
    manifest = model / "onnx.json"
    if not manifest.is_file():
        raise ValueError(f"{model} has no onnx.json. Export a pipeline with `ccld export-onnx`.")
    values = json.loads(manifest.read_text())
    files = [
        values["tokenizer"],
        *(network[kind] for network in values["networks"].values() for kind in ("graph", "weights")),
    ]
    for path in {"onnx.json", *(file["path"] for file in files)}:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / path, folder / path)


def description_of(model: Path) -> dict[str, Any]:
    """What the page says of a model: `bundled.json` for the bundled one; of others the name, prompts and words.

    "words" are those of a small vocabulary, for suggestions.
    """
    words, fingerprint_of = of_package("words"), of_package("fingerprints")["weights_fingerprint"]
    manifest, bundled = (json.loads((folder / "onnx.json").read_text()) for folder in (model, BUNDLED))
    fingerprint = fingerprint_of(manifest.get("sources", {}))
    known = sorted(words["whole_words"](words["vocabulary_of"](model)))
    facts = {"words": known, "fingerprint": fingerprint}
    if fingerprint == fingerprint_of(bundled["sources"]):
        return json.loads((HERE / "bundled.json").read_text(encoding="utf-8")) | facts
    folder, prompts = model.resolve(), words["prompts_for"](model)
    name = folder.parent.name if folder.name == "pipeline" else folder.name  # of a training's folder
    return {
        "name": f"the model {name}",
        "painter": f"The model {name}",
        "source": name,
        "prompt": prompts[0],
        "examples": prompts,
        "mix": [prompts[0], prompts[-1]],
        "about": f"Words that the model knows: {', '.join(known)}." if known else "",
        **facts,
    }


def unpack_runtime(archive: Path, folder: Path) -> None:
    """Takes the runtime's files out of its npm archive."""
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != RUNTIME_SHA256:
            raise ValueError(f"{archive} is not the archive of {RUNTIME}; delete it and try again.")
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for name in RUNTIME_FILES:
            source = tar.extractfile(f"package/{name}")
            (folder / Path(name).name).write_bytes(source.read())


def finish_service_worker(folder: Path) -> None:
    """Tells the service worker the names of the page's files, and a hash that changes with any file."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    names = ["./", *(name for name in PAGE if name != "service-worker.js"), "entities.json", "model.json"]
    script = folder / "service-worker.js"
    text = script.read_text().replace('"@FILES@"', ", ".join(map(json.dumps, names)))
    script.write_text(text.replace("@BUILD@", digest.hexdigest()[:16]))


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files with the headers that threads need."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args: object) -> None:
        """Prints nothing for each request."""


class ServerOfIPv6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


def make_server(folder: Path, port: int = 0, host: str = "127.0.0.1") -> http.server.ThreadingHTTPServer:
    """A server of a folder, by default on this machine only."""
    server = ServerOfIPv6 if ":" in host else http.server.ThreadingHTTPServer
    return server((host, port), functools.partial(Handler, directory=folder))


def listen(folder: Path, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """A server at a port, or at a free one if it is taken. Raises `ValueError` if nothing can listen at the host."""
    try:
        return make_server(folder, port, host)
    except OSError as error:
        reason = error
    try:
        server = make_server(folder, 0, host)
    except OSError as error:
        raise ValueError(f"--host {host}: nothing can listen there. ({error})") from error
    print(f"--port {port} cannot be used, so the page is served at another one. ({reason})", file=sys.stderr)
    return server


def serve(server: http.server.ThreadingHTTPServer, host: str) -> None:
    """Prints the server's address and serves until an interruption."""
    address_of = of_package("addresses")["address_of"]
    print(f"{address_of(host, server.server_port)}/  (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
