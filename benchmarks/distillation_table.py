#!/usr/bin/env python3
"""Trains students by the recipes of training/configs/distill/table and measures them, for docs/distillation.md.

    python benchmarks/distillation_table.py --cache outputs/default/cache --output outputs/table

Every recipe has the same images, steps and seeds, and students of a tenth of the teacher's parameters; those that go
on with the result of another have its steps beside their own. Interrupted, it goes on where it was: with the
checkpoints of the run, and with the students that have been measured. What is read off pictures is read by the judge
of the bundled model's evaluation.
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
from evaluate_default import JUDGE, agreement, choose, frechet_distance, fresh_paintings, generate, table
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline, CCLDScheduler
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.judge import Judge
from diffusers_ccld.paintings import captions
from diffusers_ccld.utils.files import write_text

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "training" / "configs" / "distill" / "table"
BATCH_SIZE = 25
SAMPLER = {"algorithm_type": "unipc", "timestep_schedule": "spliced"}
SHAPE = "--block_out_channels 32 64 64 --mapping_dim 96"  # a tenth of the teacher's parameters


@dataclass(frozen=True)
class Recipe:
    """How a student is made and trained.

    Attributes:
        says: What it is, in the table.
        student: Arguments of training/create_student.py; `None` for a student that is the teacher's own network.
        script: What trains it.
        after: The recipe whose result is its teacher, in place of the large one.
    """

    says: str
    student: str | None = SHAPE
    script: str = "distill.py"
    after: str | None = None


ALL_RECIPES = {
    "scratch": Recipe("the same size from scratch", script="finetune.py"),
    "output": Recipe("output distillation"),
    "features": Recipe("output and feature distillation"),
    "conditions": Recipe("output distillation, random conditions"),
    "init": Recipe("output distillation, from the teacher's weights", student=f"{SHAPE} --init teacher"),
    "init_features": Recipe(
        "output and feature distillation, from the teacher's weights", student=f"{SHAPE} --init teacher"
    ),
    "stock": Recipe("output distillation, stock U-Net", student=f"--unet_config {RECIPES / 'stock.json'}"),
    "guidance": Recipe(
        "output and feature distillation, then guidance-distilled",
        student=f"{SHAPE} --init teacher --told_guidance 64",
        after="init_features",
    ),
    "four_steps": Recipe(
        "output and feature distillation, then guidance-distilled, 4 steps", student=None, after="guidance"
    ),
}


def run_script(name: str, *arguments: object) -> None:
    """Runs a script of training/.

    Raises:
        ValueError: If it fails; it has said why.
    """
    command = [sys.executable, str(ROOT / "training" / name), *map(str, arguments)]
    if subprocess.run(command).returncode:
        raise ValueError(f"{shlex.join(command)} failed.")


def pipeline_of(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Where the trained student of a recipe is, or will be."""
    return arguments.output / f"{name}-{seed}" / "pipeline"


def train(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Makes and trains the student of a recipe, or goes on with it; gives its pipeline's folder."""
    recipe, teacher = ALL_RECIPES[name], arguments.teacher
    pipeline = pipeline_of(name, seed, arguments)
    if recipe.after is not None:
        teacher = pipeline_of(recipe.after, seed, arguments)
    student = teacher
    if recipe.student is not None:
        student = arguments.output / f"{name}-{seed}-student"
        if not student.exists():
            options = ("--teacher", teacher, "--seed", seed, "--output", student)
            run_script("create_student.py", *options, *shlex.split(recipe.student))
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
        run_script(recipe.script, "--config", RECIPES / f"{name}.yaml", *flags)
    return pipeline


def make_measure(arguments: argparse.Namespace) -> Callable[[Path], dict[str, float]]:
    """A function that measures a pipeline by what it paints from the prompts of the bundled model's evaluation."""
    judge = Judge.from_pretrained(JUDGE).eval()
    num_held_out = arguments.prompts * 3 // 10
    wanted = choose(arguments.prompts - num_held_out, False, 1) + choose(num_held_out, True, 2)
    prompts = [captions(attributes, i, complete=True)[0] for i, attributes in enumerate(wanted)]
    features = judge.judge(fresh_paintings(wanted)).features

    def measure(folder: Path) -> dict[str, float]:
        pipe = CCLDPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        if pipe.config.default_num_inference_steps is None:  # else it knows no other number
            pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, **SAMPLER)
            pipe.register_to_config(default_num_inference_steps=arguments.steps)
        began = time.perf_counter()
        images = generate(pipe, prompts, False, {"guidance_scale": arguments.guidance_scale}, BATCH_SIZE)
        seconds = time.perf_counter() - began
        return {
            "parameters": sum(weight.numel() for weight in pipe.unet.parameters()) / 1e6,
            **agreement(judge, images, wanted),
            "Fréchet": frechet_distance(judge.judge(images).features, features),
            "s/image": seconds / len(images),
        }

    return measure


