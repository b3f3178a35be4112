#!/usr/bin/env python3
"""Measures how many evaluations of the network each sampler needs on the bundled model, for docs/performance.md.

    python benchmarks/samplers.py --output outputs/samplers
    python benchmarks/samplers.py --output outputs/samplers1000 --prompts 1000 --cases "plms, spliced" --evaluations 59

Every case samples the same prompts from the same noise. The distance is the root-mean-square difference between its
final latents and those of 1,000 steps from t = 1, relative to their standard deviation. The judge of the bundled
model's evaluation reads the attributes off the pictures. After an interruption, the same command measures only what is
missing.
"""

import argparse
import json
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin
from PIL import Image
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline, CCLDScheduler, default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.judge import Judge
from diffusers_ccld.evaluation.metrics import frechet_distance
from diffusers_ccld.evaluation.painting_scores import agreement, evaluation_set, fresh_paintings, minutes_to_sample
from diffusers_ccld.evaluation.scheduler_accuracy import SchedulerCase
from diffusers_ccld.evaluation.tables import markdown_table
from diffusers_ccld.inference.sampling import generators_for
from diffusers_ccld.paintings import Attributes
from diffusers_ccld.schedulers.noise_schedule import alpha_sigma_to_t, t_to_timestep
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.files import write_text

JUDGE = Path(__file__).parents[1] / "weights" / "judge"
EVALUATIONS = (5, 8, 10, 15, 20, 24, 50, 59)
SOLUTION_STEPS = 1000


class AlignYourSteps(CCLDScheduler):
    """Our scheduler at the times of "Align Your Steps" for Stable Diffusion (Sabour et al. 2024)."""

    def set_timesteps(self, num_inference_steps: int, device: torch.device | None = None) -> None:
        """Plans a run. The published noise-to-signal ratios are interpolated in the logarithm, as by the authors."""
        sigmas = np.array(diffusers.schedulers.AysSchedules["StableDiffusionSigmas"][:-1])
        places = np.linspace(0, 1, len(sigmas))
        ratios = np.exp(np.interp(np.linspace(0, 1, num_inference_steps), places, np.log(sigmas)))
        times = alpha_sigma_to_t(torch.ones(num_inference_steps, dtype=torch.float64), torch.from_numpy(ratios))
        super().set_timesteps(timesteps=t_to_timestep(times), device=device)


class Case(NamedTuple):
    """A way to sample.

    Attributes:
        scheduler: The scheduler.
        is_ays: True for the times of `AlignYourSteps`.
        interval: Times between which there is guidance; `None` for guidance everywhere.
    """

    scheduler: SchedulerCase
    is_ays: bool = False
    interval: tuple[float, float] | None = None

    def make(self, config: dict) -> SchedulerMixin:
        """Makes the scheduler from our scheduler's configuration."""
        return (
            AlignYourSteps.from_config(config, **self.scheduler.options)
            if self.is_ays
            else self.scheduler.make(config)
        )


def ours(algorithm: str, schedule: str, interval: tuple[float, float] | None = None) -> Case:
    """One of our scheduler's algorithms; `schedule` is a timestep schedule, or "ays" for Align Your Steps."""
    is_ays = schedule == "ays"
    options = {"algorithm_type": algorithm, "timestep_schedule": "spliced" if is_ays else schedule}
    return Case(SchedulerCase("CCLDScheduler", options), is_ays, interval)


def stock(name: str, **options: object) -> Case:
    """One of diffusers' schedulers."""
    return Case(SchedulerCase(name, options))


def steps_for(scheduler: SchedulerMixin, num_evaluations: int) -> int | None:
    """The number of steps that cost exactly `num_evaluations` evaluations; `None` if none does."""
    for num_steps in range(num_evaluations, 0, -1):
        try:
            scheduler.set_timesteps(num_steps)
        except (AssertionError, IndexError, ValueError):
            return None
        if len(scheduler.timesteps) == num_evaluations:
            return num_steps
    return None


