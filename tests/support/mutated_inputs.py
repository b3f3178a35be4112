#!/usr/bin/env python3
"""Damaged and foreign inputs of every other reader, which reads them or refuses them in a sentence with their name.

    mutated_inputs.py --count 2000

Inputs are folders of pictures and datasets, lists, metadata, records in PNG files, files of embeddings, indices of
pipelines, settings in YAML, and files of any kind in place of a checkpoint. Call n of a seed is always the same.
"""

import argparse
import collections
import dataclasses
import io
import json
import logging
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import datasets
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from tqdm import tqdm

from diffusers_ccld.cli.doubts import doubts_about, refuse_file_names
from diffusers_ccld.cli.inspect import as_lines, picture_facts
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.decoding import BadImageError, ImageLimits, open_picture
from diffusers_ccld.data.embedding_files import KIND, NUM_PATTERNS, EmbeddingFile
from diffusers_ccld.data.sources import find_examples, find_images
from diffusers_ccld.inference.provenance import read_provenance
from diffusers_ccld.original.inspection import inspect
from diffusers_ccld.pipelines.model_index import read_model_index
from diffusers_ccld.utils.first_bytes import describe_first_bytes
from diffusers_ccld.utils.text_lines import read_entries

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1251")
BEGINNINGS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    b"<!DOCTYPE html><html>",
    b"<?xml version='1.0'?><svg/>",
    b"PK\x03\x04",
    b"\x1f\x8b\x08",
    b"%PDF-1.7\n",
    b"\0\0\0\x18ftypheic",
    b"\0\0\0\x18ftyp",
    b"\xff\x0a",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"PAR1",
    b"GGUF",
    b"\x80\x02}",
    b"\x08\0\0\0\0\0\0\0{",
    b"{",
    b"[" * 5000,
    b"{'a': [" * 3000,
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"",
)
WORDS = (
    "a fox",
    "~",
    "# remark",
    "../x.png",
    "x" * 300,
    "# " + "y" * 300,
    "/",
    "\u2028",
    "Лиса",
    "a\0b",
    "p0.png",
    "",
)
NAMES = (
    *("p0.png", "train/p1.png", "test/p2.png", "validation/p3.jpg", "a/b/c/p4.webp", "p5", "P6.PNG", "p7.png~"),
    *(".p8.png", "__MACOSX/p9.png", "p10.heic", "p11.svg", "p12.png.bak", "p13.txt", "[a]*?.png", "лиса.png"),
    *("metadata.csv", "metadata.jsonl", "metadata.parquet", "train/metadata.csv", "test/metadata.jsonl", "README.md"),
    *("data/train-00000-of-00001.parquet", "x.parquet", "x.tar", "data.arrow"),
    *("dataset_info.json", "state.json", "dataset_dict.json"),
)


class Draw(random.Random):
    """The choices of one input."""

    def maybe(self, probability: float) -> bool:
        """True with a probability."""
        return self.random() < probability

    def noise(self, most: int = 200) -> bytes:
        """Random bytes, which begin like some format now and then."""
        begin = self.choice(BEGINNINGS) if self.maybe(0.6) else b""
        return begin + self.randbytes(self.randrange(most))

    def damaged(self, data: bytes) -> bytes:
        """A part of the data, or data with other bytes in some places."""
        data = bytearray(data)
        if self.maybe(0.3):
            return bytes(data[: self.randrange(len(data) + 1)])
        for _ in range(self.choice((0, 1, 5, 40)) if data else 0):
            data[self.randrange(len(data))] = self.randrange(256)
        return bytes(data)

    def value(self, depth: int = 0):
        """A value of JSON."""
        if depth < 3 and self.maybe(0.4):
            items = [self.value(depth + 1) for _ in range(self.randrange(3))]
            return items if self.maybe(0.5) else {self.choice(WORDS): item for item in items}
        return self.choice((*WORDS, None, True, 0, -1, 10**30, 1e308, float("nan"), [], {}))

    def json(self) -> bytes:
        """JSON in some encoding, damaged or deep now and then."""
        if self.maybe(0.05):
            return b"[" * 10**5
        text = json.dumps(self.value(), ensure_ascii=self.maybe(0.5))
        return self.damaged(text.encode(self.choice(ENCODINGS), "replace"))

    def text(self) -> bytes:
        """Lines in some encoding."""
        lines = self.choice(("\n", "\r\n", "\r")).join(self.choices(WORDS, k=self.randrange(6)))
        return self.damaged(lines.encode(self.choice(ENCODINGS), "replace"))

    def picture(self) -> bytes:
        """A picture, sound or damaged."""
        file = io.BytesIO()
        Image.new(self.choice(("RGB", "L", "RGBA")), (self.randrange(1, 60), 48)).save(file, "PNG")
        return file.getvalue() if self.maybe(0.6) else self.damaged(file.getvalue())

    def table(self) -> dict[str, list]:
        """Columns of a metadata file."""
        count = self.randrange(4)
        names = self.choices(("file_name", "image_file_name", "image", "text", "label"), k=self.randrange(1, 4))
        kinds = (("p0.png", "p1.png", "p2.png"), WORDS[:6], (1, 2), (None,), (1.5, None), (b"x",))
        return {name: self.choices(self.choice(kinds), k=count) for name in names}


