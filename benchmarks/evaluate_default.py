#!/usr/bin/env python3
"""Measures how well a model of paintings does what it is told, with a judge that has only ever seen painted ones.

    python benchmarks/evaluate_default.py --output results.md

Prompts, seeds and paintings are fixed: the same model on the same machine gives the same numbers. The prompts are
captions as CLOOB was trained with, of paintings that are nobody's; the diffusion network has met none. On two cores it
takes some 15 minutes; --prompts 100 gives a rough idea sooner.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm.auto import tqdm

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.judge import Judge
from diffusers_ccld.paintings import MEDIA, NUM_COMBINATIONS, Attributes, attributes_of, captions, is_held_out, paint
from diffusers_ccld.utils.files import write_text

JUDGE = Path(__file__).parents[1] / "weights" / "judge"
FIRST_FRESH_SEED = 10_000_000  # of paintings that no training set has
RETRIEVED = 100
CAPTIONS_FOR_DIVERSITY, SEEDS_FOR_DIVERSITY = 12, 16


def choose(count: int, held_out: bool, seed: int) -> list[Attributes]:
    """That many combinations, all of them before one comes again."""
    combinations = [a for a in map(attributes_of, range(NUM_COMBINATIONS)) if is_held_out(a) == held_out]
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(combinations)) for _ in range(-(-count // len(combinations)))]
    return [combinations[i] for i in np.concatenate(rounds)[:count]]


def fresh_paintings(attributes: Sequence[Attributes], first_seed: int = FIRST_FRESH_SEED) -> list[Image.Image]:
    """A painting of each."""
    return [Image.fromarray(paint(a, first_seed + i)) for i, a in enumerate(attributes)]


def generate(
    pipe: CCLDPipeline, conditions: Sequence, as_images: bool, options: dict, batch_size: int
) -> list[Image.Image]:
    """A picture for each prompt, which is a text or an image; picture i has seed i."""
    images = []
    for first in tqdm(range(0, len(conditions), batch_size), desc="Painting", unit="batch"):
        part = list(conditions[first : first + batch_size])
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(part))]
        prompts = {"image_prompt": part} if as_images else {"prompt": part}
        images += pipe(**prompts, generator=generators, **options).images
    return images


def agreement(judge: Judge, images: list[Image.Image], wanted: Sequence[Attributes]) -> dict[str, float]:
    """Share of the images off which the judge reads each attribute that was wanted, and all three; in per cent."""
    found = judge.judge(images).attributes
    right = np.array([[f == w for f, w in zip(a, b)] for a, b in zip(found, wanted)])
    shares = dict(zip(Attributes._fields, 100 * right.mean(axis=0)))
    return {**shares, "all three": 100 * right.all(axis=1).mean()}


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Distance of two sets of features (N, D), each taken for a normal distribution (Heusel et al. 2017)."""
    means = [features.double().mean(dim=0) for features in (first, second)]
    covariances = [features.double().T.cov() for features in (first, second)]
    # The trace of the root of a product of covariances, from its eigenvalues, which are real and not negative.
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    return ((means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * root).item()


def spread(images: list[Image.Image]) -> float:
    """Mean distance between two of the pictures, of 16 × 16 pixels each: how differently they are composed."""
    pixels = np.stack([np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32) for image in images])
    distances = F.pdist(torch.from_numpy(pixels.reshape(len(images), -1) / 255))
    return distances.mean().item()


def peak_signal_to_noise(reconstructed: list[Image.Image], originals: list[Image.Image]) -> np.ndarray:
    """In decibels, of each image."""
    errors = [np.square(np.asarray(a, np.float64) - np.asarray(b)).mean() for a, b in zip(reconstructed, originals)]
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-9))


@torch.no_grad()
def reconstruct(pipe: CCLDPipeline, images: list[Image.Image], batch_size: int) -> list[Image.Image]:
    """The images, encoded and decoded."""
    pixels = pipe.image_processor.preprocess(images)
    parts = [pipe.vae.decode(pipe.vae.encode(part).latent_dist.mean).sample for part in pixels.split(batch_size)]
    return pipe.image_processor.postprocess(torch.cat(parts))


@torch.no_grad()
def retrieval(pipe: CCLDPipeline, attributes: Sequence[Attributes], images: list[Image.Image]) -> float:
    """Share of captions whose painting is the nearest of all to them, in per cent."""
    texts = [captions(a, FIRST_FRESH_SEED + i, complete=True)[0] for i, a in enumerate(attributes)]
    text_embeds = pipe.text_encoder(pipe.tokenizer(texts, return_tensors="pt")["input_ids"]).text_embeds
    image_embeds = pipe.image_encoder(pipe.feature_extractor(images)["pixel_values"]).image_embeds
    nearest = (text_embeds @ image_embeds.T).argmax(dim=1)
    return 100 * (nearest == torch.arange(len(texts))).float().mean().item()