def settings_of(arguments: argparse.Namespace) -> str:
    """How is measured, in the names of files."""
    return f"{arguments.prompts}-prompts-{arguments.steps}-steps-guidance-{arguments.guidance_scale:g}"


def measured(
    name: str, folder: Path, measure: Callable[[Path], dict[str, float]], arguments: argparse.Namespace
) -> dict[str, float]:
    """What was measured of a pipeline, now or before; it stands in a file beside the students."""
    path = arguments.output / f"{name}-{settings_of(arguments)}.json"
    if not path.exists():
        write_text(path, json.dumps(measure(folder)))
    return json.loads(path.read_text())


def as_markdown(rows: dict[str, list[dict[str, float]]]) -> str:
    """The table: means over seeds, and how far seeds lie apart."""
    means, spreads = {}, {}
    for name, values in rows.items():
        stacked = {key: [value[key] for value in values] for key in values[0]}
        means[name] = {key: float(np.mean(column)) for key, column in stacked.items()}
        spreads[name] = {key: max(column) - min(column) for key, column in stacked.items()}
    return f"{table(means, '{:.2f}'.format)}\n\nDifference between seeds:\n\n{table(spreads, '{:.2f}'.format)}\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teacher", type=Path, default="outputs/default/teacher/pipeline", help="its pipeline (default: %(default)s)"
    )
    parser.add_argument("--cache", type=Path, required=True, help="what training/precompute.py made of the paintings")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs, and of the tables")
    parser.add_argument("--recipes", nargs="+", choices=ALL_RECIPES, default=list(ALL_RECIPES), help="(default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--max_steps", type=int, help="steps of every recipe (default: as it says)")
    parser.add_argument("--prompts", type=int, default=200, help="how many to paint (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="of the sampler, UniPC (default: %(default)s)")
    parser.add_argument("--guidance_scale", type=float, default=3.0, help="(default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    arguments = parser.parse_args(argv)
    if arguments.prompts < 10:
        raise ValueError("--prompts must be at least 10.")
    if arguments.steps < 1:
        raise ValueError("--steps must be at least 1.")
    largest = yaml.safe_load((RECIPES / "guidance.yaml").read_text())["max_guidance_scale"]
    if not 1 <= arguments.guidance_scale <= largest:
        raise ValueError(f"--guidance_scale must be from 1 to {largest}, which students are taught.")
    runs = [(name, seed) for name in arguments.recipes for seed in arguments.seeds]
    if arguments.dry_run:
        for name, seed in runs:
            state = "done" if pipeline_of(name, seed, arguments).exists() else "to be trained"
            print(f"{name}, seed {seed}: {state}")
        return

    for i, (name, seed) in enumerate(runs):
        after = ALL_RECIPES[name].after
        is_made = after is None or pipeline_of(after, seed, arguments).exists()
        if not is_made and (after, seed) not in runs[:i]:
            raise ValueError(f"{name} goes on with the result of {after}: give both, in this order.")
    if not arguments.teacher.exists():
        raise ValueError(f"--teacher {arguments.teacher}: there is no such folder; `make default-teacher` trains it.")
    arguments.output.mkdir(parents=True, exist_ok=True)
    measure = make_measure(arguments)
    rows = {"teacher": [measured("teacher", arguments.teacher, measure, arguments)]}
    for name, seed in tqdm(runs, desc="Students", unit="student"):
        student = train(name, seed, arguments)
        row = measured(f"{name}-{seed}", student, measure, arguments)
        rows.setdefault(ALL_RECIPES[name].says, []).append(row)
        write_text(arguments.output / f"table-{settings_of(arguments)}.md", as_markdown(rows))
    print(as_markdown(rows))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
