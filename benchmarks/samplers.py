#!/usr/bin/env python3
"""Measures how many evaluations of the network samplers need on the bundled model, for docs/performance.md.

    python benchmarks/samplers.py --output outputs/samplers
    python benchmarks/samplers.py --output outputs/samplers1000 --prompts 1000 --cases "plms, spliced" --evaluations 59

Every case paints the same prompts from the same noise. The distance is that of the final latents to those of a run of
1,000 steps from t = 1, in parts of their standard deviation: root mean square. What a picture shows is
read by the judge of the bundled model's evaluation. Interrupted, it goes on with what has not been measured.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin
from evaluate_default import JUDGE, agreement, choose, frechet_distance, fresh_paintings
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline, CCLDScheduler, default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.judge import Judge
from diffusers_ccld.paintings import Attributes, captions
from diffusers_ccld.pipelines.calls import SamplingCall
from diffusers_ccld.schedulers.noise_schedule import alpha_sigma_to_t, t_to_timestep
from diffusers_ccld.utils.files import write_text

EVALUATIONS = (5, 8, 10, 15, 20, 24, 50, 59)
SOLUTION_STEPS = 1000


class Case(NamedTuple):
    """A sampler and the spacing of its steps.

    Attributes:
        scheduler: Its class.
        options: What its config has beside ours.
        schedule: The spacing, where it is not among the options: "ays" for that of `ays_times`.
        interval: Times between which there is guidance.
    """

    scheduler: str
    options: dict[str, object]
    schedule: str = ""
    interval: tuple[float, float] | None = None

    def make(self, config: dict) -> SchedulerMixin:
        """The scheduler, from our scheduler's config."""
        kind = CCLDScheduler if self.scheduler == "CCLDScheduler" else getattr(diffusers, self.scheduler)
        return kind.from_config(config, **self.options)

    def plan(self, scheduler: SchedulerMixin, num_steps: int) -> None:
        """Plans a run of so many steps."""
        if self.schedule == "ays":
            scheduler.set_timesteps(timesteps=t_to_timestep(ays_times(num_steps)))
        else:
            scheduler.set_timesteps(num_steps)

    def steps_for(self, scheduler: SchedulerMixin, num_evaluations: int) -> int | None:
        """The number of steps that cost just as many evaluations, if there is one and the scheduler can do it."""
        for num_steps in range(num_evaluations, 0, -1):
            try:
                self.plan(scheduler, num_steps)
            except (AssertionError, IndexError, ValueError):
                return None
            if len(scheduler.timesteps) == num_evaluations:
                return num_steps
        return None


def ours(algorithm: str, schedule: str, interval: tuple[float, float] | None = None) -> Case:
    """One of our scheduler's algorithms."""
    options = {"algorithm_type": algorithm, "timestep_schedule": "spliced" if schedule == "ays" else schedule}
    return Case("CCLDScheduler", options, schedule, interval)


def ays_times(num_steps: int) -> torch.Tensor:
    """Times with the ratios of noise to signal of "Align Your Steps" for Stable Diffusion (Sabour et al. 2024).

    They are interpolated for other numbers of steps than theirs, as the authors do, in the logarithm.
    """
    sigmas = np.array(diffusers.schedulers.AysSchedules["StableDiffusionSigmas"][:-1])
    places = np.linspace(0, 1, len(sigmas))
    ratios = np.exp(np.interp(np.linspace(0, 1, num_steps), places, np.log(sigmas)))
    return alpha_sigma_to_t(torch.ones(num_steps, dtype=torch.float64), torch.from_numpy(ratios))


