#!/usr/bin/env python3
"""Makes a trained pipeline small enough to be shipped: in half precision, without the traces of its training.

python training/bundle.py --pipeline DIR --card FILE --output src/diffusers_ccld/default_model
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.files import folder_moved_into_place


def bundle(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, required=True, help="the trained pipeline's folder")
    parser.add_argument("--card", type=Path, help="a model card, to go with it as README.md")
    parser.add_argument("--max_megabytes", type=float, default=12, help="refuse to be larger (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; what is there goes")
    arguments = parser.parse_args(argv)
    if not (arguments.pipeline / "model_index.json").is_file():
        raise ValueError(f"--pipeline {arguments.pipeline}: there is no pipeline.")
    if arguments.card is not None and not arguments.card.is_file():
        raise ValueError(f"--card {arguments.card}: there is no such file.")

    pipe = CCLDPipeline.from_pretrained(arguments.pipeline).to(torch.float16)
    with folder_moved_into_place(arguments.output) as temporary:
        pipe.save_pretrained(temporary)
        for path in [temporary / "model_index.json", *temporary.glob("*/config.json")]:
            config = json.loads(path.read_text())
            config.pop("_name_or_path", None)  # where it was trained
            if "dtype" in config:
                # transformers would load in the precision of the file: half is slow on a CPU, and less exact.
                config["dtype"] = "float32"
            path.write_text(json.dumps(config, indent=2) + "\n")
        if arguments.card is not None:
            shutil.copyfile(arguments.card, temporary / "README.md")
        megabytes = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file()) / 1e6
        if megabytes > arguments.max_megabytes:
            raise ValueError(f"It has {megabytes:.1f} MB, more than --max_megabytes {arguments.max_megabytes:g}.")
    print(f"wrote {arguments.output}, {megabytes:.1f} MB")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(bundle))
