"""The pipeline whose U-Net is trained: it samples demo grids during the run, and is saved at the end."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from ..inference.sampling import NonFinitePixelsError, sample
from ..utils.pictures import image_grid
from ..utils.text_lines import read_entries
from ..utils.words import example_prompts
from .batches import TrainingData
from .components import network_settings
from .config import TrainingConfig
from .ema import averaged_network
from .result import save_result, training_facts
from .run import TrainingRun

logger = logging.getLogger(__name__)


class PipelineInTraining:
    """Samples from and saves a pipeline whose U-Net is being trained.

    Args:
        config: The run's settings.
        pipe: The pipeline, with the U-Net that is trained, not wrapped.

    Raises:
        ValueError: If the file of demo prompts has no prompts.
    """

    def __init__(self, config: TrainingConfig, pipe: DiffusionPipeline):
        self.config, self.pipe, self.unet = config, pipe, pipe.unet
        self.prompts = _demo_prompts(config.demo_prompts, pipe)
        self._make_whole = functools.partial(type(pipe.unet).from_config, network_settings(pipe.unet))
        self._grid = None

    def show(self, run: TrainingRun) -> None:
        """Samples the settings' prompts with the averaged weights; all processes must take part."""
        config = self.config
        with self._averaged(run) as averaged:
            if averaged is None:
                return
            self.pipe.unet = averaged
            try:
                self._grid = sample_grid(
                    self.pipe,
                    self.prompts,
                    config.seed,
                    batch_size=config.train_batch_size,
                    num_inference_steps=config.demo_inference_steps,
                    guidance_scale=config.demo_guidance_scale,
                )
                run.log.show("demo", self._grid)
            except NonFinitePixelsError as error:  # worth a warning, but not the run
                self._grid = None
                logger.warning("No demo grid after step %d. %s", run.state.step, error)
            finally:
                self.pipe.unet = self.unet

    def validate(self, run: TrainingRun, measure: Callable[[nn.Module], Mapping[str, float]]) -> None:
        """Logs what `measure` finds of the U-Net with averaged weights; all processes must take part."""
        with self._averaged(run) as averaged:
            if averaged is not None:
                run.log.note(measure(averaged))

    def save(self, run: TrainingRun, data: TrainingData, facts: Mapping[str, str], name: str = "pipeline") -> None:
        """Saves the pipeline with the averaged weights, and uploads it if asked; all processes must take part.

        Args:
            run: The run, after its last step.
            data: The run's images.
            facts: Facts for the model card, in addition to those of every training.
            name: Name of the folder in the run's folder.

        Raises:
            OSError: If the folder cannot be written.
        """
        if self.config.demo_every and run.state.step < run.first_step:  # there was no step left
            self.show(run)
        with self._averaged(run) as averaged:
            if averaged is None:
                return
            folder = run.output_dir / name
            facts = {**facts, **training_facts(run, data.source, data.num_images)}
            save_result(folder, self.pipe, averaged, run, data.source, facts, self.prompts, self._grid)
            run.publish(folder)

    def _averaged(self, run):
        return averaged_network(run.accelerator, self.unet, run.ema, self._make_whole)


def _demo_prompts(path, pipe):
    """The prompts of a file, or else prompts of words that the pipeline's tokenizer knows."""
    return example_prompts(pipe.tokenizer.get_vocab()) if path is None else read_prompts(path)


def read_prompts(path: str) -> list[str]:
    """Reads prompts from a text file, one per line, as `read_entries` does.

    Raises:
        ValueError: If the file cannot be read, or has no prompts.
    """
    prompts = [line for _, line in read_entries(Path(path))]
    if not prompts:
        raise ValueError(f"{path} has no prompts.")
    return prompts


def sample_grid(
    pipe: DiffusionPipeline, prompts: Sequence[str], seed: int, batch_size: int, **options: Any
) -> Image.Image:
    """Samples a grid with one picture for each prompt, four per row. Each prompt has the same noise at every call.

    Args:
        pipe: The pipeline.
        prompts: The prompts.
        seed: Seed of the first picture; the others count up.
        batch_size: Pictures sampled at once.
        options: Further arguments of the pipeline's call.

    Raises:
        NonFinitePixelsError: If a pixel is infinite or not a number.
    """
    pipe.set_progress_bar_config(disable=True)
    seeds = range(seed, seed + len(prompts))
    pictures = list(sample(pipe, seeds, prompts, batch_size=batch_size, **options))
    return image_grid(pictures, columns=min(4, len(pictures)))
