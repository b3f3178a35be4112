"""A training run: its steps, what it logs and saves, and how it ends."""

import dataclasses
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..sharing.hub import push_folder
from ..utils.locks import exclusive
from ..utils.next_steps import print_how_to_sample
from .accelerator import Interruption, clip_gradient, gather_stream_positions
from .bad_images import BadImages
from .checkpoints import find_checkpoint, load_checkpoint, save_batch, save_checkpoint, tidy_checkpoints
from .config import RunConfig, save_config
from .ema import EMA
from .log import TrainingLog, describe_dry_run, drop_later_entries
from .optimizers import learning_rate_schedule, set_learning_rate
from .state import RunState

DRY_RUN_STEPS = 3
LARGEST_INITIAL_SHARE = 0.5  # of the weights before the first step in the EMA after the last one
SHORT_DECAY = 0.9
INTERRUPTED_STATUS = 130  # a shell's exit status of a command that SIGINT ended


class TrainingRun:
    """The steps of a run, which can be interrupted after each of them and resumed to the bit.

    `start_run` makes one:

        with start_run(config, accelerator, state, ema, [optimizer], batches) as run:
            for _ in run.steps():
                for batch, positions in run.micro_batches():
                    ...  # forward
                    run.backward(loss, losses)
                    grad_norm = run.clip_gradient(network.parameters())
                    optimizer.step()
                    optimizer.zero_grad()
                    run.log.add(loss=...)
                run.finish_step(grad_norm)
            if run.is_complete:
                ...  # save the result
        return run.exit_status

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        state: Its progress.
        ema: The moving average of the trained weights.
        optimizers: The optimisers; each step sets their learning rate.
        batches: Endless generator of this process's batches.
        log: The log of figures and pictures.
        hub_name: Full name of the repository that the result is uploaded to; `None` for no upload.

    Attributes:
        output_dir: The run's folder.
        first_step: Number of this process's first step, counted from 1.
        last_step: Number of its last step.
        is_interrupted: True after a signal that ends the run early.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        state: RunState,
        ema: EMA,
        optimizers: Sequence[torch.optim.Optimizer],
        batches: Generator[dict[str, Any]],
        log: TrainingLog,
        hub_name: str | None = None,
    ):
        self.config, self.accelerator, self.state = config, accelerator, state
        self.ema, self.optimizers, self.batches = ema, optimizers, batches
        self.log, self.hub_name = log, hub_name
        self.output_dir = Path(config.output_dir)
        self.first_step = state.step + 1
        self.last_step = min(state.step + DRY_RUN_STEPS, config.max_steps) if config.dry_run else config.max_steps
        self.is_interrupted = False
        self._interruption = Interruption()
        self._learning_rate_at = learning_rate_schedule(config)
        self._last_batch: dict[str, Any] = {}
        self._started = time.monotonic()
        self._progress_bar = tqdm(
            initial=state.step,
            total=self.last_step,
            desc="Training",
            unit="step",
            disable=not accelerator.is_main_process,
        )

    # The steps

    def steps(self) -> Iterator[int]:
        """Yields the number of steps done, once before each remaining step, and saves checkpoints when they are due.

        The iteration ends after the last step, or early after SIGINT or SIGTERM. A dry run ends with a report.
        """
        self._started = time.monotonic()
        if self.state.step == self.last_step:
            self.accelerator.print(f"all {self.last_step} steps are done; to train on, give a higher --max-steps")
        with closing(self.batches), self._interruption, self._progress_bar:
            while self.state.step < self.last_step and not self.is_interrupted:
                yield self.state.step
                if self._is_saved:
                    name = f"step-{self.state.step:08d}"
                    self._save(self.config.checkpoints_dir / name, self.config.checkpoints_total_limit)
        if self.config.dry_run:
            seconds = (time.monotonic() - self._started) / max(self.state.step - self.first_step, 1)
            self.accelerator.print(describe_dry_run(self.config, seconds, self.first_step))
        elif self.is_interrupted:
            self.accelerator.print(f"stopped after step {self.state.step}; resume with --resume latest")

    @property
    def learning_rate(self) -> float:
        """Learning rate of the current step."""
        return self._learning_rate_at(self.state.step)

    def micro_batches(self) -> Iterator[tuple[dict[str, Any], range]]:
        """Yields the batches of one optimisation step, each with the positions of its images in the run."""
        for optimizer in self.optimizers:
            set_learning_rate(optimizer, self.learning_rate, self.config.weight_decay)
        size, accelerator = self.config.train_batch_size, self.accelerator
        for _ in range(self.config.gradient_accumulation_steps):
            self._last_batch = batch = next(self.batches)
            self.log.add_batch(batch)
            first = self.state.images_seen + accelerator.process_index * size
            yield batch, range(first, first + size)
            self.state.images_seen += size * accelerator.num_processes

    def backward(self, loss: torch.Tensor, losses: torch.Tensor, **tensors: torch.Tensor) -> torch.Tensor:
        """Computes the gradient of a batch's loss, if the loss is finite.

        Args:
            loss: Scalar, with a graph.
            losses: Its parts, of any shape.
            tensors: Inputs of the loss, saved if the step fails.

        Returns:
            The losses of all processes, (n,).

        Raises:
            ValueError: If a loss is not finite.
        """
        tensors |= {"losses": losses}
        all_losses = self.accelerator.gather(losses.detach().flatten())
        self._stop_if_not_finite(all_losses, "loss", tensors)
        self.accelerator.backward(loss)
        return all_losses

    def clip_gradient(self, parameters: Iterable[torch.nn.Parameter], **tensors: torch.Tensor) -> torch.Tensor | None:
        """Clips the gradient to `max_grad_norm` of the settings after the last batch of a step.

        Args:
            parameters: The parameters whose gradient is clipped.
            tensors: As for `backward`.

        Returns:
            The norm before clipping, a scalar; `None` while batches are accumulated.

        Raises:
            ValueError: If the gradient is not finite.
        """
        if not self.accelerator.sync_gradients:
            return None
        grad_norm = clip_gradient(self.accelerator, parameters, self.config.max_grad_norm)
        if self.accelerator.scaler is None:  # the scaler skips steps whose gradient is not finite
            self._stop_if_not_finite(grad_norm, "gradient", tensors)
        return grad_norm

    def _stop_if_not_finite(self, values: torch.Tensor, name: str, tensors: dict[str, torch.Tensor]) -> None:
        if torch.isfinite(values).all():
            return
        step, where = self.state.step + 1, ""
        if not self.config.dry_run:
            failed = self.output_dir / f"failed-step-{step:08d}"
            self._save(failed)
            save_batch(failed / f"batch-{self.accelerator.process_index}.safetensors", tensors)
            where = (
                f" The batch and the state before it are in {failed}; the newest checkpoint is from an earlier step."
            )
        raise ValueError(
            f"The {name} of step {step} is not finite.{where} Try a lower learning rate, max_grad_norm, or more "
            f"precision."
        )

    def finish_step(self, grad_norm: torch.Tensor) -> None:
        """Updates the EMA, counts the step, and writes an entry of the log if one is due.

        Args:
            grad_norm: The norm of the step's gradient, from `clip_gradient`.

        Raises:
            ValueError: If too many images are bad.
        """
        config, state = self.config, self.state
        learning_rate, ema_decay = self.learning_rate, config.ema_decay_at(state.step)
        if not self.accelerator.optimizer_step_was_skipped:
            self.ema.update(ema_decay)
            self.log.add(grad_norm=grad_norm.item())
        state.step += 1
        self._progress_bar.update()
        self.is_interrupted = self._interruption.requested(self.accelerator)
        if config.dry_run:
            if state.step == self.first_step < self.last_step:
                self._started = time.monotonic()  # the first step is a warm-up
            return
        is_logged = state.step % config.logging_steps == 0 or state.step == self.last_step
        if is_logged or self._is_saved:
            self.log.list_bad_images()
        if is_logged:
            entry = self.log.write(learning_rate=learning_rate, ema_decay=ema_decay)
            self._progress_bar.set_postfix(loss=f"{entry['loss']:.4f}", bad_images=entry["bad_images"])

    def is_due(self, every: int) -> bool:
        """True after each `every` steps, after a new run's first step, and after the last step. Always False for 0."""
        step = self.state.step
        is_first = step == self.first_step and self.state.checkpoint is None
        is_at_end = step == self.last_step or is_first
        return every > 0 and not self.config.dry_run and (step % every == 0 or is_at_end)

    # Checkpoints

    @property
    def _is_saved(self) -> bool:
        step = self.state.step
        is_due = step % self.config.checkpointing_steps == 0 or step == self.last_step or self.is_interrupted
        return is_due and not self.config.dry_run

    def _save(self, folder: Path, limit: int = 0) -> None:
        self.state.stream = gather_stream_positions(self.accelerator, self._last_batch)
        save_checkpoint(self.accelerator, self.ema, self.state, folder, limit)

    # The result

    @property
    def is_complete(self) -> bool:
        """True if there is a result to save: all steps are done, and this is not a dry run."""
        return self.state.step == self.last_step and not self.is_interrupted and not self.config.dry_run

    @property
    def exit_status(self) -> int:
        """Exit status of the script: 130 if the run was interrupted, else 0."""
        return INTERRUPTED_STATUS if self.is_interrupted and not self.config.dry_run else 0

    @property
    def public_name(self) -> str:
        """Name of the result for its card: its full name on the Hub, or else that of the run."""
        return self.hub_name or self.output_dir.resolve().name

    def publish(self, folder: Path) -> None:
        """Prints the result's folder and how to use it, and uploads it if the settings say so.

        Only the main process may call this.

        Raises:
            OSError: If the upload fails; the folder stays.
        """
        print(f"wrote {folder}")
        print_how_to_sample(folder)
        if self.hub_name is not None:
            print(f"uploaded to {push_folder(folder, self.hub_name)}")


