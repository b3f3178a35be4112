#!/usr/bin/env python3
"""Measures a model of paintings: how often its pictures show the subject, medium and palette of the prompt.

    python benchmarks/evaluate_default.py --output results.md

A judge, trained only on painted pictures, reads the attributes off the samples. Prompts, seeds and paintings are
fixed: the same model on the same machine gives the same numbers. The prompts are captions like those that CLOOB was
trained on, of paintings outside the training set; the diffusion network never saw captions. Takes about 15 minutes on
two cores; --prompts 100 gives a rough estimate sooner.
"""

import argparse
from pathlib import Path

from diffusers_ccld import CCLDPipeline, default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.judge import load_judge
from diffusers_ccld.evaluation.painting_scores import (
    FIRST_FRESH_SEED,
    PICTURES_FOR_DIVERSITY,
    agreement,
    agreement_by_split,
    evaluation_set,
    fresh_paintings,
    likeness,
    mean_by_medium,
    minutes_to_sample,
    peak_signal_to_noise,
    reconstruct,
    relative_diversity,
    retrieval,
    sample_all,
)
from diffusers_ccld.evaluation.tables import Report, markdown_table
from diffusers_ccld.utils.arguments import ArgumentParser

WEIGHTS = Path(__file__).parents[1] / "weights"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="folder of a pipeline (default: the bundled model)")
    parser.add_argument(
        "--judge", default=WEIGHTS / "judge", type=Path, help="folder of the judge (default: %(default)s)"
    )
    parser.add_argument(
        "--second-judge",
        default=WEIGHTS / "second-judge",
        type=Path,
        help="folder of a judge that nothing was tuned by, for the last tables (default: %(default)s, if it is there)",
    )
    parser.add_argument(
        "--prompts", type=int, default=1000, help="number of prompts, 3 in 10 held out (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=None, help="sampling steps (default: the pipeline's)")
    parser.add_argument("--guidance-scale", type=float, help="(default: the pipeline's)")
    parser.add_argument("--variation", type=float, help="spread around prompts, 0 to 1 (default: the pipeline's)")
    parser.add_argument("--batch-size", type=int, default=25, help="pictures sampled at once (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="also write the results to this file")
    parser.add_argument("--dry-run", action="store_true", help="sample one batch, and print the time of all")
    arguments = parser.parse_args(argv)
    if arguments.prompts < 10 or arguments.batch_size < 1:
        raise ValueError("--prompts must be at least 10, and --batch-size at least 1.")
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    batch_size = arguments.batch_size
    pipe = CCLDPipeline.from_pretrained(arguments.model or default_model())
    pipe.set_progress_bar_config(disable=True)
    judge = load_judge(arguments.judge)
    options = {
        "guidance_scale": pipe.guidance_or_default(arguments.guidance_scale),
        "variation": pipe.variation_or_default(arguments.variation),
        "num_inference_steps": arguments.steps,
    }
    combinations = evaluation_set(arguments.prompts)
    if arguments.dry_run:
        count = 2 * arguments.prompts + PICTURES_FOR_DIVERSITY
        minutes = minutes_to_sample(pipe, combinations.prompts, count, batch_size, options)
        print(f"{count:,} pictures: {minutes:.1f} minutes of sampling; nothing was written")
        return
    report = Report(arguments.output)

    seen, held_out = combinations
    paintings = fresh_paintings(combinations.attributes)
    held_out_paintings = paintings[len(seen) :]
    reconstructed = reconstruct(pipe, held_out_paintings, batch_size)
    rows = {
        "fresh paintings of seen combinations": agreement(judge, paintings[: len(seen)], seen),
        "fresh paintings of held-out combinations": agreement(judge, held_out_paintings, held_out),
        "reconstructed held-out paintings": agreement(judge, reconstructed, held_out),
    }
    report.add("The judge, and the autoencoder, % right", markdown_table(rows))
    decibels = mean_by_medium(peak_signal_to_noise(reconstructed, held_out_paintings), held_out)
    report.add("Autoencoder, PSNR in dB on held-out paintings", markdown_table({"PSNR": decibels}))
    report.add("CLOOB, caption → painting, top 1 of 100, %", f"{retrieval(pipe):.1f}")

    images = sample_all(pipe, combinations.prompts, batch_size, options)
    guided = sample_all(pipe, paintings, batch_size, options)
    rows = agreement_by_split(judge, images, combinations, "prompts")
    rows |= agreement_by_split(judge, guided, combinations, "image prompts", "image prompts ")
    report.add("Generated from prompts, % right", markdown_table(rows))
    others = fresh_paintings(combinations.attributes, 3 * FIRST_FRESH_SEED)
    compared = {
        "sampled from prompts": images,
        "other fresh paintings, encoded and decoded": reconstruct(pipe, others, batch_size),
        "other fresh paintings": others,
    }
    rows = {name: likeness(judge, pictures, paintings) for name, pictures in compared.items()}
    report.add("Likeness to fresh paintings, in the judge's features", markdown_table(rows, "{:.2f}".format))
    diversity = relative_diversity(pipe, judge, options)
    title = "Diversity over seeds, % of that of paintings of the same caption"
    report.add(title, markdown_table({"": diversity}))
    if arguments.second_judge.is_dir():
        second = load_judge(arguments.second_judge)
        rows = {
            "fresh paintings": agreement(second, paintings, combinations.attributes),
            **agreement_by_split(second, images, combinations, "prompts"),
            "image prompts": agreement(second, guided, combinations.attributes),
        }
        report.add("A second judge, % right", markdown_table(rows))
        rows = {name: likeness(second, pictures, paintings) for name, pictures in compared.items()}
        report.add("Likeness, in the second judge's features", markdown_table(rows, "{:.2f}".format))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
