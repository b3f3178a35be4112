#!/usr/bin/env python3
"""Measures how evenly the frames of interpolations follow one another, as placed and in even steps of the angle.

Prints a Markdown table:

    python benchmarks/even_interpolation.py

Each number is the largest over the median distance between consecutive frames, in pixels (root mean square) and in
CLOOB's embeddings of the frames. Samples some 530 pictures.
"""

import numpy as np

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.interpolation_evenness import JOURNEYS, bundled_pipeline, measure_evenness
from diffusers_ccld.evaluation.tables import table_head, table_row
from diffusers_ccld.utils.arguments import ArgumentParser


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=24, help="frames of each journey (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps (default: %(default)s)")
    parser.add_argument("--algorithm", default="plms", help="a deterministic algorithm (default: %(default)s)")
    arguments = parser.parse_args(argv)
    pipe = bundled_pipeline(arguments.algorithm)
    print(table_head(["pictures sampled", "even angles", "in CLOOB", "as placed", "in CLOOB"], "between"))
    rows = []
    for journey in JOURNEYS:
        row = measure_evenness(pipe, journey, arguments.frames, arguments.steps)
        rows.append(row)
        print(table_row(journey.name, [row.num_pictures, *(f"{value:.2f}" for value in row[1:])]), flush=True)
    print(table_row("worst", ["", *(f"{value:.2f}" for value in np.max(rows, axis=0)[1:])]))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
