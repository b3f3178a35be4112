"""The course of a training run: where it goes on from, its steps, what it logs and saves, and how it ends."""

import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..sharing.hub import prepare_repository, push_folder
from ..utils.pictures import save_image
from .accelerator import Interruption, clip_gradient, gather_stream_positions, make_accelerator
from .bad_images import BadImages, gather_bad_images
from .checkpoints import find_checkpoint, load_checkpoint, read_progress, save_batch, save_checkpoint, tidy_checkpoints
from .config import RunConfig, save_config
from .ema import WeightAverage, is_sharded
from .log import TrainingLog, describe_dry_run, log_image
from .optimizers import learning_rate_schedule, set_learning_rate

DRY_RUN_STEPS = 3


class TrainingRun:
    """A run of optimisation steps that can be interrupted after each of them, and goes on to the bit.

        run = TrainingRun(config)
        run.identify({"seed": config.seed, ...})
        network, optimizer = run.accelerator.prepare(network, optimizer)
        run.restore(WeightAverage(network), [optimizer])
        run.begin(num_images)
        with closing(batches), run:
            while run.goes_on:
                for batch, positions in run.micro_batches(batches):
                    ...
                run.finish_step()

    Args:
        config: The run's settings.
        may_shard: Whether the script can train what is sharded over processes (FSDP, DeepSpeed).

    Attributes:
        accelerator: The run's accelerator.
        output_dir: Where the run writes.
        checkpoint: The checkpoint it goes on from; `None` for a run that begins.
        step: Steps done.
        images_seen: Images trained on, by all processes together.
        log: Takes figures; see `TrainingLog`.
        is_interrupted: Whether the run was told to end before its last step.
        hub_name: Full name of the repository that the result is uploaded to, or `None`.

    Raises:
        ValueError: If the accelerator cannot be made or the checkpoint is not there.
    """

    def __init__(self, config: RunConfig, may_shard: bool = False):
        self.config = config
        self.accelerator = make_accelerator(config)
        if not may_shard and (is_sharded(self.accelerator) or self.accelerator.state.deepspeed_plugin is not None):
            raise ValueError("This script's processes each have the whole network: launch it with accelerate's DDP.")
        torch.manual_seed(config.seed)
        self.output_dir = Path(config.output_dir)
        self.checkpoint = find_checkpoint(self.output_dir / "checkpoints", config.resume)
        self.identity: dict[str, Any] = {}
        self.progress: dict[str, Any] = {"step": 0, "images_seen": 0, "log": {}, "stream": None}
        self.step = self.images_seen = 0
        self.is_interrupted = False
        self.hub_name: str | None = None

    # Before the first step

    def identify(self, identity: dict[str, Any]) -> None:
        """Says what may not change while the run lasts, and finds out how far it is.

        Raises:
            ValueError: If the checkpoint is of another run, or past the last step.
        """
        self.identity = identity
        if self.checkpoint is not None:
            self.progress = read_progress(self.checkpoint, identity if self.accelerator.is_main_process else {})
        self.set_out_from(self.progress["step"])

    def set_out_from(self, step: int) -> None:
        """Counts the steps from that one on: those of a checkpoint, or of whoever trained before.

        Raises:
            ValueError: If that is past the last step.
        """
        if step > self.config.max_steps:
            raise ValueError(f"The run is at step {step} already, and max_steps is {self.config.max_steps}.")
        self.step, self.images_seen = step, self.progress["images_seen"]

    def restore(self, average: WeightAverage, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Loads the checkpoint, if there is one, once the accelerator has prepared everything.

        Args:
            average: The weights' average.
            optimizers: The optimisers; they get the learning rate of each step.

        Raises:
            ValueError: If the checkpoint is damaged.
        """
        self.average, self.optimizers = average, optimizers
        if self.checkpoint is not None:
            load_checkpoint(self.accelerator, average, self.checkpoint)

    def begin(self, num_images: int | None, bad: Sequence[tuple[str, str]] = ()) -> None:
        """Opens log and trackers. Nothing was written before.

        Args:
            num_images: How many images there are; `None` if that is not known.
            bad: Bad images that are known already: name and reason of each.

        Raises:
            ValueError: If the result is to be uploaded, and cannot be.
        """
        config, accelerator = self.config, self.accelerator
        writes = accelerator.is_main_process and not config.dry_run
        if writes and config.push_to_hub:
            name = config.hub_model_id or self.output_dir.resolve().name
            self.hub_name = prepare_repository(name, config.hub_private_repo)
        if writes:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            tidy_checkpoints(self.output_dir / "checkpoints", self.checkpoint)
            save_config(dataclasses.replace(config, resume=None), self.output_dir / "config.yaml")
        accelerator.wait_for_everyone()
        self.log_path = None if config.dry_run else self.output_dir / "metrics.jsonl"
        self.log = TrainingLog(accelerator, self.log_path)
        self.log.resume(self.step, self.progress["log"])
        self.bad_images = BadImages(
            config.max_bad_share, num_images, self.output_dir / "bad_images.jsonl" if writes else None
        )
        self.bad_images.record(bad)
        if not config.dry_run:
            accelerator.init_trackers(config.run_name, config=config.for_trackers())
        self.first_step = self.step + 1
        self.last_step = min(self.step + DRY_RUN_STEPS, config.max_steps) if config.dry_run else config.max_steps
        self._learning_rate_at = learning_rate_schedule(config)
        self._num_looked_at, self._bad, self._batch = 0, [], {}

    def __enter__(self) -> "TrainingRun":
        self._interruption = Interruption().__enter__()
        self._progress_bar = tqdm(
            initial=self.step,
            total=self.last_step,
            desc="Training",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        self._started = time.monotonic()
        return self

    def __exit__(self, *exception) -> None:
        self._progress_bar.close()
        self._interruption.__exit__(*exception)

    # The steps

    @property
    def goes_on(self) -> bool:
        """Whether there is another step to do."""
        return self.step < self.last_step and not self.is_interrupted

    @property
    def learning_rate(self) -> float:
        """Learning rate of the present step."""
        return self._learning_rate_at(self.step)

    def micro_batches(self, batches: Generator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], range]]:
        """The batches of one optimisation step, each with the positions of its images in the run."""
        for optimizer in self.optimizers:
            set_learning_rate(optimizer, self.learning_rate, self.config.weight_decay)
        size, accelerator = self.config.train_batch_size, self.accelerator
        for _ in range(self.config.gradient_accumulation_steps):
            self._batch = batch = next(batches)
            self._num_looked_at += batch["num_looked_at"]
            self._bad += batch["bad"]
            first = self.images_seen + accelerator.process_index * size
            yield batch, range(first, first + size)
            self.images_seen += size * accelerator.num_processes

    def backward(self, loss: torch.Tensor, losses: torch.Tensor, **tensors: torch.Tensor) -> torch.Tensor:
        """Computes the gradient of a batch's loss, after a look at whether it is finite.

        Args:
            loss: Scalar, with a graph.
            losses: What it is made of, of any shape.
            tensors: What it was computed from, for whoever looks into a failed step.

        Returns:
            The losses of all processes, (n,).

        Raises:
            ValueError: If they are not finite.
        """
        tensors |= {"losses": losses}
        all_losses = self.accelerator.gather(losses.detach().flatten())
        self._stop_if_not_finite(all_losses, "loss", tensors)
        self.accelerator.backward(loss)
        return all_losses

    def clip_gradient(self, parameters: Iterable[torch.nn.Parameter], **tensors: torch.Tensor) -> None:
        """Clips the gradient to the settings' norm once it is complete, that is after the step's last batch.

        Args:
            parameters: Whose gradient.
            tensors: As for `backward`.

        Raises:
            ValueError: If the gradient is not finite.
        """
        if not self.accelerator.sync_gradients:
            return
        self._grad_norm = clip_gradient(self.accelerator, parameters, self.config.max_grad_norm)
        if self.accelerator.scaler is None:  # which skips such steps, and is there for them
            self._stop_if_not_finite(self._grad_norm, "gradient", tensors)

    def _stop_if_not_finite(self, values, what, tensors):
        if torch.isfinite(values).all():
            return
        where = ""
        if not self.config.dry_run:
            aside = self.output_dir / f"failed-step-{self.step + 1:08d}"
            self._save(aside)
            save_batch(aside / f"batch-{self.accelerator.process_index}.safetensors", tensors)
            where = f" What led to it is in {aside}; the newest checkpoint is of an earlier step."
        raise ValueError(
            f"The {what} of step {self.step + 1} is not finite.{where} Try a lower learning rate, max_grad_norm, or "
            f"more precision."
        )

    def show(self, name: str, picture: Image.Image) -> None:
        """Writes a picture of how the run is doing to its folder, and sends it to the trackers."""
        (self.output_dir / "demos").mkdir(exist_ok=True)
        save_image(picture, self.output_dir / "demos" / f"step-{self.step:08d}.png")
        log_image(self.accelerator, name, picture, self.step)

    def finish_step(self, show_every: int = 0, show: Callable[[], None] | None = None) -> None:
        """Averages the weights, and logs, shows and saves what is due.

        Args:
            show_every: Steps between two calls of `show`, which is called after the first step and the last, too; 0
                for none.
            show: Shows how the run is doing.
        """
        config = self.config
        if not self.accelerator.optimizer_step_was_skipped:
            self.average.update(config.ema_decay_at(self.step))
            self.log.add(grad_norm=self._grad_norm.tolist())
        learning_rate = self.learning_rate
        self.step += 1
        self._progress_bar.update()
        self.is_interrupted = self._interruption.requested(self.accelerator)
        if config.dry_run:
            if self.step == self.first_step < self.last_step:
                self._started = time.monotonic()  # the first step warms up
            return

        is_last = self.step == self.last_step
        is_logged = self.step % config.logging_steps == 0 or is_last
        is_saved = self.step % config.checkpointing_steps == 0 or is_last or self.is_interrupted
        is_first = self.step == self.first_step and self.checkpoint is None
        if is_logged or is_saved:
            gather_bad_images(self.accelerator, self.bad_images, self._num_looked_at, self._bad)
            self._num_looked_at, self._bad = 0, []
        if is_logged:
            entry = self.log.write(
                self.step,
                learning_rate=learning_rate,
                ema_decay=config.ema_decay_at(self.step - 1),
                bad_images=len(self.bad_images.reasons),
                images_seen=self.images_seen,
            )
            self._progress_bar.set_postfix(loss=f"{entry['loss']:.4f}", bad_images=len(self.bad_images.reasons))
        if show_every and (self.step % show_every == 0 or is_last or is_first):
            show()
        if is_saved:
            name = f"step-{self.step:08d}"
            self._save(self.output_dir / "checkpoints" / name, config.checkpoints_total_limit)

    def _save(self, folder, limit=0):
        progress = {
            "step": self.step,
            "images_seen": self.images_seen,
            "log": self.log.sums,
            "stream": gather_stream_positions(self.accelerator, self._batch),
            "identity": self.identity,
        }
        save_checkpoint(self.accelerator, self.average, progress, folder, limit)

    # After the last step

    def end(self) -> bool:
        """Reports how the run ended; whether there is a result to be saved: not after a dry run.

        Raises:
            KeyboardInterrupt: If it was interrupted; its checkpoint is saved.
        """
        if self.is_interrupted and not self.config.dry_run:
            self.accelerator.print(f"stopped after step {self.step}; go on with --resume latest")
            self.accelerator.end_training()
            raise KeyboardInterrupt
        if self.config.dry_run:
            measured = max(self.step - self.first_step, 1)
            seconds = (time.monotonic() - self._started) / measured
            self.accelerator.print(describe_dry_run(self.config, seconds, self.first_step))
            self.accelerator.end_training()
        return not self.config.dry_run

    def name_of(self, folder: Path) -> str:
        """What others load the result of this folder as: its name on the Hub, or the folder's."""
        return self.hub_name or f"{self.output_dir.resolve().name}/{folder.name}"

    def hand_over(self, folder: Path) -> None:
        """Says where the result is, and uploads it if that was asked; the main process alone.

        Raises:
            OSError: If the upload fails; the folder is there.
        """
        print(f"wrote {folder}")
        if self.hub_name is not None:
            print(f"uploaded to {push_folder(folder, self.hub_name)}")
