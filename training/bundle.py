#!/usr/bin/env python3
"""Makes a trained pipeline small enough to ship: in half precision, without traces of its training.

python training/bundle.py --pipeline DIR --card FILE --output src/diffusers_ccld/default_model
"""

import json
from pathlib import Path

import torch

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.arguments import add_hub_arguments, chosen_repository, require_file, require_folder
from diffusers_ccld.sharing.base_models import CARD_NAME
from diffusers_ccld.sharing.hub import forget_places, push_folder
from diffusers_ccld.sharing.model_cards import PIPELINE, copy_card, save_card, table
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import folder_moved_into_place


def bundle(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=Path, required=True, help="the trained pipeline's folder")
    parser.add_argument(
        "--card", type=Path, help="a model card for its README.md (default: that of the pipeline, or a short one)"
    )
    parser.add_argument("--part", choices=["unet"], help="bundle only this part (default: the whole pipeline)")
    parser.add_argument("--max-megabytes", type=float, default=12, help="most megabytes (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it is replaced if it exists")
    add_hub_arguments(parser)
    arguments = parser.parse_args(argv)
    require_folder(arguments.pipeline, "--pipeline")
    if not (arguments.pipeline / "model_index.json").is_file():
        raise ValueError(f"--pipeline {arguments.pipeline}: not a pipeline; it has no model_index.json.")
    if arguments.card is not None:
        require_file(arguments.card, "--card")
    if arguments.part is not None and (arguments.card is not None or arguments.push_to_hub):
        raise ValueError("--part has neither a card nor an upload: leave out --card and --push-to-hub.")
    name = arguments.output.resolve().name
    hub_name = chosen_repository(arguments, name)

    pipe = CCLDPipeline.from_pretrained(arguments.pipeline).to(torch.float16)
    with folder_moved_into_place(arguments.output) as temporary:
        (pipe if arguments.part is None else pipe.components[arguments.part]).save_pretrained(temporary)
        forget_places(temporary)
        for path in temporary.rglob("config.json"):
            config = json.loads(path.read_text(encoding="utf-8"))
            if "dtype" in config:
                # transformers loads in the precision of the file by default. Half is slow on a CPU, and less exact.
                config["dtype"] = "float32"
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if arguments.part is None:
            add_card(temporary, arguments.card or arguments.pipeline / CARD_NAME, hub_name or name, pipe)
        megabytes = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file()) / 1e6
        if megabytes > arguments.max_megabytes:
            raise ValueError(f"It has {megabytes:.1f} MB, more than --max-megabytes {arguments.max_megabytes:g}.")
    print(f"wrote {arguments.output}, {megabytes:.1f} MB")
    if hub_name is not None:
        print(f"uploaded to {push_folder(arguments.output, hub_name)}")


def add_card(folder: Path, card: Path, name: str, pipe: CCLDPipeline) -> None:
    """Copies the card and the pictures that it shows, or writes a short one if it is missing."""
    if card.is_file():
        return copy_card(card, folder)
    facts = {
        part: f"{component.num_parameters():,} parameters"
        for part, component in pipe.components.items()
        if hasattr(component, "num_parameters")
    }
    save_card(folder, PIPELINE, name, f"## Its parts, in half precision\n\n{table(facts)}")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(bundle))
