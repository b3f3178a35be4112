#!/usr/bin/env python3
"""Trains the judge, which recognises subject, medium and palette of paintings; it never sees a generated one.

    python training/train_judge.py --dataset FOLDER --output-dir DIR

The dataset comes from `make_paintings.py`. Generated pictures are a little softer and noisier than paintings, so most
of the paintings are blurred and made noisy. The result is OUTPUT_DIR/judge.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import datasets
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.settings import parse_config
from diffusers_ccld.data.images import as_pictures
from diffusers_ccld.data.randomness import Purpose, generator_at
from diffusers_ccld.data.sources import find_examples, select_images
from diffusers_ccld.evaluation.judge import JUDGES
from diffusers_ccld.sharing.base_models import shareable
from diffusers_ccld.sharing.model_cards import JUDGE, PLOT_NAME
from diffusers_ccld.training.accelerator import make_accelerator
from diffusers_ccld.training.batches import make_batches, make_training_data
from diffusers_ccld.training.checkpoints import find_checkpoint
from diffusers_ccld.training.config import RunConfig, setting
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.optimizers import make_optimizer
from diffusers_ccld.training.result import plot_log, save_training_card, training_facts
from diffusers_ccld.training.run import start_run
from diffusers_ccld.training.state import make_state
from diffusers_ccld.utils.files import folder_moved_into_place
from diffusers_ccld.utils.suggestions import path_suggestion

ATTRIBUTES = ("subject", "medium", "palette")


@dataclasses.dataclass(kw_only=True)
class JudgeConfig(RunConfig):
    """Settings of this script."""

    held_out_dataset: str | None = setting(
        None, "folder of paintings of the held-out combinations, which the judge must know to judge them"
    )
    architecture: Literal["residual", "convnext"] = setting("residual", "kind of the network")
    max_blur: float = setting(2.0, "deviation of the strongest blur, in pixels")
    max_noise: float = setting(0.05, "deviation of the strongest noise, of pixels in [−1, 1]")

    def __post_init__(self):
        super().__post_init__()
        if self.dataset is None:
            raise ValueError("--dataset is missing: give a folder of make_paintings.py.")
        for option, folder in (("--dataset", self.dataset), ("--held-out-dataset", self.held_out_dataset)):
            if folder is not None and not Path(folder).is_dir():
                advice = path_suggestion(folder, is_folder=True)
                raise ValueError(f"{option} {folder}: there is no such folder of make_paintings.py.{advice}")
        if not self.max_blur > 0 or self.max_noise < 0:
            raise ValueError("max_blur must be positive, and max_noise not negative.")


def disturb(pictures: torch.Tensor, config: JudgeConfig, position: int) -> torch.Tensor:
    """Blurs pictures (N, 3, H, W) and adds noise, by an amount drawn for the batch; every third picture stays."""
    rng = generator_at(config.seed, Purpose.NOISE, position)
    blur, noise = rng.uniform(0.05, 1, 2) * (config.max_blur, config.max_noise)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    size = 2 * int(3 * config.max_blur) + 1
    blurred = transforms.gaussian_blur(pictures, [size, size], [float(blur)])
    disturbed = blurred + noise * torch.randn(pictures.shape, generator=generator).to(pictures)
    keeps = torch.arange(len(pictures), device=pictures.device) % 3 == 0
    return torch.where(keeps[:, None, None, None], pictures, disturbed)


def train_judge(config: JudgeConfig) -> int:
    accelerator = make_accelerator(config)
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)
    size = config.resolution or 128
    sources = [config.dataset, *([config.held_out_dataset] if config.held_out_dataset else [])]
    found = [find_examples(source, config.dataset_split) for source in sources]
    accelerator.print(*(source.description for source in found), sep="\n")
    examples = datasets.concatenate_datasets([source.examples for source in found])
    passed_over = [entry for source in found for entry in source.passed_over]
    if not set(ATTRIBUTES) <= set(examples.column_names):
        raise ValueError(f"{config.dataset} was not written by make_paintings.py: it lacks {', '.join(ATTRIBUTES)}.")
    images = select_images(examples, config.dataset, config.image_column)
    data = make_training_data(config, accelerator, images, " + ".join(sources), size, passed_over)
    labels = {name: torch.tensor(examples[name][:]) for name in ATTRIBUTES}
    state = make_state(checkpoint, data.identity, accelerator.is_main_process)
    batches = make_batches(config, accelerator, data, size, state)
    judge = JUDGES[config.architecture]()
    network, optimizer = accelerator.prepare(judge, make_optimizer(config, judge.parameters()))
    ema = EMA(judge)

    with start_run(config, accelerator, state, ema, [optimizer], batches, data.num_images, data.bad) as run:
        for _ in run.steps():
            for batch, positions in run.micro_batches():
                pictures = as_pictures(batch, accelerator.device)
                with accelerator.accumulate(network):
                    verdict = network(disturb(pictures, config, positions[0]))
                    losses, right = [], {}
                    for name in ATTRIBUTES:
                        wanted = labels[name][batch["indices"]].to(accelerator.device)
                        logits = getattr(verdict, name)
                        losses.append(F.cross_entropy(logits, wanted, reduction="none"))
                        right[name] = (logits.argmax(-1) == wanted).float()
                    losses = torch.stack(losses).sum(dim=0)
                    all_losses = run.backward(losses.mean(), losses, pictures=pictures)
                    grad_norm = run.clip_gradient(judge.parameters(), pictures=pictures)
                    optimizer.step()
                    optimizer.zero_grad()
                all_right = accelerator.gather(right)
                shares = {name: hits.tolist() for name, hits in all_right.items()}
                run.log.add(len(all_losses), loss=all_losses.tolist(), **shares)
            run.finish_step(grad_norm)

        if run.is_complete and accelerator.is_main_process:
            folder = run.output_dir / "judge"
            with folder_moved_into_place(folder) as temporary, ema.applied():
                judge.half().save_pretrained(temporary)
                plot_log(run.log.path, temporary / PLOT_NAME, ["loss"], "cross entropy of the three attributes")
                facts = training_facts(run, " + ".join(map(shareable, sources)), data.num_images)
                save_training_card(temporary, JUDGE, run, run.public_name, facts, config.dataset)
            run.publish(folder)
    return run.exit_status


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(lambda: train_judge(parse_config(JudgeConfig, __doc__))))
