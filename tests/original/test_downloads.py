"""Presets that fetch their files: without a network, from a folder, over HTTP."""

import hashlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile

import pytest
import torch

from diffusers_ccld import CCLDImg2ImgPipeline, CCLDInpaintPipeline, CCLDPipeline
from diffusers_ccld.cli import main
from diffusers_ccld.original.published import presets
from diffusers_ccld.original.published.facts import PUBLICATIONS
from diffusers_ccld.original.published.presets import PRESETS, PublishedFile
from diffusers_ccld.original.reading import downloads
from diffusers_ccld.original.reading.checkpoints import CheckpointError
from diffusers_ccld.original.reading.downloads import download, fetch, preset_files, unpack
from diffusers_ccld.pipelines.saving import ORIGINAL_REPOSITORIES
from support import original_files


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


@pytest.mark.parametrize("preset", PRESETS)
def test_without_a_network_the_files_are_named(preset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    assert convert("--preset", preset, "--output", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "cannot be downloaded" in message and "--source-dir" in message and "Traceback" not in message
    for file in PRESETS[preset].files.values():
        assert f"{file.name} from https://" in message
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_folder_that_lacks_files(preset, tmp_path, capsys):
    (tmp_path / PRESETS[preset].files["unet"].name).write_bytes(b"")
    assert convert("--preset", preset, "--source-dir", tmp_path, "--output", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert PRESETS[preset].files["unet"].name not in message
    assert all(file.name in message for name, file in PRESETS[preset].files.items() if name != "unet")


@pytest.fixture
def small_presets(monkeypatch):
    """The presets, with the widths of a U-Net that converts in moments, and its CLOOB's."""
    for name, preset in PRESETS.items():
        small = preset._replace(block_out_channels=(64, 64, 64, 64), cloob_config=None)
        monkeypatch.setitem(presets.PRESETS, name, small)
    monkeypatch.setattr(downloads, "sha256", lambda path: path.stem.rpartition("-")[2])


@pytest.mark.parametrize("preset", PRESETS)
def test_files_in_a_folder(preset, small_presets, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    source, files = tmp_path / "source", PRESETS[preset].files
    source.mkdir()
    original_files.write_unet(source / files["unet"].name, "tiny-64")
    original_files.write_cloob(source / files["cloob"].name, "tiny")
    original_files.write_autoencoder(source / "ae.ckpt", "kl-f8-tiny")
    (source / "ae.yaml").rename(source / files["autoencoder_config"].name)
    if files["autoencoder"].member is None:
        (source / "ae.ckpt").rename(source / files["autoencoder"].name)
    else:
        with zipfile.ZipFile(source / files["autoencoder"].name, "w") as archive:
            archive.write(source / "ae.ckpt", files["autoencoder"].member)
    assert convert("--preset", preset, "--source-dir", source, "--output", tmp_path / "out") == 0
    pipe = CCLDPipeline.from_pretrained(tmp_path / "out")
    assert pipe.vae.config.scaling_factor == pytest.approx(1 / PRESETS[preset].autoencoder_scale)
    report = json.loads((tmp_path / "out" / "conversion_report.json").read_text())
    assert len(report["sources"]) == 3
    assert f"# {PUBLICATIONS[preset].title}\n" in (tmp_path / "out" / "README.md").read_text()
    assert convert("--preset", preset, "--source-dir", source, "--output", tmp_path / "out") == 2


def test_a_pickle_of_another_content_is_refused(tmp_path, capsys):
    for file in PRESETS["wikiart"].files.values():
        (tmp_path / file.name).write_bytes(b"something")
    assert convert("--preset", "wikiart", "--source-dir", tmp_path, "--output", tmp_path / "out") == 2
    assert "its SHA-256 differs" in capsys.readouterr().err


def test_unpacked_archives_will_do(tmp_path, small_presets):
    for file in PRESETS["yfcc"].files.values():
        (tmp_path / (file.member or file.name)).write_bytes(b"something")
    assert preset_files("yfcc", tmp_path)["autoencoder"] == tmp_path / "model.ckpt"


@pytest.mark.parametrize("repository, preset", ORIGINAL_REPOSITORIES.items())
@pytest.mark.parametrize("loader", [CCLDPipeline, CCLDImg2ImgPipeline, CCLDInpaintPipeline])
def test_repositories_of_the_original_say_what_to_do(loader, repository, preset):
    assert preset in PRESETS
    with pytest.raises(ValueError, match=f"ccld convert --preset {preset} --output DIR"):
        loader.from_pretrained(repository)


def test_other_pipelines_load_as_diffusers_has_it():
    code = """
from diffusers import DiffusionPipeline
own = DiffusionPipeline.__dict__.copy()
import diffusers_ccld
assert DiffusionPipeline.__dict__ == own
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_arguments_that_do_not_go_together(originals, tmp_path, capsys):
    out = ("--output", tmp_path / "out")
    for arguments in (("--source-dir", tmp_path), ("--source-dir", tmp_path, "--unet", originals.unet)):
        assert convert(*arguments, *out) == 2
        assert "--preset" in capsys.readouterr().err


# Over HTTP

CONTENT = bytes(range(256)) * 20_000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT`, and breaks off the first time it is asked for "broken"."""

    asked: list = []

    def do_GET(self):
        first = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        self.asked.append((self.path, first))
        if self.path == "/missing":
            self.send_error(404)
            return
        if first >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if first and self.path != "/whole" else 200)
        first = 0 if self.path == "/whole" else first
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        breaks = self.path == "/broken" and sum(path == "/broken" for path, _ in self.asked) == 1
        self.wfile.write(CONTENT[first : len(CONTENT) // 2 if breaks else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_broken_download_goes_on(server, tmp_path):
    path = tmp_path / "deep" / "file"
    with pytest.raises(OSError, match="to resume there"):
        download(f"{server}/broken", path)
    assert not path.exists()
    download(f"{server}/broken", path)
    assert path.read_bytes() == CONTENT and [first for _, first in Server.asked] == [0, len(CONTENT) // 2]
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".lock"] == ["file"]


def test_a_server_that_always_begins_at_the_beginning(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    download(f"{server}/whole", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_download_that_was_complete_but_for_its_name(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(f"{server}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"from another run")
    with pytest.raises(CheckpointError, match="Try again"):
        download(f"{server}/file", tmp_path / "file")
    download(f"{server}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_two_processes_download_once(server, tmp_path):
    threads = [threading.Thread(target=download, args=(f"{server}/file", tmp_path / "file")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() == CONTENT and len(Server.asked) == 1


def test_fetching_checks_the_content_and_happens_once(server, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    good = PublishedFile("good", url=f"{server}/file", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert fetch(good, tmp_path) == fetch(good, tmp_path) == tmp_path / "good"
    assert len(Server.asked) == 1
    with pytest.raises(CheckpointError, match="is not the published file"):
        fetch(good._replace(name="bad", sha256="0" * 64), tmp_path)
    assert not (tmp_path / "bad").exists()
    with pytest.raises(OSError, match="404"):
        fetch(PublishedFile("missing", url=f"{server}/missing"), tmp_path)


def test_damaged_archives_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("other.ckpt", b"x")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("model.ckpt", b"x" * 1000)
    damaged = bytearray((tmp_path / "c.zip").read_bytes())
    damaged[100] ^= 1
    (tmp_path / "c.zip").write_bytes(damaged)
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.ckpt", b"x" * 10**6)
    with pytest.raises(CheckpointError, match="expands to an implausible size"):
        unpack(tmp_path / "d.zip", "model.ckpt", tmp_path / "cache")
    for name in ("a.zip", "b.zip", "c.zip"):
        with pytest.raises(CheckpointError, match=r"is damaged, or has no model\.ckpt"):
            unpack(tmp_path / name, "model.ckpt", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