CASES = {
    **{
        f"{algorithm}, {schedule}": ours(algorithm, schedule)
        for algorithm in ("plms", "plms2", "iplms", "pie", "prk", "ddim", "dpmpp", "unipc")
        for schedule in ("spliced", "log", "ays")
    },
    "dpmpp, linear": ours("dpmpp", "linear"),
    "unipc, linear": ours("unipc", "linear"),
    "ddim, linear": ours("ddim", "linear"),
    "UniPC": Case("UniPCMultistepScheduler", {}),
    "UniPC, third order": Case("UniPCMultistepScheduler", {"solver_order": 3}),
    "DPM-Solver++ (2M)": Case("DPMSolverMultistepScheduler", {}),
    "DPM-Solver++ (3M)": Case("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM-Solver++ (2M), Karras": Case("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM-Solver++ (2S)": Case("DPMSolverSinglestepScheduler", {}),
    "DEIS": Case("DEISMultistepScheduler", {}),
    "LMS": Case("LMSDiscreteScheduler", {}),
    "KDPM2": Case("KDPM2DiscreteScheduler", {}),
    "Heun, exponential": Case("HeunDiscreteScheduler", {"use_exponential_sigmas": True}),
    "Euler": Case("EulerDiscreteScheduler", {}),
    "DDIM": Case("DDIMScheduler", {}),
    **{
        f"dpmpp, spliced, guided in {low}–{high}": ours("dpmpp", "spliced", (low, high))
        for low, high in ((0.0, 0.9), (0.0, 0.7), (0.2, 1.0), (0.4, 1.0), (0.2, 0.9), (0.3, 0.8))
    },
}


class Bench:
    """Paints the same prompts by any case, and measures what comes of it.

    Args:
        num_prompts: How many; three of ten are of held-out combinations.
        num_compared: How many of them are compared with the fine solution.
        batch_size: Pictures made at once.
        guidance_scale: The guidance scale.
    """

    def __init__(self, num_prompts: int, num_compared: int, batch_size: int, guidance_scale: float):
        self.pipe = CCLDPipeline.from_pretrained(default_model())
        self.pipe.set_progress_bar_config(disable=True)
        self.config = self.pipe.scheduler.config
        self.batch_size, self.guidance_scale = batch_size, guidance_scale
        self.judge = Judge.from_pretrained(JUDGE).eval()
        num_held_out = num_prompts * 3 // 10
        self.wanted = choose(num_prompts - num_held_out, False, 1) + choose(num_held_out, True, 2)
        self.prompts = [captions(attributes, i, complete=True)[0] for i, attributes in enumerate(self.wanted)]
        self.features = self.judge.judge(fresh_paintings(self.wanted)).features
        self.num_compared = min(num_compared, num_prompts)
        self._solution: torch.Tensor | None = None

    @property
    def solution(self) -> torch.Tensor:
        """Final latents of a run of very many steps, (`num_compared`, C, H, W)."""
        if self._solution is None:
            case = ours("unipc", "linear")
            self._solution = self.sample(case, case.make(self.config), SOLUTION_STEPS, self.num_compared)
        return self._solution

    @torch.no_grad()
    def sample(self, case: Case, scheduler: SchedulerMixin, num_steps: int, count: int) -> torch.Tensor:
        """Final latents of the first prompts, (`count`, C, H, W)."""
        self.pipe.scheduler, parts = scheduler, []
        size = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        for first in range(0, count, self.batch_size):
            prompts = self.prompts[first : min(first + self.batch_size, count)]
            generators = [torch.Generator().manual_seed(first + i) for i in range(len(prompts))]
            call = SamplingCall(prompt=prompts, guidance_scale=self.guidance_scale, guidance_interval=case.interval)
            guidance = self.pipe.prepare_guidance(call)
            noise = self.pipe.prepare_noise(len(prompts), size, size, generators, self.pipe.device)
            case.plan(scheduler, num_steps)
            noise = noise * scheduler.init_noise_sigma
            timesteps = scheduler.timesteps
            parts.append(self.pipe.denoise(noise, call, guidance=guidance, scheduler=scheduler, timesteps=timesteps))
        return torch.cat(parts)

    @torch.no_grad()
    def measure(self, case: Case, num_evaluations: int) -> dict[str, float] | None:
        """What a case does in so many evaluations; `None` if it cannot have just as many."""
        scheduler = case.make(self.config)
        num_steps = case.steps_for(scheduler, num_evaluations)
        if num_steps is None:
            return None
        latents = self.sample(case, scheduler, num_steps, len(self.prompts))
        pixels = [self.pipe.decode_latents(part) for part in latents.split(self.batch_size)]
        images = [image for part in pixels for image in self.pipe.image_processor.postprocess(part)]
        found = agreement(self.judge, images, self.wanted)
        error = latents[: self.num_compared] - self.solution
        return {
            "steps": num_steps,
            "distance": (error.square().mean().sqrt() / self.solution.std()).item(),
            **found,
            "mean accuracy": float(np.mean([found[name] for name in Attributes._fields])),
            "Fréchet": frechet_distance(self.judge.judge(images).features, self.features),
        }


def as_markdown(results: dict[str, dict[int, dict[str, float] | None]], key: str, form: str) -> str:
    """A table of one number: a row for every case, a column for every number of evaluations."""
    columns = sorted({count for row in results.values() for count in row})
    lines = ["| | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in results.items():
        cells = [form.format(row[count][key]) if row.get(count) else "" for count in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of all results, and of samplers.md")
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help="(default: all)"
    )
    parser.add_argument(
        "--evaluations", type=int, nargs="+", default=EVALUATIONS, metavar="N", help="(default: 5 … 59)"
    )
    parser.add_argument("--prompts", type=int, default=24, help="pictures of each cell (default: %(default)s)")
    parser.add_argument("--compared", type=int, default=24, help="how many to compare with the solution (default: 24)")
    parser.add_argument("--guidance-scale", type=float, default=3.0, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=25, help="pictures made at once (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="only name the cases")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(CASES))
        return
    if arguments.prompts < 10 or arguments.batch_size < 1 or arguments.compared < 1 or min(arguments.evaluations) < 1:
        raise ValueError("--prompts must be at least 10, the other numbers at least 1.")
    diffusers.logging.set_verbosity_error()
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "samplers.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    bench = Bench(arguments.prompts, arguments.compared, arguments.batch_size, arguments.guidance_scale)
    cells = [(name, count) for name in arguments.cases for count in arguments.evaluations]
    for name, count in tqdm(cells, desc="Measuring", unit="cell"):
        key = f"{name} | {count} | {arguments.prompts} | {arguments.compared} | {arguments.guidance_scale}"
        if key not in known:
            known[key] = bench.measure(CASES[name], count)
            write_text(path, json.dumps(known, indent=1, ensure_ascii=False))
    suffix = f"{arguments.prompts} | {arguments.compared} | {arguments.guidance_scale}"
    results = {name: {n: known[f"{name} | {n} | {suffix}"] for n in arguments.evaluations} for name in arguments.cases}
    titles = {
        "distance": ("Distance to the solution, by evaluations", "{:.3f}"),
        "mean accuracy": ("Attributes right, mean of three, %", "{:.1f}"),
        "Fréchet": ("Fréchet distance to fresh paintings", "{:.0f}"),
    }
    report = "\n\n".join(f"### {title}\n\n{as_markdown(results, key, form)}" for key, (title, form) in titles.items())
    write_text(arguments.output / "samplers.md", report + "\n")
    print(report)


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