CASES = {
    **{
        f"{algorithm}, {schedule}": ours(algorithm, schedule)
        for algorithm in ("plms", "plms2", "iplms", "pie", "prk", "ddim", "dpmpp", "unipc")
        for schedule in ("spliced", "log", "ays")
    },
    "dpmpp, linear": ours("dpmpp", "linear"),
    "unipc, linear": ours("unipc", "linear"),
    "ddim, linear": ours("ddim", "linear"),
    "UniPC": stock("UniPCMultistepScheduler"),
    "UniPC, third order": stock("UniPCMultistepScheduler", solver_order=3),
    "DPM-Solver++ (2M)": stock("DPMSolverMultistepScheduler"),
    "DPM-Solver++ (3M)": stock("DPMSolverMultistepScheduler", solver_order=3),
    "DPM-Solver++ (2M), Karras": stock("DPMSolverMultistepScheduler", use_karras_sigmas=True),
    "DPM-Solver++ (2S)": stock("DPMSolverSinglestepScheduler"),
    "DEIS": stock("DEISMultistepScheduler"),
    "LMS": stock("LMSDiscreteScheduler"),
    "KDPM2": stock("KDPM2DiscreteScheduler"),
    "Heun, exponential": stock("HeunDiscreteScheduler", use_exponential_sigmas=True),
    "Euler": stock("EulerDiscreteScheduler"),
    "DDIM": stock("DDIMScheduler"),
    **{
        f"dpmpp, spliced, guided in {low}–{high}": ours("dpmpp", "spliced", (low, high))
        for low, high in ((0.0, 0.9), (0.0, 0.7), (0.2, 1.0), (0.4, 1.0), (0.2, 0.9), (0.3, 0.8))
    },
}


