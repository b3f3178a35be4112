#!/usr/bin/env python3
"""Trains the students of training/configs/distill/table.yaml and measures them, for docs/distillation.md.

    python benchmarks/distillation_table.py --cache outputs/default/cache --output outputs/table

All students have the same images, steps and seeds, and a tenth of the teacher's parameters. A student that learns from
another student's result adds its steps to those of that student. After an interruption, the same command resumes
training from the last checkpoint and measures the students that have not been measured. The judge of the bundled
model's evaluation reads the attributes off the samples.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.arguments import require_folder
from diffusers_ccld.evaluation.judge import Judge
from diffusers_ccld.evaluation.metrics import frechet_distance
from diffusers_ccld.evaluation.painting_scores import agreement, evaluation_set, fresh_paintings, sample_all
from diffusers_ccld.evaluation.tables import markdown_table
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import write_text

ROOT = Path(__file__).parents[1]
JUDGE = ROOT / "weights" / "judge"
SETTINGS = ROOT / "training" / "configs" / "distill" / "table"
BATCH_SIZE = 25
SAMPLER = {"algorithm_type": "unipc", "timestep_schedule": "spliced"}


@dataclass(frozen=True)
class Recipe:
    """One student of the table.

    Attributes:
        title: Its name in the table.
        script: The script of training/ that trains it.
        student: Arguments of training/create_student.py; `None` to train the teacher's own network.
        after: The recipe that trains the teacher; `None` for the large teacher.
    """

    title: str
    script: str
    student: str | None = None
    after: str | None = None


def read_recipes() -> dict[str, Recipe]:
    """Reads training/configs/distill/table.yaml."""
    entries = yaml.safe_load(SETTINGS.with_suffix(".yaml").read_text(encoding="utf-8"))
    return {name: Recipe(**entry) for name, entry in entries.items()}


RECIPES = read_recipes()


def run_script(name: str, *arguments: object) -> None:
    """Runs a script of training/.

    Raises:
        ValueError: If it fails; its own message is on standard error.
    """
    command = [sys.executable, str(ROOT / "training" / name), *map(str, arguments)]
    if subprocess.run(command).returncode:
        raise ValueError(f"{shlex.join(command)} failed.")


def pipeline_folder(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Folder of a recipe's trained pipeline, which need not exist yet."""
    return arguments.output / f"{name}-{seed}" / "pipeline"


def train(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Creates and trains the student of a recipe, or resumes its training; returns its pipeline's folder."""
    recipe, teacher = RECIPES[name], arguments.teacher
    pipeline = pipeline_folder(name, seed, arguments)
    if recipe.after is not None:
        teacher = pipeline_folder(recipe.after, seed, arguments)
    student = teacher
    if recipe.student is not None:
        student = arguments.output / f"{name}-{seed}-student"
        if not student.exists():
            options = [part.format(folder=SETTINGS) for part in shlex.split(recipe.student)]
            run_script("create_student.py", "--teacher", teacher, "--seed", seed, "--output", student, *options)
    if not pipeline.exists():
        settings = {
            "model": student,
            "cache": arguments.cache,
            "output_dir": pipeline.parent,
            "seed": seed,
            "resume": "latest",
        }
        settings |= {"teacher": teacher} if recipe.script == "distill.py" else {}
        settings |= {"max_steps": arguments.max_steps} if arguments.max_steps is not None else {}
        flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
        run_script(recipe.script, "--config", SETTINGS / f"{name}.yaml", *flags)
    return pipeline


def make_measure(arguments: argparse.Namespace) -> Callable[[Path], dict[str, float]]:
    """Returns a function that measures a pipeline on the prompts of the bundled model's evaluation."""
    judge = Judge.from_pretrained(JUDGE).eval()
    combinations = evaluation_set(arguments.prompts)
    features = judge.judge(fresh_paintings(combinations.attributes)).features

    def measure(folder: Path) -> dict[str, float]:
        pipe = CCLDPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        if pipe.config.default_num_inference_steps is None:  # otherwise it was distilled to that number
            pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, **SAMPLER)
            pipe.register_to_config(default_num_inference_steps=arguments.steps)
        start = time.perf_counter()
        options = {"guidance_scale": arguments.guidance_scale, "variation": arguments.variation}
        images = sample_all(pipe, combinations.prompts, BATCH_SIZE, options)
        seconds = time.perf_counter() - start
        return {
            "parameters": sum(weight.numel() for weight in pipe.unet.parameters()) / 1e6,
            **agreement(judge, images, combinations.attributes),
            "Fréchet": frechet_distance(judge.judge(images).features, features),
            "s/image": seconds / len(images),
        }

    return measure


