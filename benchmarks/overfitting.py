#!/usr/bin/env python3
"""Tests whether `ccld compare` flags a model that has memorized its training images, and only that one.

    python benchmarks/overfitting.py --output outputs/overfitting

Fine-tunes the bundled model on twelve paintings for 1,000 epochs, and on 1,500 paintings for 300 steps. Compares both
with the bundled model. The prompts are captions of the twelve paintings and of others. Started again, it keeps what is
finished. Takes about half an hour on two cores.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from diffusers_ccld import default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.painting_scores import complete_caption
from diffusers_ccld.paintings import Attributes, attributes_of, combinations, paint
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import folder_moved_into_place, write_text

FINETUNE = Path(__file__).parents[1] / "training" / "finetune.py"

# Number of paintings and seed of the first. None is in the bundled model's training set.
SETS = {"twelve": (12, 40_000_000), "many": (1500, 60_000_000), "held-out": (400, 50_000_000)}

# Name of the set, number of steps, learning rate.
RUNS = {"overfitted": ("twelve", 1000, 5e-4), "healthy": ("many", 300, 1e-4)}


def subjects_of(name: str) -> list[tuple[Attributes, int]]:
    """Attributes and seed of each painting of a set; combinations take turns in an order drawn for the set."""
    count, first_seed = SETS[name]
    candidates = combinations(held_out=False)
    order = np.random.default_rng(first_seed).permutation(len(candidates))
    return [(candidates[order[i % len(order)]], first_seed + i) for i in range(count)]


def save_paintings(name: str, folder: Path) -> None:
    """Paints a set into a folder."""
    with folder_moved_into_place(folder) as temporary:
        for i, (attributes, seed) in enumerate(subjects_of(name)):
            Image.fromarray(paint(attributes, seed)).save(temporary / f"{i:04d}-{'-'.join(attributes)}.png")


def prompts() -> str:
    """The file of prompts, in two groups."""
    learnt = [f"[learnt] {complete_caption(attributes, seed)}" for attributes, seed in subjects_of("twelve")]
    others = [f"[other] {complete_caption(attributes_of((97 * i + 13) % 576), i)}" for i in range(12)]
    return "\n".join([*learnt, *others]) + "\n"


def run_python(*command: object) -> None:
    """Runs Python with arguments. If it fails, it has said why, and this script ends with its status."""
    if status := subprocess.run([sys.executable, *map(str, command)], check=False).returncode:
        raise SystemExit(status)


def missing_stages(output: Path) -> list[str]:
    """The stages that a run in a folder would do, a line for each."""
    paintings = [f"paint {count} pictures" for name, (count, _) in SETS.items() if not (output / name).is_dir()]
    trainings = [
        f"fine-tune for {steps} steps on {SETS[used][0]} pictures"
        for name, (used, steps, _) in RUNS.items()
        if not (output / name / "pipeline").is_dir()
    ]
    return [*paintings, *trainings, f"compare {len(RUNS)} models with the bundled one"]


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/overfitting"), help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print what is still to be done")
    arguments = parser.parse_args(argv)
    output = arguments.output
    if arguments.dry_run:
        print(*missing_stages(output), sep="\n")
        return
    output.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        if not (output / name).is_dir():
            save_paintings(name, output / name)
    write_text(output / "prompts.txt", prompts())
    for name, (paintings, steps, learning_rate) in RUNS.items():
        if not (output / name / "pipeline").is_dir():
            run_python(
                *(FINETUNE, "--model", default_model(), "--dataset", output / paintings),
                *("--output-dir", output / name, "--resume", "latest", "--max-steps", steps, "--seed", 0),
                *("--train-batch-size", 12, "--learning-rate", learning_rate),
                *("--ema-decays", 0.98, "--ema-decay-starts", 0, "--checkpointing-steps", 100),
                *("--report-to", "none", "--dataloader-num-workers", 0),
            )
    for name, (paintings, _, _) in RUNS.items():
        comparison = output / f"comparison-{name}"
        run_python(
            *("-m", "diffusers_ccld", "compare", "default", f"{name}={output / name / 'pipeline'}"),
            *("--prompts", output / "prompts.txt", "--train-images", output / paintings),
            *("--held-out-images", output / "held-out", "--steps", arguments.steps, "--output", comparison),
            # The settings of docs/comparison.md.
            *("--algorithm", "plms", "--dtype", "fp32"),
            *("--batch-size", 16, "--overwrite"),
        )
        for model, scores in json.loads((comparison / "scores.json").read_text(encoding="utf-8"))["models"].items():
            copying = scores["copying"]
            shares = f"{copying['copies']:.1%} copies, {copying['held_out_copies']:.1%} of held-out images"
            print(f"{model}, compared with {paintings}: {shares}, p = {copying['p_value']:.2g}: {copying['verdict']}")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