class Bench:
    """Samples the same prompts by any case, and measures the pictures.

    Args:
        pipe: The pipeline.
        judge: The judge.
        num_prompts: Number of prompts, three in ten of held-out combinations.
        num_compared: Number of prompts whose latents are compared with the fine solution.
        batch_size: Pictures sampled at once.
        guidance_scale: The guidance scale.
    """

    def __init__(
        self,
        pipe: CCLDPipeline,
        judge: Judge,
        *,
        num_prompts: int,
        num_compared: int,
        batch_size: int,
        guidance_scale: float,
    ):
        self.pipe, self.judge, self.config = pipe, judge, pipe.scheduler.config
        self.batch_size, self.guidance_scale = batch_size, guidance_scale
        self.combinations = evaluation_set(num_prompts)
        self.num_compared = min(num_compared, num_prompts)

    @cached_property
    def features(self) -> torch.Tensor:
        """The judge's features of fresh paintings, (N, D)."""
        return self.judge.judge(fresh_paintings(self.combinations.attributes)).features

    @cached_property
    def solution(self) -> torch.Tensor:
        """Final latents of a run of 1,000 steps, (`num_compared`, C, H, W)."""
        case = ours("unipc", "linear")
        return self.sample(case, case.make(self.config), SOLUTION_STEPS, self.num_compared)

    def sample(self, case: Case, scheduler: SchedulerMixin, num_steps: int, count: int) -> torch.Tensor:
        """Final latents of the first `count` prompts, (`count`, C, H, W); picture i has seed i."""
        self.pipe.scheduler, parts = scheduler, []
        prompts = self.combinations.prompts[:count]
        for first in range(0, count, self.batch_size):
            part = prompts[first : first + self.batch_size]
            output = self.pipe(
                part,
                num_inference_steps=num_steps,
                guidance_scale=self.guidance_scale,
                guidance_interval=case.interval,
                generator=generators_for(range(first, first + len(part))),
                output_type="latent",
            )
            parts.append(output.images)
        return torch.cat(parts)

    def minutes(self, num_evaluations: int) -> float:
        """Minutes that all prompts would take with so many evaluations each, estimated from one batch."""
        prompts = self.combinations.prompts
        options = {"num_inference_steps": 10, "guidance_scale": self.guidance_scale}
        of_ten = minutes_to_sample(self.pipe, prompts, len(prompts), self.batch_size, options)
        return of_ten * num_evaluations / 10  # `dpmpp`, the pipeline's own, has one for each step

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Pictures of latents."""
        parts = [self.pipe.decode_latents(part) for part in latents.split(self.batch_size)]
        return [image for part in parts for image in self.pipe.image_processor.postprocess(part)]

    def measure(self, case: Case, num_evaluations: int) -> dict[str, float] | None:
        """Measures a case with exactly `num_evaluations` evaluations; `None` if it cannot have that number."""
        scheduler = case.make(self.config)
        num_steps = steps_for(scheduler, num_evaluations)
        if num_steps is None:
            return None
        latents = self.sample(case, scheduler, num_steps, len(self.combinations.prompts))
        images = self.decode(latents)
        shares = agreement(self.judge, images, self.combinations.attributes)
        error = latents[: self.num_compared] - self.solution
        return {
            "steps": num_steps,
            "distance": (error.square().mean().sqrt() / self.solution.std()).item(),
            **shares,
            "mean accuracy": float(np.mean([shares[name] for name in Attributes._fields])),
            "Fréchet": frechet_distance(self.judge.judge(images).features, self.features),
        }


def table_of(results: dict[str, dict[int, dict[str, float] | None]], key: str, form: str) -> str:
    """A table of one measurement: a row for every case, a column for every number of evaluations."""
    rows = {}
    for name, row in results.items():
        rows[name] = {count: None if row[count] is None else row[count][key] for count in sorted(row)}
    return markdown_table(rows, form.format)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for all results and samplers.md")
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help="(default: all)"
    )
    parser.add_argument(
        "--evaluations",
        type=int,
        nargs="+",
        default=EVALUATIONS,
        metavar="N",
        help="numbers of evaluations of the network (default: 5 8 10 15 20 24 50 59)",
    )
    parser.add_argument("--prompts", type=int, default=24, help="pictures of each cell (default: %(default)s)")
    parser.add_argument(
        "--compared", type=int, default=24, help="how many of them to compare with the solution (default: %(default)s)"
    )
    parser.add_argument("--guidance-scale", type=float, help="(default: the bundled model's)")
    parser.add_argument("--batch-size", type=int, default=25, help="pictures sampled at once (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="only print the names of the cases")
    parser.add_argument("--dry-run", action="store_true", help="sample one batch, and print the time of all cells")
    arguments = parser.parse_args(argv)
    if arguments.prompts < 10 or arguments.batch_size < 1 or arguments.compared < 1 or min(arguments.evaluations) < 1:
        raise ValueError("--prompts must be at least 10, the other numbers at least 1.")
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.list:
        print("\n".join(CASES))
        return
    diffusers.logging.set_verbosity_error()
    path = arguments.output / "samplers.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    pipe = CCLDPipeline.from_pretrained(default_model())
    pipe.set_progress_bar_config(disable=True)
    bench = Bench(
        pipe,
        Judge.from_pretrained(JUDGE).eval(),
        num_prompts=arguments.prompts,
        num_compared=arguments.compared,
        batch_size=arguments.batch_size,
        guidance_scale=pipe.guidance_or_default(arguments.guidance_scale),
    )
    settings = f"{arguments.prompts} | {arguments.compared} | {bench.guidance_scale}"
    cells = [(name, count) for name in arguments.cases for count in arguments.evaluations]
    if arguments.dry_run:
        missing = [count for name, count in cells if f"{name} | {count} | {settings}" not in known]
        print(f"{len(missing)} cells: {bench.minutes(sum(missing)):.0f} minutes of sampling; nothing was written")
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, count in tqdm(cells, desc="Measuring", unit="cell"):
        key = f"{name} | {count} | {settings}"
        if key not in known:
            known[key] = bench.measure(CASES[name], count)
            write_text(path, json.dumps(known, indent=1, ensure_ascii=False))
    results = {
        name: {n: known[f"{name} | {n} | {settings}"] for n in arguments.evaluations} for name in arguments.cases
    }
    titles = {
        "distance": ("Distance to the solution, by evaluations", "{:.3f}"),
        "mean accuracy": ("Attributes right, mean of three, %", "{:.1f}"),
        "Fréchet": ("Fréchet distance to fresh paintings", "{:.0f}"),
    }
    report = "\n\n".join(f"### {title}\n\n{table_of(results, key, form)}" for key, (title, form) in titles.items())
    write_text(arguments.output / "samplers.md", report + "\n")
    print(report)


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
