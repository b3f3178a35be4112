"""The server of web/build.py, without a browser."""

import json
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from diffusers_ccld import default_model
from diffusers_ccld.utils.addresses import address_of
from diffusers_ccld.utils.fingerprints import folder_fingerprint
from diffusers_ccld.utils.words import unknown_words, vocabulary_of
from support.scripts import ROOT

SERVE = "import pathlib, runpy, sys; build = runpy.run_path(sys.argv[1]); host = sys.argv[3];"
SERVE += "build['serve'](build['listen'](pathlib.Path(sys.argv[2]), host, 0), host)"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_printed_address_opens_the_folder(host, tmp_path):
    (tmp_path / "index.html").write_text("pictures")
    command = [sys.executable, "-c", SERVE, str(ROOT / "web" / "build.py"), str(tmp_path), host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[0]
            with urlopen(address, timeout=5) as answer:
                assert answer.read() == b"pictures"
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(timeout=10) == 0
    port = address.rstrip("/").rpartition(":")[2]
    assert address == f"{address_of(host, int(port))}/"


def test_a_port_that_is_taken_is_replaced_and_a_wrong_host_is_one_line(tmp_path, capsys):
    build = runpy.run_path(str(ROOT / "web" / "build.py"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with build["listen"](tmp_path, "127.0.0.1", port) as server:
            assert server.server_port != port
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"--port {port} cannot be used, so the page is served at another one.")
    # 203.0.113.1 is reserved for examples: no machine has it.
    assert build["main"](["--serve", "--host", "203.0.113.1", "--output", str(tmp_path / "site")]) == 2
    assert "--host 203.0.113.1: nothing can listen there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", ["70000", "-1", "x"])
def test_a_wrong_port_is_one_line_with_its_range(port, tmp_path, capsys):
    build = runpy.run_path(str(ROOT / "web" / "build.py"))
    with pytest.raises(SystemExit) as end:
        build["main"](["--serve", "--port", port, "--output", str(tmp_path / "site")])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and f"--port: '{port}' is not a whole number from 0 to 65535" in line


def test_the_page_describes_its_own_model(tmp_path):
    describe = runpy.run_path(str(ROOT / "web" / "build.py"))["description_of"]
    bundled = describe(Path(default_model()))
    vocabulary = vocabulary_of(default_model())
    assert bundled["source"] == "default" and bundled["fingerprint"] == folder_fingerprint(default_model())
    assert "watercolor" in bundled["words"]
    assert not unknown_words(" ".join([bundled["prompt"], *bundled["examples"], *bundled["mix"]]), vocabulary)

    folder = tmp_path / "flowers" / "pipeline"
    (folder / "tokenizer").mkdir(parents=True)
    manifest = json.loads((Path(default_model()) / "onnx.json").read_text())
    manifest["sources"]["unet/diffusion_pytorch_model.safetensors"] = "0" * 64
    (folder / "onnx.json").write_text(json.dumps(manifest))
    tokens = {token: i for i, token in enumerate(["tulip</w>", "daisy</w>", "a</w>", "sy</w>"])}
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}}))
    (folder / "prompts.txt").write_text("a tulip\na red rose\n")
    description = describe(folder)
    assert description["fingerprint"] not in (None, bundled["fingerprint"])
    assert (
        description["examples"] == ["a tulip"] and description["about"] == "Words that the model knows: daisy, tulip."
    )
    assert description["name"] == "the model flowers" and description.keys() == bundled.keys()
    shutil.copytree(default_model(), tmp_path / "copy")
    assert describe(tmp_path / "copy") == bundled
