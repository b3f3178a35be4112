"""Resumes a training run of the original code from its Lightning checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import CheckpointError
from .reading.checkpoints import read_checkpoint, state_dict_of
from .reading.weights import unwrapped
from .tensors.tables import from_original
from .tensors.unet import SCALE_BUFFER, canonical_names, split_training_checkpoint, unet_table


@dataclass
class TrainingState:
    """The state of a training run, under this package's names.

    Attributes:
        step: Optimisation steps done.
        weights: State dict of the U-Net.
        average: State dict of its EMA.
        moments: AdamW's state of every trained parameter, by name: "step", "exp_avg", "exp_avg_sq".
    """

    step: int
    weights: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    moments: dict[str, dict[str, torch.Tensor]]

    def load_into(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Loads the weights into a network and the moments into its AdamW, which keeps its settings."""
        network.load_state_dict(self.weights)
        names = [name for name, p in network.named_parameters() if p.requires_grad]
        state = {number: self.moments[name] for number, name in enumerate(names)}
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read_training_state(path: str | Path, network: torch.nn.Module) -> TrainingState:
    """Reads a Lightning checkpoint of `train_latent_diffusion.py` in JD-P/cloob-latent-diffusion.

    Args:
        path: The file.
        network: A U-Net of the file's size, for names and shapes.

    Raises:
        CheckpointError: If the file is not such a checkpoint, or lacks the optimiser's state.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is not a training checkpoint. To start from its weights, convert it.")
    parts = split_training_checkpoint(canonical_names(unwrapped(state_dict_of(checkpoint["state_dict"], path), path)))
    if "model" not in parts or "model_ema" not in parts:
        raise CheckpointError(f"{path} lacks the weights of a training run, model.* and model_ema.*.")
    step = checkpoint.get("global_step")
    if not isinstance(step, int) or step < 1:
        raise CheckpointError(f"{path} does not record the number of steps done.")

    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    trained = {name: p.shape for name, p in network.named_parameters() if p.requires_grad}
    weights, average = (_converted(parts[part], shapes, f"{path} ({part})") for part in ("model", "model_ema"))

    # AdamW identifies a parameter by its position in the network. The scale is a buffer and does not count.
    names = [name for name in parts["model"] if name != SCALE_BUFFER]
    states = _adam_states(checkpoint, path)
    if any(number not in range(len(names)) for number in states):
        raise CheckpointError(f"{path}: the optimiser's state belongs to another network.")
    updates = torch.tensor(float(max(state["step"] for state in states.values())))
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for moment in ("exp_avg", "exp_avg_sq"):
        found = {names[number]: state[moment] for number, state in states.items()}
        for name, tensor in _converted(found, trained, f"{path} (optimiser)").items():
            moments.setdefault(name, {"step": updates.clone()})[moment] = tensor
    return TrainingState(step, weights, average, moments)


def _converted(state: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], where: str):
    converted, _ = from_original(state, unet_table(), shapes, ignore=SCALE_BUFFER, where=where)
    return {name: tensor.clone() for name, tensor in converted.items()}


def _adam_states(checkpoint, path):
    try:
        states = checkpoint["optimizer_states"][0]["state"]
        for state in states.values():
            state_dict_of({name: state[name] for name in ("exp_avg", "exp_avg_sq")}, path)
            float(state["step"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} lacks AdamW's state. To start from its weights, convert it.") from error
    if not states:
        raise CheckpointError(f"{path} lacks AdamW's state. To start from its weights, convert it.")
    return states
