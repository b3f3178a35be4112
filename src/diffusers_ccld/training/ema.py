"""The exponential moving average (EMA) of a network's weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """Exponential moving average of a network's trained weights. It starts as a copy of them.

    The averages are float32: with the usual decays, a half-precision average would never move. Each process averages
    its own shards of a sharded network.

    Args:
        network: The network, not wrapped, after sharding if it is sharded.

    Attributes:
        weights: The trained weights, by name.
        averages: Their averages, by name.
    """

    def __init__(self, network: nn.Module):
        self.weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.averages = {name: _local(p).detach().float().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average ← decay · average + (1 − decay) · weights."""
        weights = [_local(p).detach().float() for p in self.weights.values()]
        get_ema_multi_avg_fn(decay)(list(self.averages.values()), weights, None)

    def copy_to_weights(self) -> None:
        """Replaces the network's weights by their averages."""
        self._set_weights(self.averages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the network has the averaged weights."""
        trained = {name: _local(p).detach().clone() for name, p in self.weights.items()}
        self._set_weights(self.averages)
        try:
            yield
        finally:
            self._set_weights(trained)

    @torch.no_grad()
    def _set_weights(self, values: dict[str, torch.Tensor]) -> None:
        for name, p in self.weights.items():
            _local(p).copy_(values[name])

    def assign(self, state: dict[str, torch.Tensor]) -> None:
        """Takes the averages from a state dict of the whole network."""
        for name, average in self.averages.items():
            average.copy_(state[name])

    def save(self, path: Path) -> None:
        """Writes the averages to a safetensors file."""
        save_file({name: average.contiguous() for name, average in self.averages.items()}, path)

    def load(self, path: Path) -> None:
        """Reads the averages from a safetensors file.

        Raises:
            ValueError: If the file belongs to another network.
        """
        saved = load_file(path)
        if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in self.averages.items()}:
            raise ValueError(f"{path} is the average of another network, or of one that is sharded differently.")
        self.assign(saved)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a tensor; the tensor itself if it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_sharded(accelerator: Accelerator) -> bool:
    """True if the network is sharded, so that no process holds all of it."""
    return accelerator.distributed_type == DistributedType.FSDP


@contextmanager
def averaged_network(
    accelerator: Accelerator, network: nn.Module, ema: EMA, make_whole: Callable[[], nn.Module]
) -> Iterator[nn.Module | None]:
    """The network with averaged weights on the main process, `None` on the others. All processes must take part.

    Args:
        accelerator: The run's accelerator.
        network: The network, not wrapped.
        ema: The average of its weights.
        make_whole: Makes an equal network. It is called for a sharded network, to gather the averages in.
    """
    with ema.applied():
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
