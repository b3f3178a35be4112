#!/usr/bin/env python3
"""Measures pictures that models of paintings sample from texts, by text encoder, guidance scale and variation.

    python benchmarks/text_and_image.py "as it was=DIR@3" fit=default@1.75 fit=default@1.75:0.3 --output DIR

Each row is a pipeline, its guidance scale and, after colons, its variation and its parallel_guidance. A judge reads
the attributes off the pictures, as in evaluate_default.py. A cell is the mean over the seeds, ± half their difference.
The same command resumes an interrupted run. --picture draws the same prompts and seeds by each row, and paintings by
the program in the last.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.compared_models import ComparedModel, find_models
from diffusers_ccld.evaluation.judge import Judge
from diffusers_ccld.evaluation.painting_scores import (
    FIRST_FRESH_SEED,
    PICTURES_FOR_DIVERSITY,
    agreement_by_split,
    evaluation_set,
    fresh_paintings,
    likeness,
    minutes_to_sample,
    relative_diversity,
    sample_all,
)
from diffusers_ccld.evaluation.sheets import sheet
from diffusers_ccld.evaluation.tables import markdown_table
from diffusers_ccld.inference.devices import usable_device
from diffusers_ccld.inference.loading import load_pipeline
from diffusers_ccld.inference.sampling import sample
from diffusers_ccld.models.embedding_gap import EmbeddingGap, embedding_gap
from diffusers_ccld.paintings import Attributes
from diffusers_ccld.pipelines.conditions import Prompts
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import moved_into_place, write_text

JUDGE = Path(__file__).parents[1] / "weights" / "judge"
RESULTS = "cells.json"
SEED_STRIDE = 1_000_000
PICTURED = {"a sailing boat at sunset, watercolor": Attributes("boat", "watercolor", "sunset")}
PICTURED |= {"still life with fruit in summer, oil painting": Attributes("fruit", "oil", "summer")}
SEEDS_PICTURED = range(4)


class Case(NamedTuple):
    """Settings of the call."""

    guidance_scale: float
    variation: float
    parallel_guidance: float

    @property
    def name(self) -> str:
        """Its name in tables and on the picture."""
        names = [f"guidance {self.guidance_scale:g}"]
        names += [f"variation {self.variation:g}"] if self.variation else []
        names += [f"parallel {self.parallel_guidance:g}"] if self.parallel_guidance != 1 else []
        return ", ".join(names)


def parse_row(text: str) -> tuple[str, Case]:
    """Parses "fit=default@1.75", or with a variation "fit=default@1.75:0.3", into the model and the case.

    A third number is the share of the guidance's parallel part.
    """
    model, _, case = text.rpartition("@")
    guidance_scale, variation, parallel = (case.split(":") + ["0", "1"][case.count(":") :])[:3]
    return model, Case(float(guidance_scale), float(variation), float(parallel))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rows",
        nargs="+",
        type=parse_row,
        metavar="NAME=DIR@G[:V[:P]]",
        help="pipeline, guidance scale, variation, share",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="runs of each cell (default: 0 1)")
    parser.add_argument("--prompts", type=int, default=1000, help="number of prompts (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=25, help="pictures sampled at once (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="precision (default: bf16 if the hardware computes in it)")
    parser.add_argument("--picture", type=Path, metavar="JPEG", help="only draw this picture")
    parser.add_argument("--output", type=Path, help="folder of the measurements and the table")
    parser.add_argument("--dry-run", action="store_true", help="sample one batch, and print the time of all cells")
    arguments = parser.parse_args(argv)
    if arguments.prompts < 10 or arguments.batch_size < 1:
        raise ValueError("--prompts must be at least 10, and --batch-size at least 1.")
    if (arguments.picture is None) == (arguments.output is None):
        raise ValueError("Give either --output, for a table, or --picture.")
    if arguments.picture and arguments.dry_run:
        raise ValueError("--dry-run is for the table of --output.")
    return arguments


def measure(
    pipe: CCLDPipeline, judge: Judge, case: Case, seed: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Measures one cell for one seed."""
    combinations = evaluation_set(arguments.prompts)
    paintings = fresh_paintings(combinations.attributes)
    options, first_seed = case._asdict(), seed * SEED_STRIDE
    images = sample_all(pipe, combinations.prompts, arguments.batch_size, options, first_seed)
    every, _, held_out = agreement_by_split(judge, images, combinations, "all").values()
    return {
        "all three right, %": every["all three"],
        "of held-out combinations": held_out["all three"],
        "Fréchet distance": likeness(judge, images, paintings)["Fréchet"],
        "diversity, %": relative_diversity(pipe, judge, options, first_seed)["of the judge's features"],
    }


