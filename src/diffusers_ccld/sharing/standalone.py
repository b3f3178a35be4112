"""Code files for using a pipeline's folder where this package is not installed.

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    img2img = AutoPipelineForImage2Image.from_pipe(pipe)
    inpaint = AutoPipelineForInpainting.from_pipe(pipe)

diffusers looks for a pipeline's class in the file that `model_index.json` names, and for a component's class in a file
with the name of its library in the component's folder. Each has to be a single file. All are the same: the modules
that sampling needs, concatenated. Where this package has been imported, its own classes are taken instead.
"""

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from ..utils.files import write_text
from .standalone_cards import save_standalone_card

# Each module needs only those before it.
MODULES = (
    "utils/rgb",
    "utils/errors",
    "utils/terminal_text",
    "utils/suggestions",
    "utils/hub_names",
    "utils/words",
    "utils/notices",
    "models/adapters",
    "models/configuration_cloob",
    "models/losses_cloob",
    "models/linear_decoder",
    "models/winograd",
    "models/inference_layers",
    "models/inference_autoencoder",
    "models/vision_embeddings",
    "models/modeling_cloob",
    "models/gumbel_vq",
    "models/square_crop",
    "models/processing_cloob",
    "models/prediction",
    "models/attention_processor",
    "models/unet_ccld",
    "schedulers/names",
    "schedulers/noise_schedule",
    "schedulers/solvers",
    "schedulers/short_lists",
    "schedulers/parameterization",
    "schedulers/scheduling_ccld",
    "pipelines/usual",
    "pipelines/conditions",
    "pipelines/guidance",
    "pipelines/projected_guidance",
    "pipelines/model_index",
    "pipelines/saving",
    "pipelines/noise",
    "pipelines/embedding",
    "pipelines/calls",
    "pipelines/runs",
    "pipelines/timesteps",
    "pipelines/base",
    "pipelines/pipeline_ccld",
    "pipelines/pixels",
    "pipelines/starting_images",
    "pipelines/pipeline_ccld_img2img",
    "pipelines/pipeline_ccld_inpaint",
)
PACKAGE = Path(__file__).parents[1]
LIBRARY = PACKAGE.name

HEADER = '''"""CLOOB-Conditioned Latent Diffusion for diffusers, in one file.

Written by diffusers-ccld, from its own modules: {modules}. Do not edit it; the package has the source.

Copyright (c) 2026 The diffusers-ccld authors. MIT licence: use, copy, change and pass it on, with this notice; without
any warranty.
"""
'''

# The pipelines in the file, and the mappings in which diffusers looks for one that does another task.
PIPELINES = {
    "CCLDPipeline": "AUTO_TEXT2IMAGE_PIPELINES_MAPPING",
    "CCLDImg2ImgPipeline": "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    "CCLDInpaintPipeline": "AUTO_INPAINT_PIPELINES_MAPPING",
}

# Ends the file. A class of the package and its copy are two classes; in one process, only one of them is used.
FOOTER = """
_package = sys.modules.get("{library}")
if _package is None:
    # Each component's class is that of the copy of this file in its folder, which is not the one annotated here.
    CCLDPipelineBase.__init__.__annotations__ = {{}}
{registrations}
else:
{replacements}
"""


def standalone_source() -> str:
    """The source of everything that sampling needs, as one module.

    Raises:
        RuntimeError: If two of the modules define the same name.
    """
    imports: dict[str, None] = {}
    bodies, owners = [], {}
    for module in MODULES:
        source = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
        parts = []
        for node in ast.parse(source).body:
            text = ast.get_source_segment(source, node)
            if isinstance(node, ast.ImportFrom) and node.level:
                continue
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                imports[text] = None
                continue
            if getattr(node, "decorator_list", None):  # the segment does not include decorators
                lines = source.splitlines()[node.decorator_list[0].lineno - 1 : node.end_lineno]
                text = "\n".join(lines)
            for name in _names(node):
                if owners.setdefault(name, module) != module:
                    raise RuntimeError(f"Both {owners[name]} and {module} define {name}.")
            parts.append(text)
        bodies.append("\n\n\n".join(parts[1:]))  # the first is the module's docstring
    header = HEADER.format(modules=", ".join(MODULES))
    for statement in ("import sys", "from diffusers.pipelines import auto_pipeline"):
        imports[statement] = None
    return "\n".join([header, *imports, "", "", "\n\n\n".join(bodies), _footer()])


def _footer():
    """The end of the file, which has the pipelines found by `AutoPipelineForImage2Image` and its like."""
    registrations = [f'    auto_pipeline.{mapping}["ccld"] = {name}' for name, mapping in PIPELINES.items()]
    replacements = [f"    {name} = _package.{name}" for name in PIPELINES]
    return FOOTER.format(library=LIBRARY, registrations="\n".join(registrations), replacements="\n".join(replacements))


def _names(node):
    """The names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    parts = [part for target in targets if target is not None for part in ast.walk(target)]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def save_standalone(pipe: DiffusionPipeline, folder: str | Path, **options: Any) -> None:
    """Saves a pipeline in a folder that can be used where this package is not installed.

    The folder keeps its model card, or else gets that of the folder that the pipeline was loaded from, or a short one.
    The card has lines that load the folder without this package.

    Args:
        pipe: The pipeline, a `CCLDPipeline`.
        folder: The folder.
        options: As for `DiffusionPipeline.save_pretrained`.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If `push_to_hub` is given: the upload would not include the code.
    """
    if options.get("push_to_hub"):
        raise ValueError("Save the folder first, then upload all of it with huggingface_hub.upload_folder.")
    pipe.save_pretrained(folder, **options)
    write_code(folder)
    save_standalone_card(Path(folder), Path(pipe.config.get("_name_or_path") or folder))


def write_code(folder: str | Path, components: Sequence[str] | None = None) -> None:
    """Adds the code files to a pipeline's folder, and names the pipeline's in its `model_index.json`.

    Args:
        folder: The folder.
        components: Components that get a code file, by default all of this package.

    Raises:
        OSError: If the folder is not a pipeline's, or cannot be written.
    """
    folder, source = Path(folder), standalone_source()
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    name = index["_class_name"] if isinstance(index["_class_name"], str) else index["_class_name"][-1]
    index["_class_name"] = ["pipeline", name]
    index.pop("_name_or_path", None)  # a place on the author's machine
    write_text(folder / "pipeline.py", source)
    write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
    for name, entry in index.items():
        if isinstance(entry, list) and entry[0] == LIBRARY and (components is None or name in components):
            write_text(folder / name / f"{LIBRARY}.py", source)
