"""The result of a run: a pipeline folder or a LoRA, its card and a plot of its losses."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..sharing.base_models import is_place, model_license, shareable
from ..sharing.hub import HubSettings, forget_places
from ..sharing.model_cards import (
    GRID_NAME,
    LORA,
    PIPELINE,
    PLOT_NAME,
    CardKind,
    save_card,
    settings_section,
    table,
)
from ..utils.files import folder_moved_into_place
from ..utils.words import PROMPTS_NAME, example_prompts
from .log import VALIDATION_PREFIX, describe_hardware, read_log
from .run import TrainingRun

UNKNOWN_LICENSE = (
    "not stated (the author can set it with --license); those of the data and the initial model may apply"
)

# Settings of the machine that a model was trained on. They do not describe the model.
SETTINGS_ASIDE = {"output_dir", "resume", "dry_run", "dataloader_num_workers", "run_name"}
SETTINGS_ASIDE |= {field.name for field in dataclasses.fields(HubSettings)}


TIME_LABELS = ("t < 1/4", "1/4 ≤ t < 1/2", "1/2 ≤ t < 3/4", "t ≥ 3/4")


def plot_losses(log: Path, path: Path) -> None:
    """Plots the losses of a diffusion model as a PNG file: all of them, and by quarter of the time."""
    labels = {f"loss_t{i}": label for i, label in enumerate(TIME_LABELS)}
    plot_log(log, path, {"loss": "all", **labels}, "loss")


def plot_log(
    log: Path,
    path: Path,
    labels: Mapping[str, str] | Sequence[str],
    ylabel: str,
    yscale: str = "log",
    panels: Mapping[str, str] | None = None,
) -> None:
    """Plots figures of a log over the steps as a PNG file; figures that the log lacks are left out.

    Figures of held-out images are dashed, in the colour of the same figures of the training images.

    Args:
        log: The log.
        path: The file.
        labels: Names of the figures in the log, and their labels in the legend. The first is black.
        ylabel: Label of the vertical axis.
        yscale: "log", or "linear" for figures that may be negative.
        panels: Names of figures that each get a panel of their own below, and the labels of its axis.
    """
    from matplotlib.figure import Figure

    entries = read_log(log)
    panels = {name: label for name, label in (panels or {}).items() if any(name in entry for entry in entries)}
    figure = Figure(figsize=(8, 4.5 + 2.5 * len(panels)), layout="constrained")
    axes, *below = figure.subplots(
        1 + len(panels), squeeze=False, sharex=True, height_ratios=[4.5, *(2.5 for _ in panels)]
    ).flat
    labels = labels if isinstance(labels, Mapping) else {name: name for name in labels}
    for i, (name, label) in enumerate(labels.items()):
        style = {"color": "black", "linewidth": 1.2} if i == 0 else {"color": f"C{i - 1}", "linewidth": 0.8}
        _plot_figure(axes, entries, name, label=label, **style)
        _plot_figure(axes, entries, VALIDATION_PREFIX + name, label=f"{label}, held out", linestyle="--", **style)
    axes.set(ylabel=ylabel, yscale=yscale)
    axes.legend()
    for panel, (name, label) in zip(below, panels.items()):
        _plot_figure(panel, entries, name, color="black", linewidth=1.2)
        panel.set(ylabel=label)
    for panel in (axes, *below):
        panel.grid(alpha=0.3)
    figure.axes[-1].set(xlabel="step")
    figure.savefig(path, dpi=100)


def _plot_figure(axes, entries, name, **options):
    points = [(entry["step"], entry[name]) for entry in entries if name in entry]
    if points:
        axes.plot(*zip(*points), marker="." if len(points) < 20 else None, **options)


def validation_facts(run: TrainingRun) -> dict[str, str]:
    """The last figures of a run's held-out images, as facts for its card; empty if there are none."""
    entries = [
        {name: value for name, value in entry.items() if name.startswith(VALIDATION_PREFIX)} | {"step": entry["step"]}
        for entry in read_log(run.log.path)
    ]
    entries = [entry for entry in entries if len(entry) > 1]
    if not entries:
        return {}
    labels = {f"loss_t{i}": f"loss at {label}" for i, label in enumerate(TIME_LABELS)}
    figures = {name.removeprefix(VALIDATION_PREFIX): value for name, value in entries[-1].items() if name != "step"}
    found = "; ".join(f"{labels.get(name, name)}: {value:.4g}" for name, value in figures.items())
    config = run.config
    source = shareable(config.validation_dataset or config.dataset or "the dataset")
    split = f", split {config.validation_split}" if config.validation_split else ""
    return {"held-out images": f"{source}{split}, after step {entries[-1]['step']:,}: {found}"}