def write(path: Path, data: bytes) -> Path:
    """Writes a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# An input of each kind, and what reads it


def any_file(draw, folder):
    """Files of any kind in place of a checkpoint, a picture or an embedding."""
    suffix = draw.choice((".ckpt", ".pkl", ".safetensors", ".pth", ""))
    path = write(folder / f"any{suffix}", draw.noise() if draw.maybe(0.7) else draw.text())
    describe_first_bytes(path.read_bytes())
    yield lambda: open_picture({"path": str(path), "bytes": None}, ImageLimits()), BadImageError, None
    yield lambda: EmbeddingFile.read(path), ValueError, path
    yield lambda: inspect(path), ValueError, path


def text_list(draw, folder):
    """Lists of pictures, prompts or styles."""
    path = write(folder / "list.txt", draw.text() if draw.maybe(0.8) else draw.noise())
    yield lambda: list(read_entries(path)), ValueError, path
    yield lambda: find_images(str(path)), ValueError, path


def prompts(draw, folder):
    """Prompts as they are typed."""
    typed = [*draw.choices(WORDS, k=2), draw.choice(WORDS) + draw.choice((":3", ":nan", ":", ":1e400", ":-2"))]
    yield lambda: (refuse_file_names(typed), doubts_about(typed)), ValueError, None


def png_record(draw, folder):
    """Records in PNG files, and chunks of other programs."""
    information = PngImagePlugin.PngInfo()
    record = {"conditions": draw.value(), "seed": draw.value(), "prompt": draw.value(), "steps": draw.value()}
    text = json.dumps(record) if draw.maybe(0.5) else draw.json().decode("latin-1")
    add = information.add_itxt if draw.maybe(0.3) else information.add_text
    add(draw.choice(("ccld", "ccld", "parameters")), text.replace("\0", " "), zip=draw.maybe(0.3))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=information)
    path = write(folder / "record.png", draw.damaged(file.getvalue()))
    yield lambda: read_provenance(path), (), path
    yield lambda: as_lines(picture_facts(path)), ValueError, path
    yield lambda: inspect(path), ValueError, path


def embedding_file(draw, folder):
    """Files of embeddings."""
    width, path = draw.choice((0, 1, 16)), folder / "style.safetensors"
    embedding = torch.ones(draw.choice(((width,), (1, width), ()))).to(
        draw.choice((torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64))
    )
    if embedding.is_floating_point() and draw.maybe(0.3):
        embedding.fill_(draw.choice((float("nan"), float("inf"), 0.0, 1e30)))
    origin = draw.choice((json.dumps(draw.value()), "[" * 10**5, "{}", "", "{}", "{}"))
    tensors = {"embedding": embedding, "fingerprint": torch.rand(NUM_PATTERNS, width)}
    if draw.maybe(0.2):
        tensors.pop(draw.choice(sorted(tensors)))
    metadata = {"kind": draw.choice((KIND, KIND, KIND, "other")), "origin": origin}
    save_file(tensors, path, metadata if draw.maybe(0.9) else None)
    path.write_bytes(draw.damaged(path.read_bytes()) if draw.maybe(0.5) else path.read_bytes())

    def read():
        file = EmbeddingFile.read(path)
        if abs(file.embedding.norm() - 1) > 0.01 or not torch.isfinite(file.fingerprint).all():
            raise AssertionError(f"read as {file.embedding}")

    yield read, ValueError, path


def model_index(draw, folder):
    """Indices and configurations of pipelines."""
    index = {"_class_name": draw.choice(("CCLDPipeline", draw.value())), "unet": draw.value(), "vae": draw.value()}
    data = json.dumps(index).encode(draw.choice(ENCODINGS)) if draw.maybe(0.5) else draw.json()
    write(folder / "model_index.json", data)
    write(folder / "unet" / "config.json", draw.json())
    yield lambda: read_model_index(folder), ValueError, folder
    yield lambda: inspect(folder), ValueError, folder


@dataclasses.dataclass
class Settings:
    """Settings of a script."""

    steps: int = 3
    prompt: str | None = None


def settings(draw, folder):
    """Settings in YAML."""
    data = draw.choice((draw.text(), draw.json(), draw.noise(), b"steps: 3\nprompt: " + draw.text(), b"? [" * 20000))
    path = write(folder / "settings.yaml", data)
    yield lambda: parse_config(Settings, "", ["--config", str(path)]), ValueError, path


def image_folder(draw, folder):
    """Folders of pictures and datasets, with what lies beside them."""
    for name in draw.sample(NAMES, draw.randrange(1, 8)):
        path = folder / name
        if draw.maybe(0.05):
            path.mkdir(parents=True, exist_ok=True)
        elif not path.is_dir():
            write(path, _content(draw, path))
    if draw.maybe(0.2):
        os.symlink(draw.choice((folder, folder / "missing", folder / "train")), folder / "link")
    if draw.maybe(0.2):
        with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
            file.write(draw.picture())
    split = draw.choice(("train", "train", "test", "all", "x"))
    yield lambda: list(find_images(str(folder), split).examples.select(range(1))), ValueError, folder
    yield lambda: list(find_examples(str(folder), split).examples.select(range(1))), ValueError, folder


def _content(draw, path):
    """What a file of a folder holds: mostly what its name says."""
    if draw.maybe(0.15):
        return draw.noise()
    if path.suffix in (".csv", ".jsonl", ".parquet"):
        columns = draw.table()
        columns = {name: [str(v) if isinstance(v, bytes) else v for v in values] for name, values in columns.items()}
        table, file = datasets.Dataset.from_dict(columns), io.BytesIO()
        {".csv": table.to_csv, ".jsonl": table.to_json, ".parquet": table.to_parquet}[path.suffix](file)
        return draw.damaged(file.getvalue()) if draw.maybe(0.2) else file.getvalue()
    if path.suffix == ".json":
        return draw.json()
    if path.suffix == ".md":
        return draw.choice(
            (b"# Title\n", b"---\n" + draw.text() + b"\n---\n", b"---\nconfigs: 3\n---\n", draw.noise())
        )
    return draw.picture() if path.suffix not in (".tar", ".txt") else draw.text()


KINDS = (any_file, text_list, prompts, png_record, embedding_file, model_index, settings, image_folder)


def complaints(root: Path, count: int, seed: int = 0, first: int = 0) -> tuple[list[str], collections.Counter]:
    """Complaints about how inputs were handled, and the number of readings by outcome."""
    found, ends = [], collections.Counter()
    for number in tqdm(range(first, first + count), unit="input", disable=None):
        kind, draw, folder = KINDS[number % len(KINDS)], Draw(f"{seed}/{number}"), root / "input"
        folder.mkdir()
        for read, refusal, path in kind(draw, folder):
            try:
                read()
                ends["read"] += 1
            except SystemExit:  # argparse refuses a value of a setting
                ends["refused"] += 1
            except Exception as error:
                ends["refused"] += 1
                text = str(error)
                is_sentence = text.endswith((".", ")", "opens", "pip install pillow-heif to open it")) or path is None
                names_it = path is None or path.name in text
                if not isinstance(error, refusal) or isinstance(error, UnicodeError):
                    found.append(f"{number} {kind.__name__}: {type(error).__name__}: {text[:300]}")
                elif not (is_sentence and names_it):
                    found.append(f"{number} {kind.__name__} is refused with: {text[:300]}")
        shutil.rmtree(folder)
    return found, ends


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="number of inputs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # damaged files are what it reads here
    with tempfile.TemporaryDirectory() as temporary:
        datasets.config.HF_DATASETS_CACHE = Path(temporary, "cache")
        found, ends = complaints(Path(temporary), args.count, args.seed, args.first)
    print("\n".join(found))
    print(f"{ends['read']} readings, {ends['refused']} refusals; complaints: {len(found)}")
    sys.exit(bool(found))
