"""The progress of a training run: the part of a checkpoint that is JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypedDict

from ..data.fingerprints import fingerprint_difference
from ..data.latent_cache import with_present_names

STATE_NAME = "progress.json"
MOST_SHOWN = 3  # differences in the parts of a value


class Progress(TypedDict):
    """The content of `progress.json`.

    Attributes:
        step: Optimisation steps done.
        images_seen: Images trained on, by all processes together.
        log: Sum and count of each figure since the last entry of the log.
        stream: Epoch and offset of each process in its stream; `None` without a stream.
        identity: Values that must not change between resumptions, among them settings and fingerprints.
    """

    step: int
    images_seen: int
    log: dict[str, list[float]]
    stream: list[list[int]] | None
    identity: dict[str, Any]


@dataclasses.dataclass
class RunState:
    """The progress of a run. Networks, optimisers and generators are saved separately.

    Attributes:
        step: Optimisation steps done.
        images_seen: Images trained on, by all processes together.
        sums: Sum and count of each figure since the last entry of the log.
        stream: Epoch and offset of each process in its stream; `None` without a stream.
        identity: Values that must not change between resumptions, as JSON.
        checkpoint: Folder of the checkpoint that the run resumes from; `None` for a new run. It is not saved.
    """

    step: int = 0
    images_seen: int = 0
    sums: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    stream: list[list[int]] | None = None
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: Path | None = dataclasses.field(default=None, compare=False)

    def write(self, folder: Path) -> None:
        """Writes the state into the folder of a checkpoint."""
        values = Progress(
            step=self.step,
            images_seen=self.images_seen,
            log=self.sums,
            stream=self.stream,
            identity=self.identity,
        )
        (folder / STATE_NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_state(checkpoint: Path, identity: dict[str, Any] | None = None) -> RunState:
    """Reads the state of a checkpoint.

    Args:
        checkpoint: The checkpoint's folder.
        identity: The identity of the run that resumes from it; `None` skips the comparison.

    Raises:
        ValueError: If the checkpoint belongs to another run.
    """
    values = json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))
    before, now = _with_present_names(values["identity"]), json.loads(json.dumps(identity or {}))
    changed = [found for key in now if (found := _difference(key, before.get(key), now[key])) is not None]
    if changed:
        raise ValueError(f"{checkpoint} belongs to another run: {'; '.join(changed)}.")
    return RunState(
        step=values["step"],
        images_seen=values["images_seen"],
        sums=values["log"],
        stream=values["stream"],
        identity=before,
        checkpoint=checkpoint,
    )


def _difference(name: str, before: Any, now: Any) -> str | None:
    """Says how a value of the identity has changed; `None` if it has not."""
    if before == now:
        return None
    if name == "images" and before is not None and now is not None:
        found = fingerprint_difference(before, now)
        return found and f"images: {found}"
    if isinstance(before, dict) and isinstance(now, dict):
        parts = [_difference(key, before.get(key), now.get(key)) for key in {**before, **now}]
        found = [part for part in parts if part is not None]
        return f"{name}: {', '.join(found[:MOST_SHOWN])}{', …' * (len(found) > MOST_SHOWN)}" if found else None
    return f"{name} was {before} and is {now}"


def _with_present_names(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity of any version: the limits of images and the fields of manifests had other names in the first."""
    limits = {"min_side": "min_image_side", "max_pixels": "max_image_pixels"}
    renamed = {limits.get(name, name): value for name, value in identity.items()}
    if renamed.get("cache") is not None:
        renamed["cache"] = with_present_names(renamed["cache"])
    return renamed


def make_state(checkpoint: Path | None, identity: dict[str, Any], is_main_process: bool = True) -> RunState:
    """The state in which a run starts: that of its checkpoint, or that of a new run.

    Args:
        checkpoint: The checkpoint to resume from; `None` for a new run.
        identity: What must not change between resumptions, as JSON.
        is_main_process: Only the main process compares the identity: the others may lack parts of it.

    Raises:
        ValueError: If the checkpoint belongs to another run.
    """
    if checkpoint is None:
        return RunState(identity=identity)
    state = read_state(checkpoint, identity if is_main_process else None)
    return dataclasses.replace(state, identity=identity)