def training_facts(run: TrainingRun, source: str, num_images: int | None) -> dict[str, str]:
    """Facts about a run for its card, by name.

    Args:
        run: The run, after its last step.
        source: The dataset: a path, or a name on the Hub.
        num_images: Number of images; `None` for a stream.
    """
    count = "a stream" if num_images is None else f"{num_images:,}"
    return {
        "images": f"{shareable(source)} ({count})",
        "steps": f"{run.state.step:,}, {run.state.images_seen:,} images seen",
        "parameters": f"{sum(weight.numel() for weight in run.ema.averages.values()):,} trained",
        **validation_facts(run),
        "hardware": describe_hardware(run.accelerator),
    }


def save_training_card(
    folder: Path,
    kind: CardKind,
    run: TrainingRun,
    name: str,
    facts: Mapping[str, str],
    source: str,
    has_grid: bool = False,
    sections: Sequence[str] = (),
    prompts: Sequence[str] | None = None,
) -> None:
    """Writes the model card of a run's result.

    Args:
        folder: Folder of the model, with the plot of its losses.
        kind: Kind of the model.
        run: The run.
        name: Name to load the model by.
        facts: Rows of the table, by name.
        source: The dataset: a path, or a name on the Hub.
        has_grid: True if the folder has a grid of samples.
        sections: Further sections, each with its heading.
        prompts: Prompts of which the lines take the first.

    Raises:
        OSError: If it cannot be written.
    """
    config = run.config
    base = getattr(config, "model", None)
    inherited = model_license(base) if config.license is None and base is not None else None
    licence = f"{inherited}, that of the initial model; the licences of the data may apply" if inherited else None
    facts = {**facts, "licence": config.license or licence or UNKNOWN_LICENSE}
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in SETTINGS_ASIDE}
    save_card(
        folder,
        kind,
        name,
        f"## Training\n\n{table(facts)}\n\n![Training losses]({PLOT_NAME})",
        *sections,
        settings_section(settings),
        base=base,
        has_grid=has_grid,
        license=config.license or inherited,
        datasets=None if is_place(source) else [source],
        prompts=prompts,
    )


def save_result(
    folder: Path,
    pipe: DiffusionPipeline,
    network: torch.nn.Module,
    run: TrainingRun,
    source: str,
    facts: Mapping[str, str],
    prompts: Sequence[str],
    grid: Image.Image | None,
) -> None:
    """Writes a trained model under a temporary name and moves it into place.

    Args:
        folder: Folder to write; it is replaced if it exists.
        pipe: The pipeline of the network.
        network: The trained network. Of a network with a LoRA, only the LoRA is saved.
        run: The run.
        source: The dataset: a path, or a name on the Hub.
        facts: Facts about the training for the card, by name.
        prompts: The prompts of the grid.
        grid: A grid of samples; `None` for no grid.

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
            forget_places(temporary)
        if grid is not None:
            grid.save(temporary / GRID_NAME)
            (temporary / PROMPTS_NAME).write_text("\n".join(prompts) + "\n", encoding="utf-8")
        plot_losses(run.log.path, temporary / PLOT_NAME)
        kind = LORA if is_lora else PIPELINE
        known = example_prompts(pipe.tokenizer.get_vocab(), prompts)
        save_training_card(
            temporary, kind, run, run.public_name, facts, source, has_grid=grid is not None, prompts=known
        )