@contextmanager
def start_run(
    config: RunConfig,
    accelerator: Accelerator,
    state: RunState,
    ema: EMA,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Generator[dict[str, Any]],
    num_images: int | None = None,
    bad: Sequence[tuple[str, str]] = (),
) -> Iterator[TrainingRun]:
    """Context of a run: restores its checkpoint, opens its folder, log and trackers, and closes them.

    Nothing is written before it is entered. From then on to its end, no other process can write the run's folder.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator; it has prepared networks and optimisers.
        state: The progress of the run.
        ema: The moving average of the trained weights.
        optimizers: The optimisers.
        batches: This process's batches, from `make_batches`; they are closed at the end.
        num_images: Number of images; `None` if unknown.
        bad: Name and reason of each image that is known to be bad.

    Raises:
        ValueError: If the last step is done already, the checkpoint is damaged, the result cannot be uploaded, or
            another run has the folder or has used it since the checkpoint was chosen.
    """
    output_dir = Path(config.output_dir)
    writes = accelerator.is_main_process and not config.dry_run
    with closing(batches), exclusive(output_dir) if writes else nullcontext():
        if state.step > config.max_steps:
            raise ValueError(f"The run is at step {state.step} already, and max_steps is {config.max_steps}.")
        if writes and find_checkpoint(config.checkpoints_dir, config.resume) != state.checkpoint:
            raise ValueError(f"Another run has written {output_dir} in the meantime; start this one again.")
        if state.checkpoint is not None:
            load_checkpoint(accelerator, ema, state.checkpoint)
        hub_name = config.prepare_repository(output_dir.resolve().name) if writes else None
        log = TrainingLog(
            accelerator,
            state,
            BadImages(config.max_bad_share, num_images, output_dir / "bad_images.jsonl" if writes else None),
            None if config.dry_run else output_dir,
        )
        if accelerator.is_main_process:
            warn_of_slow_ema(config)
        if writes:
            output_dir.mkdir(parents=True, exist_ok=True)
            tidy_checkpoints(config.checkpoints_dir, state.checkpoint)
            save_config(dataclasses.replace(config, resume=None), output_dir / "config.yaml")
            drop_later_entries(log.path, state.step)
        accelerator.wait_for_everyone()
        log.bad_images.record(bad)
        if not config.dry_run:
            accelerator.init_trackers(config.run_name, config=config.for_trackers())
        yield TrainingRun(config, accelerator, state, ema, optimizers, batches, log, hub_name)
    accelerator.end_training()


def warn_of_slow_ema(config: RunConfig) -> None:
    """Logs a warning if the EMA, which is the result, will hardly have moved at the end of a short run."""
    share = config.initial_share_of_ema
    if share > LARGEST_INITIAL_SHARE:
        remedy = SHORT_DECAY if SHORT_DECAY**config.max_steps <= LARGEST_INITIAL_SHARE else 0
        getLogger(__name__).warning(
            f"The result is the average of the weights over the steps, and {share:.0%} of it will be the weights "
            f"before the first of the {config.max_steps} steps. Give --ema-decays {remedy:g} or more steps."
        )
