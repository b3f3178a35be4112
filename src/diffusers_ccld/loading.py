"""A pipeline, loaded as the commands' options ask for."""

from pathlib import Path

import diffusers
import torch

from .bundled import default_model
from .pipeline_ccld import CCLDPipeline
from .scheduling_ccld import CCLDScheduler

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_pipeline(model: str | Path | None, dtype: str, device: torch.device, **sampler: str | None) -> CCLDPipeline:
    """Loads a pipeline to paint with.

    Args:
        model: Folder or name on the Hub; by default the small one of the package.
        dtype: Name of its precision, one of `DTYPES`.
        device: Where to.
        sampler: Options of `CCLDScheduler` that take the place of the model's own; `None` leaves one as it is.
    """
    diffusers.utils.logging.disable_progress_bar()
    pipe = CCLDPipeline.from_pretrained(model or default_model(), dtype=DTYPES[dtype]).to(device)
    changes = {name: value for name, value in sampler.items() if value is not None}
    if changes:
        pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, **changes)
    return pipe