@torch.no_grad()
def gap_of(pipe: CCLDPipeline, variation: float, num_prompts: int) -> EmbeddingGap:
    """The gap of complete captions and fresh paintings, which neither CLOOB nor the fit has seen."""
    combinations = evaluation_set(num_prompts)
    paintings = fresh_paintings(combinations.attributes, 2 * FIRST_FRESH_SEED)
    image_embeds = torch.cat([pipe.encode_image(paintings[i : i + 50]) for i in range(0, num_prompts, 50)])
    guidance = pipe.prepare_guidance(Prompts(prompt=combinations.prompts))
    text_embeds = pipe.vary_texts(guidance, variation, torch.Generator().manual_seed(0)).condition_embeds[:, 0]
    return embedding_gap(image_embeds.float().cpu(), text_embeds.float().cpu())


def known_cells(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The measurements that the folder has, by their keys."""
    path = arguments.output / RESULTS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keys_of(model: ComparedModel, case: Case, arguments: argparse.Namespace) -> list[str]:
    """The keys of a cell's measurements, one for each seed."""
    return [f"{model.identity} {case.name} {arguments.prompts} {arguments.dtype} {s}" for s in arguments.seeds]


def describe(cells: list[tuple[ComparedModel, Case]], arguments: argparse.Namespace) -> None:
    """Prints how many measurements the folder lacks, and how long their pictures take by the first model."""
    known = known_cells(arguments)
    missing = [key for model, case in cells for key in keys_of(model, case, arguments) if key not in known]
    count = len(missing) * (arguments.prompts + PICTURES_FOR_DIVERSITY)
    (model, case), *_ = cells
    pipe = load_pipeline(model.folder, arguments.dtype, usable_device(None))
    pipe.set_progress_bar_config(disable=True)
    prompts = evaluation_set(arguments.prompts).prompts
    minutes = minutes_to_sample(pipe, prompts, count, arguments.batch_size, case._asdict())
    print(f"{len(missing)} measurements, {count:,} pictures: {minutes:.0f} minutes; nothing was written")


def measure_all(cells: list[tuple[ComparedModel, Case]], arguments: argparse.Namespace) -> None:
    """Measures all cells that the folder lacks, and prints and writes the table."""
    judge, device = Judge.from_pretrained(JUDGE).eval(), usable_device(None)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / RESULTS
    known = known_cells(arguments)
    rows: dict[str, dict[str, str]] = {}
    for model, case in tqdm(cells, desc="Measuring", unit="cell"):
        pipe = load_pipeline(model.folder, arguments.dtype, device)
        pipe.set_progress_bar_config(disable=True)
        keys = keys_of(model, case, arguments)
        for seed, key in zip(arguments.seeds, keys):
            if key not in known:
                known[key] = measure(pipe, judge, case, seed, arguments)
                write_text(path, json.dumps(known, indent=1, ensure_ascii=False))
        values = {name: np.array([known[key][name] for key in keys]) for name in known[keys[0]]}
        gap = gap_of(pipe, case.variation, arguments.prompts)
        row = {"cosine of pairs": f"{gap.pair_cosine:.3f}", "separability": f"{gap.separability:.2f}"}
        row |= {name: f"{of.mean():.1f} ± {np.ptp(of) / 2:.1f}" for name, of in values.items()}
        rows[f"{model.name}, {case.name}"] = row
        write_text(arguments.output / "table.md", markdown_table(rows) + "\n")
    print(markdown_table(rows))


def draw_picture(cells: list[tuple[ComparedModel, Case]], arguments: argparse.Namespace) -> None:
    """Draws the same prompts and seeds by all cells, and paintings in the last row."""
    seeds = [*SEEDS_PICTURED] * len(PICTURED)
    prompts = [prompt for prompt in PICTURED for _ in SEEDS_PICTURED]
    rows = {}
    for model, case in tqdm(cells, desc="Painting", unit="row"):
        pipe = load_pipeline(model.folder, arguments.dtype, usable_device(None))
        pipe.set_progress_bar_config(disable=True)
        rows[f"{model.name}, {case.name}"] = list(sample(pipe, seeds, prompts, **case._asdict()))
    rows["paintings by the program"] = [
        painting for a in PICTURED.values() for painting in fresh_paintings([a] * len(SEEDS_PICTURED))
    ]
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    with moved_into_place(arguments.picture) as temporary:
        sheet(" · ".join(PICTURED), rows, seeds).save(temporary, format="JPEG", quality=90)
    print(arguments.picture)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    sources = list(dict.fromkeys(source for source, _ in arguments.rows))
    models = dict(zip(sources, find_models(sources)))
    cells = [(models[source], case) for source, case in arguments.rows]
    for model, case in cells:
        if case.variation and not model.can_vary_texts:
            raise ValueError(f"{model.name} cannot vary texts: its text encoder was not fitted.")
    if arguments.picture is not None:
        draw_picture(cells, arguments)
    elif arguments.dry_run:
        describe(cells, arguments)
    else:
        measure_all(cells, arguments)


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
