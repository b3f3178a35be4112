#!/usr/bin/env python3
"""Samples a grid of pictures, one for each line of a file of prompts; picture i has seed i.

python benchmarks/paint_prompts.py docs/images/prompts.txt --output docs/images/default-model.png
"""

from pathlib import Path

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.inference.sampling import sample
from diffusers_ccld.training.pipeline import read_prompts
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.pictures import image_grid, save_image


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path, help="text file with one prompt a line")
    parser.add_argument("--model", help="folder of a pipeline (default: the bundled model)")
    parser.add_argument("--columns", type=int, default=4, help="pictures a row (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    arguments = parser.parse_args(argv)
    if arguments.columns < 1:
        raise ValueError("--columns must be at least 1.")
    prompts = read_prompts(str(arguments.prompts))
    pipe = CCLDPipeline.from_pretrained(arguments.model or default_model())
    images = list(sample(pipe, range(len(prompts)), prompts))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_image(image_grid(images, columns=arguments.columns), arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