def settings_in_names(arguments: argparse.Namespace) -> str:
    """The settings of the measurement, as part of file names."""
    variation = f"-variation-{arguments.variation:g}" if arguments.variation else ""
    return f"{arguments.prompts}-prompts-{arguments.steps}-steps-guidance-{arguments.guidance_scale:g}{variation}"


def measured(
    name: str, folder: Path, measure: Callable[[Path], dict[str, float]], arguments: argparse.Namespace
) -> dict[str, float]:
    """Measures a pipeline, or reads an earlier measurement from its file beside the students."""
    path = arguments.output / f"{name}-{settings_in_names(arguments)}.json"
    if not path.exists():
        write_text(path, json.dumps(measure(folder)))
    return json.loads(path.read_text(encoding="utf-8"))


def as_markdown(rows: dict[str, list[dict[str, float]]]) -> str:
    """Two tables: the means over seeds, and the differences between seeds."""
    means, spreads = {}, {}
    for name, values in rows.items():
        stacked = {key: [value[key] for value in values] for key in values[0]}
        means[name] = {key: float(np.mean(column)) for key, column in stacked.items()}
        spreads[name] = {key: max(column) - min(column) for key, column in stacked.items()}
    means, spreads = (markdown_table(rows, "{:.2f}".format) for rows in (means, spreads))
    return f"{means}\n\nDifference between seeds:\n\n{spreads}\n"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "--teacher",
        type=Path,
        default="outputs/default/teacher/pipeline",
        help="folder of the teacher's pipeline (default: %(default)s)",
    )
    parser.add_argument("--cache", type=Path, required=True, help="cache of the paintings, by training/precompute.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs and the tables")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="(default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--max-steps", type=int, help="training steps of every recipe (default: each recipe's own)")
    parser.add_argument("--prompts", type=int, default=200, help="number of prompts to sample (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="sampling steps of UniPC (default: %(default)s)")
    parser.add_argument("--guidance-scale", type=float, help="(default: the teacher's)")
    parser.add_argument("--variation", type=float, help="spread around prompts, 0 to 1 (default: the teacher's)")
    parser.add_argument("--dry-run", action="store_true", help="only print which students are trained")
    arguments = parser.parse_args(argv)
    if arguments.prompts < 10:
        raise ValueError("--prompts must be at least 10.")
    if arguments.steps < 1:
        raise ValueError("--steps must be at least 1.")
    largest = yaml.safe_load((SETTINGS / "guidance.yaml").read_text(encoding="utf-8"))["max_guidance_scale"]
    if arguments.guidance_scale is not None and not 1 <= arguments.guidance_scale <= largest:
        raise ValueError(f"--guidance-scale must be from 1 to {largest}, the range that students are trained for.")
    return arguments


def check_order(runs: list[tuple[str, int]], arguments: argparse.Namespace) -> None:
    """Raises `ValueError` if a recipe would be trained before the recipe of its teacher."""
    for i, (name, seed) in enumerate(runs):
        after = RECIPES[name].after
        is_made = after is None or pipeline_folder(after, seed, arguments).exists()
        if not is_made and (after, seed) not in runs[:i]:
            raise ValueError(f"{name} needs the result of {after}: give both, in this order.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    runs = [(name, seed) for name in arguments.recipes for seed in arguments.seeds]
    if arguments.dry_run:
        for name, seed in runs:
            state = "trained" if pipeline_folder(name, seed, arguments).exists() else "not trained yet"
            print(f"{name}, seed {seed}: {state}")
        return

    check_order(runs, arguments)
    require_folder(arguments.cache, "--cache")
    if not arguments.teacher.exists():
        raise ValueError(f"--teacher {arguments.teacher} does not exist; `make default-teacher` trains it.")
    arguments.output.mkdir(parents=True, exist_ok=True)
    teacher = CCLDPipeline.from_pretrained(arguments.teacher)
    arguments.guidance_scale = teacher.guidance_or_default(arguments.guidance_scale)
    arguments.variation = teacher.variation_or_default(arguments.variation)
    measure = make_measure(arguments)
    rows = {"teacher": [measured("teacher", arguments.teacher, measure, arguments)]}
    for name, seed in tqdm(runs, desc="Students", unit="student"):
        student = train(name, seed, arguments)
        row = measured(f"{name}-{seed}", student, measure, arguments)
        rows.setdefault(RECIPES[name].title, []).append(row)
        write_text(arguments.output / f"table-{settings_in_names(arguments)}.md", as_markdown(rows))
    print(as_markdown(rows))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
