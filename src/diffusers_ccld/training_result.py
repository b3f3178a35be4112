"""What a run leaves behind: a pipeline folder or a LoRA, its card and a plot of its losses, on the Hub if wanted."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from PIL import Image

from .errors import first_line
from .files import folder_moved_into_place
from .training_log import read_log

GRID_NAME = "samples.png"
PROMPTS_NAME = "prompts.txt"
PLOT_NAME = "losses.png"

USE_PIPELINE = """
import diffusers_ccld
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("this folder, or its name on the Hub")
pipe("A sunset landscape painting, oil on canvas").images[0].save("sunset.png")
"""
USE_LORA = """
import diffusers_ccld
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("the model that it was trained on")
pipe.load_lora_weights("this folder, or its name on the Hub")
pipe("A sunset landscape painting, oil on canvas").images[0].save("sunset.png")
"""

UNKNOWN_LICENSE = "not stated by who trained it; those of the data and of the model it began from may bind"

# Settings that say something of the place a model was trained in, not of the model.
SETTINGS_ASIDE = {"output_dir", "resume", "dry_run", "dataloader_num_workers", "run_name", "push_to_hub"}


TIME_LABELS = ("t < 1/4", "1/4 ≤ t < 1/2", "1/2 ≤ t < 3/4", "t ≥ 3/4")


def plot_losses(log: Path, path: Path) -> None:
    """Plots the losses of a diffusion model's log, whole and by quarter of the time, as a PNG file."""
    labels = {f"loss_t{i}": label for i, label in enumerate(TIME_LABELS)}
    plot_log(log, path, {"loss": "all", **labels}, "loss")


def plot_log(
    log: Path, path: Path, labels: Mapping[str, str] | Sequence[str], ylabel: str, yscale: str = "log"
) -> None:
    """Plots figures of a log over the steps, as a PNG file; those that the log does not have are left out.

    Args:
        log: The log.
        path: The file.
        labels: The figures' names in the log, and what the legend calls them; the first is drawn in black.
        ylabel: What all of them are.
        yscale: "log", or "linear" for what may be negative.
    """
    from matplotlib.figure import Figure

    entries = read_log(log)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    labels = labels if isinstance(labels, Mapping) else {name: name for name in labels}
    for i, (name, label) in enumerate(labels.items()):
        points = [(entry["step"], entry[name]) for entry in entries if name in entry]
        if points:
            marker = "." if len(points) < 20 else None
            style = {"color": "black", "linewidth": 1.2} if i == 0 else {"linewidth": 0.8}
            axes.plot(*zip(*points), label=label, marker=marker, **style)
    axes.set(xlabel="step", ylabel=ylabel, yscale=yscale)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def write_model_card(
    folder: Path, config: Any, source: str, facts: Mapping[str, str], how_to_use: str, has_grid: bool
) -> None:
    """Writes `README.md`.

    Args:
        folder: The model's.
        config: The run's settings, a dataclass; `license` and `model` among them.
        source: Where the images came from: a path, or a name on the Hub.
        facts: What else is to be told in the table, by name.
        how_to_use: Lines of Python.
        has_grid: Whether there is a grid of samples in the folder.
    """
    is_hub_name = not Path(config.model).exists()
    data = ModelCardData(
        license=config.license,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["diffusers", "text-to-image", "ccld", "cloob"],
        base_model=config.model if is_hub_name else None,
        datasets=None if Path(source).is_absolute() else [source],
    )
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in SETTINGS_ASIDE}
    grid = f"![Samples, one for each line of {PROMPTS_NAME}]({GRID_NAME})\n" if has_grid else ""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    text = f"""---
{data.to_yaml()}
---

# CLOOB-Conditioned Latent Diffusion

A text-to-image model that was trained on images without captions: conditioned on the CLOOB embedding of each image,
it is sampled with the CLOOB embedding of a prompt.

{grid}
## Use

```python
{how_to_use.strip()}
```

## Training

| | |
|---|---|
{rows}
| licence | {config.license or UNKNOWN_LICENSE} |

![Training losses]({PLOT_NAME})

## Limitations

It knows what its training images show, and CLOOB's idea of them: neither text in pictures, nor counts, nor who stands
left of whom. It repeats the biases of both.

## Settings

```yaml
{yaml.safe_dump(settings, sort_keys=False).strip()}
```
"""
    ModelCard(text).save(folder / "README.md")


def create_repository(name: str) -> str:
    """Makes sure that a repository can be written, before any work; gives its full name.

    Raises:
        ValueError: If it cannot.
    """
    try:
        return HfApi().create_repo(name, exist_ok=True).repo_id
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise ValueError(
            f"--push_to_hub: {name} cannot be written; is `hf auth login` done? ({first_line(error)})"
        ) from error


def push_folder(folder: Path, name: str) -> str:
    """Uploads a folder to a repository; gives its address."""
    return str(HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a trained model"))


def save_result(
    folder: Path,
    pipe: DiffusionPipeline,
    network: torch.nn.Module,
    config: Any,
    source: str,
    facts: Mapping[str, str],
    log: Path,
    prompts: Sequence[str],
    grid: Image.Image | None,
) -> None:
    """Writes a trained model under a temporary name and moves it into place.

    Args:
        folder: Where it shall be; what is there goes.
        pipe: The pipeline that the network belongs to.
        network: The trained network, or one with a trained LoRA, which is then saved alone.
        config: The run's settings.
        source: Where its images came from.
        facts: What the card tells of the training, by name.
        log: The run's log.
        prompts: What the grid shows.
        grid: A grid of samples, if there is one.

    Raises:
        OSError: If it cannot be written.
    """
    is_lora = hasattr(network, "peft_config")
    with folder_moved_into_place(folder) as temporary:
        if is_lora:
            from peft import get_peft_model_state_dict

            type(pipe).save_lora_weights(
                temporary,
                unet_lora_layers=get_peft_model_state_dict(network),
                unet_lora_adapter_metadata=network.peft_config["default"].to_dict(),
            )
        else:
            pipe.register_modules(unet=network)
            pipe.save_pretrained(temporary)
        if grid is not None:
            grid.save(temporary / GRID_NAME)
            (temporary / PROMPTS_NAME).write_text("\n".join(prompts) + "\n")
        plot_losses(log, temporary / PLOT_NAME)
        how_to_use = USE_LORA if is_lora else USE_PIPELINE
        write_model_card(temporary, config, source, facts, how_to_use, has_grid=grid is not None)
