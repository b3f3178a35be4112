"""The exponential moving average of a network's weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a network's trained weights; it begins as a copy of them.

    The average is kept in float32, for with the usual decays a half-precision one would never move. Of a network that
    is sharded over processes, each has the average of its own shards.

    Args:
        network: The network, not wrapped, but sharded if it is going to be.
    """

    def __init__(self, network: nn.Module):
        self.weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.averages = {name: _local(p).detach().float().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average ← decay · average + (1 − decay) · weights."""
        weights = [_local(p).detach().float() for p in self.weights.values()]
        get_ema_multi_avg_fn(decay)(list(self.averages.values()), weights, None)

    def move_weights_here(self) -> None:
        """The network goes on from its average."""
        self._assign(self.averages)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """For a while, the network has the averaged weights."""
        trained = {name: _local(p).detach().clone() for name, p in self.weights.items()}
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(trained)

    @torch.no_grad()
    def _assign(self, values):
        for name, p in self.weights.items():
            _local(p).copy_(values[name])

    def assign(self, state: dict[str, torch.Tensor]) -> None:
        """Takes the average from a state dict of the whole network."""
        for name, average in self.averages.items():
            average.copy_(state[name])

    def save(self, path: Path) -> None:
        """Writes the average."""
        save_file({name: average.contiguous() for name, average in self.averages.items()}, path)

    def load(self, path: Path) -> None:
        """Reads the average.

        Raises:
            ValueError: If it is of another network.
        """
        saved = load_file(path)
        if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in self.averages.items()}:
            raise ValueError(f"{path} is the average of another network, or of one sharded in another way.")
        self.assign(saved)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor; all of it if it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process has the whole network."""
    return accelerator.distributed_type == DistributedType.FSDP


@contextmanager
def averaged_network(
    accelerator: Accelerator, network: nn.Module, average: WeightAverage, make_whole: Callable[[], nn.Module]
) -> Iterator[nn.Module | None]:
    """The network with averaged weights, on the main process; `None` on the others. All processes have to take part.

    Args:
        accelerator: The run's accelerator.
        network: The network, not wrapped.
        average: Its average.
        make_whole: Makes a network of its kind; needed if it is sharded, for the averaged weights of all processes.
    """
    with average.in_place_of_weights():
        if is_sharded(accelerator):
            state = accelerator.get_state_dict(network)  # whole, on the main process alone
            whole = None
            if accelerator.is_main_process:
                whole = make_whole().to(accelerator.device).eval()
                whole.load_state_dict(state)
            yield whole
        else:
            yield network if accelerator.is_main_process else None
        accelerator.wait_for_everyone()
