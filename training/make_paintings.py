#!/usr/bin/env python3
"""Paints a collection of pictures by code, with captions, and saves it as a dataset.

python training/make_paintings.py --num-images 60000 --seed 1 --output DIR
"""

from pathlib import Path

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.paintings import make_dataset
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import folder_moved_into_place


def make_paintings(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=60_000, help="number of paintings (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the paintings (default: %(default)s)")
    parser.add_argument("--held-out", action="store_true", help="paint only the held-out combinations")
    parser.add_argument("--num-proc", type=int, default=2, help="number of processes (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args(argv)
    if arguments.num_images < 1 or arguments.num_proc < 1:
        raise ValueError("--num-images and --num-proc must be at least 1.")
    with folder_moved_into_place(arguments.output) as temporary:
        if arguments.output.exists():
            raise ValueError(f"{arguments.output} already exists; give a new folder.")
        paintings = make_dataset(
            arguments.num_images, seed=arguments.seed, held_out=arguments.held_out, num_proc=arguments.num_proc
        )
        paintings.save_to_disk(temporary)
    print(f"wrote {len(paintings):,} paintings to {arguments.output}")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(make_paintings))
