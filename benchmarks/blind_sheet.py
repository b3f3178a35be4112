#!/usr/bin/env python3
"""Makes a sheet of numbered pictures without their prompts, for readers who name what they see, and scores them.

    python benchmarks/blind_sheet.py --output blind.png
    python benchmarks/blind_sheet.py --key blind.json --answers reader.json

The first command also writes the key, blind.json: subject, medium and palette of each picture. Give readers only the
picture. Their answers are a JSON file such as {"1": {"subject": "boat", "medium": "ink"}}, in the key's words.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.blind_sheet import blind_key, blind_sheet, draw_blind, score_reading
from diffusers_ccld.evaluation.painting_scores import complete_caption, sample_all
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import write_text
from diffusers_ccld.utils.pictures import save_image


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a pipeline (default: the bundled model)")
    parser.add_argument("--count", type=int, default=24, help="pictures on the sheet (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the combinations and pictures (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="PNG file to write; the key is beside it, with the suffix .json")
    parser.add_argument("--key", type=Path, help="key of a sheet, to score answers")
    parser.add_argument("--answers", type=Path, nargs="+", help="answers of readers, a JSON file each")
    arguments = parser.parse_args(argv)
    if arguments.output is None and arguments.answers is None:
        raise ValueError("Give --output to make a sheet, or --key and --answers to score readers.")
    if (arguments.key is None) != (arguments.answers is None):
        raise ValueError("--key and --answers belong together.")
    if arguments.count < 1 or arguments.seed < 0:
        raise ValueError("--count must be at least 1, and --seed must not be negative.")
    return arguments


def make_sheet(arguments: argparse.Namespace) -> None:
    """Samples the sheet's pictures and writes sheet and key."""
    pipe = CCLDPipeline.from_pretrained(arguments.model or default_model())
    pipe.set_progress_bar_config(disable=True)
    combinations = draw_blind(arguments.count, arguments.seed)
    prompts = [complete_caption(attributes, arguments.seed + i) for i, attributes in enumerate(combinations)]
    images = sample_all(pipe, prompts, batch_size=8)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_image(blind_sheet(images), arguments.output)
    key = arguments.output.with_suffix(".json")
    write_text(key, json.dumps(blind_key(combinations), indent=2) + "\n")
    print(f"wrote {arguments.output} and its key {key}")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a key or answers.

    Raises:
        ValueError: If the file is missing, or is not a JSON object of objects.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable JSON file. ({error})") from error
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise ValueError(f'{path} must be like {{"1": {{"subject": "boat"}}}}.')
    return value


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.output is not None:
        make_sheet(arguments)
    for path in arguments.answers or ():
        scores = score_reading(read_json(arguments.key), read_json(path))
        found = ", ".join(f"{attribute} {right} of {asked}" for attribute, (right, asked) in scores.items())
        print(f"{path}: {found}")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