def table(rows: dict[str, dict[str, float]], form: Callable[[float], str] = "{:.1f}".format) -> str:
    """A table in Markdown."""
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    return "\n".join(
        lines + [f"| {row} | " + " | ".join(form(v) for v in values.values()) + " |" for row, values in rows.items()]
    )


def evaluate(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a pipeline's folder (default: the bundled one)")
    parser.add_argument("--judge", default=JUDGE, type=Path, help="the judge's folder (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=1000, help="how many, 3 of 10 held out (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=None, help="sampling steps (default: the pipeline's)")
    parser.add_argument("--guidance-scale", type=float, default=3.0, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=25, help="pictures made at once (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(argv)
    if arguments.prompts < 10 or arguments.batch_size < 1:
        raise ValueError("--prompts must be at least 10, and --batch-size at least 1.")

    pipe = CCLDPipeline.from_pretrained(arguments.model or default_model())
    pipe.set_progress_bar_config(disable=True)
    judge = Judge.from_pretrained(arguments.judge).eval()
    options = {"guidance_scale": arguments.guidance_scale}
    if arguments.steps is not None:
        options["num_inference_steps"] = arguments.steps
    num_held_out = arguments.prompts * 3 // 10
    seen, held_out = choose(arguments.prompts - num_held_out, False, 1), choose(num_held_out, True, 2)
    everything = seen + held_out
    paintings = fresh_paintings(everything)
    held_out_paintings = paintings[len(seen) :]
    sections = []

    def report(title: str, text: str) -> None:
        sections.append(f"### {title}\n\n{text}\n")
        print(sections[-1], flush=True)
        if arguments.output is not None:
            write_text(arguments.output, "\n".join(sections))

    rows = {
        "fresh paintings of seen combinations": agreement(judge, paintings[: len(seen)], seen),
        "fresh paintings of held-out combinations": agreement(judge, held_out_paintings, held_out),
    }
    reconstructed = reconstruct(pipe, held_out_paintings, arguments.batch_size)
    rows["reconstructed held-out paintings"] = agreement(judge, reconstructed, held_out)
    report("The judge, and the autoencoder, % right", table(rows))
    decibels = peak_signal_to_noise(reconstructed, held_out_paintings)
    of_medium = {m: [d for d, a in zip(decibels, held_out) if a.medium == m] for m in MEDIA}
    by_medium = {medium: np.mean(values) for medium, values in of_medium.items() if values}
    report("Autoencoder, PSNR in dB on held-out paintings", table({"PSNR": by_medium}))
    num_distinct = sum(map(is_held_out, map(attributes_of, range(NUM_COMBINATIONS))))
    distinct = choose(num_distinct, True, 3) + choose(RETRIEVED - num_distinct, False, 3)
    top_1 = retrieval(pipe, distinct, fresh_paintings(distinct, 2 * FIRST_FRESH_SEED))
    report("CLOOB, caption → painting, top 1 of 100, %", f"{top_1:.1f}")

    prompts = [captions(a, i, complete=True)[0] for i, a in enumerate(everything)]
    images = generate(pipe, prompts, False, options, arguments.batch_size)
    rows = {
        "prompts": agreement(judge, images, everything),
        "of seen combinations": agreement(judge, images[: len(seen)], seen),
        "of held-out combinations": agreement(judge, images[len(seen) :], held_out),
    }
    guided = generate(pipe, paintings, True, options, arguments.batch_size)
    rows |= {
        "image prompts": agreement(judge, guided, everything),
        "image prompts of seen combinations": agreement(judge, guided[: len(seen)], seen),
        "image prompts of held-out combinations": agreement(judge, guided[len(seen) :], held_out),
    }
    report("Generated from prompts, % right", table(rows))
    distances = {
        "generated": frechet_distance(judge.judge(images).features, judge.judge(paintings).features),
        "other fresh paintings": frechet_distance(
            judge.judge(fresh_paintings(everything, 3 * FIRST_FRESH_SEED)).features, judge.judge(paintings).features
        ),
    }
    report("Fréchet distance to fresh paintings, in the judge's features", table({"": distances}, "{:.3f}".format))

    ratios, judged = [], []
    for i, attributes in enumerate(choose(CAPTIONS_FOR_DIVERSITY, False, 4)):
        prompt = captions(attributes, i, complete=True)[0]
        same = generate(pipe, [prompt] * SEEDS_FOR_DIVERSITY, False, options, SEEDS_FOR_DIVERSITY)
        painted = fresh_paintings([attributes] * SEEDS_FOR_DIVERSITY, (4 + i) * FIRST_FRESH_SEED)
        ratios.append(spread(same) / spread(painted))
        judged.append(F.pdist(judge.judge(same).features).mean() / F.pdist(judge.judge(painted).features).mean())
    diversity = {
        "of composition": 100 * float(np.mean(ratios)),
        "of the judge's features": 100 * float(np.mean(judged)),
    }
    report("Diversity over seeds, % of that of paintings of the same caption", table({"": diversity}))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(evaluate))
