"""Pipelines are saved, loaded, and made from one another."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from ..models.adapters import without_adapters
from ..utils.errors import first_line
from ..utils.hub_names import require_hub_name
from .model_index import INDEX_NAME, read_model_index

# Hub repositories with the original's files, which cannot be loaded as pipelines, and the presets that convert them.
ORIGINAL_REPOSITORIES = {
    "huggan/ccld_wa": "wikiart",
    "huggan/distill-ccld-wa": "wikiart-mini",
    "gigant/distill-ccld": "wikiart-mini",
}

# What a model's folder records besides its components: its own defaults and limits.
SETTINGS = ("default_num_inference_steps", "default_guidance_scale", "default_variation", "max_guidance_scale")


class PipelineSaving:
    """Extends the methods of `DiffusionPipeline` that save and load; a class inherits from this one first."""

    @property
    def settings(self) -> dict[str, int | float | None]:
        """The model's own defaults and limits, as arguments of a pipeline's constructor."""
        return {name: self.config[name] for name in SETTINGS}

    def register_to_config(self, **kwargs) -> None:
        """Records components under the package's name instead of the modules', for `model_index.json`."""
        for name, value in kwargs.items():
            # In a standalone folder, the modules are diffusers' copies of its code.
            if isinstance(value, (tuple, list)) and str(value[0]).startswith(("diffusers_ccld.", "diffusers_modules")):
                kwargs[name] = ("diffusers_ccld", *value[1:])
        super().register_to_config(**kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | Path) -> dict[str, Any]:
        """Reads a configuration, but not the name of the code that a standalone folder carries."""
        config = super()._dict_from_json_file(json_file)
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        return config

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str | Path:
        """Downloads a pipeline; arguments as for `DiffusionPipeline.download`.

        Raises:
            ValueError: If the repository has the original's files.
        """
        preset = ORIGINAL_REPOSITORIES.get(str(pretrained_model_name))
        if preset is not None:
            raise ValueError(
                f"{pretrained_model_name} holds the original's files, not a diffusers pipeline. Convert them once: "
                f"`ccld convert --preset {preset} --output DIR`, and load the folder DIR."
            )
        return super().download(pretrained_model_name, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> DiffusionPipeline:
        """Loads a pipeline; arguments as for `DiffusionPipeline.from_pretrained`.

        Raises:
            ValueError: If a file is damaged, or belongs to another model; or if the name is neither a folder's nor
                possible on the Hub.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            require_hub_name(str(pretrained_model_name_or_path))
        if (folder / INDEX_NAME).is_file():
            read_model_index(folder)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (SafetensorError, LookupError, AttributeError, RuntimeError) as error:  # what libraries stumble over
            raise ValueError(
                f"{folder} cannot be loaded: a file is damaged, is a Git LFS pointer, or belongs to another model. "
                f"({type(error).__name__}: {first_line(error)})"
            ) from error

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Saves the pipeline; arguments as for `DiffusionPipeline.save_pretrained`. Fused LoRAs are saved as weights.

        Raises:
            ValueError: If a network has a LoRA in place that was not fused.
        """
        networks = {name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)}
        plain = {name: without_adapters(network, name) for name, network in networks.items()}
        if all(plain[name] is network for name, network in networks.items()):
            return super().save_pretrained(save_directory, **kwargs)
        return type(self)(**{**self.components, **self.settings, **plain}).save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> DiffusionPipeline:
        """Makes a pipeline of the same components, which keep their precision.

        Without a type, diffusers' own method would convert the components to float32, in the given pipeline, too.

        Args:
            pipeline: One of ours; others are left to diffusers.
            kwargs: Components and settings that replace the pipeline's own, or `dtype` to convert all components.
        """
        if not isinstance(pipeline, PipelineSaving) or kwargs.keys() & {"dtype", "torch_dtype", "custom_pipeline"}:
            return super().from_pipe(pipeline, **kwargs)
        made = cls(**{**pipeline.components, **pipeline.settings, **kwargs})
        made.register_to_config(_name_or_path=pipeline.config.get("_name_or_path"))
        made.notices = pipeline.notices
        return made
