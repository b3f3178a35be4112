#!/usr/bin/env python3
"""Measures how well a linear map of CLOOB's image embeddings names the subject, medium and palette of paintings.

The map is fitted to paintings of the combinations that models are trained on. Paintings of the held-out combinations
then tell whether the image encoder knows the parts of a combination, or whole combinations. Prints a Markdown table:

    python benchmarks/linear_probe.py --model default
"""

import torch
from PIL import Image
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.linear_probe import LinearProbe
from diffusers_ccld.evaluation.painting_scores import FIRST_FRESH_SEED, draw
from diffusers_ccld.evaluation.tables import table_head, table_row
from diffusers_ccld.inference.loading import find_model
from diffusers_ccld.paintings import Attributes, paint
from diffusers_ccld.utils.arguments import ArgumentParser

BATCH_SIZE = 100


@torch.no_grad()
def embed(pipe: CCLDPipeline, paintings: list[Attributes], first_seed: int, title: str) -> torch.Tensor:
    """Paints and embeds: (N, D)."""
    embeds = []
    with tqdm(total=len(paintings), desc=title, unit="painting") as bar:
        for first in range(0, len(paintings), BATCH_SIZE):
            batch = paintings[first : first + BATCH_SIZE]
            images = [Image.fromarray(paint(a, first_seed + first + i)) for i, a in enumerate(batch)]
            pixel_values = pipe.feature_extractor(images, return_tensors="pt").pixel_values
            embeds.append(pipe.image_encoder(pixel_values).image_embeds)
            bar.update(len(batch))
    return torch.cat(embeds)


def classes(paintings: list[Attributes]) -> torch.Tensor:
    """Numbers of subject, medium and palette, (N, 3)."""
    return torch.tensor([attributes.indices for attributes in paintings])


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="folder, Hub name, or default (default: %(default)s)")
    parser.add_argument("--fitted", type=int, default=8000, help="paintings to fit the map to (default: %(default)s)")
    parser.add_argument("--tested", type=int, default=1500, help="paintings of each test set (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if min(arguments.fitted, arguments.tested) < 1:
        raise ValueError("--fitted and --tested must be at least 1.")
    pipe = CCLDPipeline.from_pretrained(find_model(arguments.model))

    sets = {
        "to fit the map": draw(arguments.fitted, False, 13),
        "seen combinations": draw(arguments.tested, False, 14),
        "held-out combinations": draw(arguments.tested, True, 15),
    }
    seed, embeds, targets = FIRST_FRESH_SEED, {}, {}
    for title, paintings in sets.items():
        embeds[title], targets[title] = embed(pipe, paintings, seed, title), classes(paintings)
        seed += len(paintings)
    fitted, *tested = sets
    probe = LinearProbe(embeds[fitted], targets[fitted])
    print(table_head([*Attributes._fields, "all three"], "% right"))
    for title in tested:
        print(table_row(title, [f"{share:.1f}" for share in probe.shares_right(embeds[title], targets[title])]))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
