#!/usr/bin/env python3
"""Measures how exactly each algorithm samples back what it inverted, for a smooth field in place of a network.

Prints a Markdown table:

    python benchmarks/inversion.py
"""

import math

from diffusers_ccld.evaluation.scheduler_accuracy import ORDERS, make_noise, round_trip_error
from diffusers_ccld.evaluation.tables import table_head, table_row
from diffusers_ccld.utils.arguments import ArgumentParser


def main() -> None:
    ArgumentParser(description=__doc__).parse_args()
    start = make_noise(1)
    print(table_head(["15 steps", "50 steps", "200 steps", "order measured", "order proven"], "algorithm"))
    for algorithm, order in ORDERS.items():
        errors = {n: round_trip_error(algorithm, n, start) for n in (15, 50, 200)}
        measured = math.log(errors[50] / errors[200], 200 / 50)
        print(table_row(algorithm, [*(f"{error:.1e}" for error in errors.values()), f"{measured:.1f}", order]))


if __name__ == "__main__":
    main()
