"""Model cards: the README.md of every finished folder, with metadata for the Hub."""

import json
import os
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import ModelCard, ModelCardData

CARD_NAME = "README.md"
GRID_NAME = "samples.png"
PROMPTS_NAME = "prompts.txt"
PLOT_NAME = "losses.png"

SAMPLE_PROMPTS = (
    "A sunset landscape painting, oil on canvas",
    "A winter landscape in the mountains",
    "The moon over the sea at night",
    "A portrait of a woman, charcoal drawing",
    "A still life with fruit and flowers",
    "A city street in the rain, impressionism",
    "Autumn trees, watercolor",
    "An abstract composition in red and blue",
)

TEXT_TO_IMAGE = "text-to-image"

METHOD = """A text-to-image model that was trained on images without captions. In training its condition is the CLOOB
embedding of each image, in sampling that of a prompt."""
LIMITS_OF_PIPELINES = """It knows the contents of its training images, as CLOOB sees them. It does not know text in
images, counts, or who stands left of whom. It repeats the biases of both."""

USE_PIPELINE = """
import diffusers_ccld  # registers the pipeline with diffusers
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({name})
pipe("A sunset landscape painting, oil on canvas").images[0].save("sunset.png")
"""


class CardKind(NamedTuple):
    """The common parts of the cards of one kind of folder.

    Attributes:
        title: Heading.
        introduction: Description of such a folder.
        use: Lines of Python; `{name}` stands for the folder, `{base}` for the model it was trained from.
        limitations: Known limits.
        pipeline_tag: The Hub's word for the task, if there is one.
    """

    title: str
    introduction: str
    use: str
    limitations: str
    pipeline_tag: str | None = None


PIPELINE = CardKind("CLOOB-Conditioned Latent Diffusion", METHOD, USE_PIPELINE, LIMITS_OF_PIPELINES, TEXT_TO_IMAGE)
STANDALONE = PIPELINE._replace(
    introduction=f"{METHOD} The folder includes the code that it needs.",
    use="""
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({name}, trust_remote_code=True)
pipe("A sunset landscape painting, oil on canvas").images[0].save("sunset.png")
""",
)
LORA = PIPELINE._replace(
    title="A LoRA for CLOOB-Conditioned Latent Diffusion",
    introduction=f"The weights that were learned in addition to a model, without the model itself. {METHOD}",
    use="""
import diffusers_ccld  # registers the pipeline with diffusers
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({base})
pipe.load_lora_weights({name})
pipe("A sunset landscape painting, oil on canvas").images[0].save("sunset.png")
""",
)
STUDENT = PIPELINE._replace(
    title="A student for CLOOB-Conditioned Latent Diffusion",
    introduction="A smaller network in the pipeline of its teacher. It has not been trained yet: "
    "`training/distill.py` does that.",
    use="""
import diffusers_ccld  # registers the pipeline with diffusers
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({name})
""",
    limitations="Before its distillation its images show nothing that can be recognised.",
    pipeline_tag=None,
)
AUTOENCODER = CardKind(
    "An autoencoder for latent diffusion",
    "It encodes images as latents, the small arrays that a diffusion model works on, and decodes latents to images.",
    """
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained({name})
""",
    "Details finer than its latents are lost, most of all in images unlike its training images.",
)
TINY_AUTOENCODER = CardKind(
    "A small autoencoder for latent diffusion",
    "It decodes the latents of another autoencoder, which it was distilled from, in a fraction of the time.",
    """
from diffusers import AutoencoderTiny

pipe.vae = AutoencoderTiny.from_pretrained({name})
""",
    "Its pictures are less exact than those of its teacher.",
)
CLOOB = CardKind(
    "CLOOB",
    "Two encoders that embed images and texts in one space, so that an image and its description are close together.",
    """
from diffusers_ccld import CLOOBTextModelWithProjection, CLOOBTokenizer

tokenizer = CLOOBTokenizer.from_pretrained({name}, subfolder="tokenizer")
text_encoder = CLOOBTextModelWithProjection.from_pretrained({name}, subfolder="text_encoder")
text_embeds = text_encoder(**tokenizer(["a sunset"], return_tensors="pt")).text_embeds
""",
    "It knows the words and the images that it was trained on, and repeats their biases.",
)
JUDGE = CardKind(
    "A judge of paintings",
    "It recognises subject, medium and palette in images by `diffusers_ccld.paintings`, or by models trained on them.",
    """
from diffusers_ccld.evaluation.judge import load_judge

judge = load_judge({name})
""",
    "On all other images its answers mean nothing.",
)


# Markdown's special characters; an underscore within a word is not one.
MARKS = re.compile(r"[\\`*{}\[\]<>|#!~$&]|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: object) -> str:
    """Text in one line that Markdown takes literally, even in a table's cell."""
    return MARKS.sub(r"\\\g<0>", " ".join(str(text).split()))


def is_place(text: str) -> bool:
    """True if a text names a file or folder of this machine, not a repository of the Hub or anything else."""
    is_path = text.startswith(("/", "~", "./", "../")) or "*" in text or text.count("/") > 1
    return text != "" and "://" not in text and (is_path or os.path.exists(text))


def shareable(text: str) -> str:
    """A source's name without the folders of this machine: of a path, only the last part."""
    return Path(text).expanduser().resolve().name if is_place(text) else text


def table(facts: Mapping[str, object], header: tuple[str, str] = ("", "")) -> str:
    """A Markdown table of names and values."""
    rows = [f"| {escaped(name)} | {escaped(value)} |" for name, value in facts.items()]
    return "\n".join([f"| {header[0]} | {header[1]} |", "|---|---|", *rows])


def fenced(text: str, language: str) -> str:
    """A block of code, in a fence longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def save_card(
    folder: Path,
    kind: CardKind,
    name: str,
    *sections: str,
    base: str | None = None,
    has_grid: bool = False,
    license: str | None = None,
    datasets: list[str] | None = None,
    tags: tuple[str, ...] = ("ccld", "cloob"),
) -> None:
    """Writes the card of a folder.

    Args:
        folder: The folder, or a temporary one that becomes it.
        kind: The kind of folder.
        name: The name in the lines that load it: its name on the Hub, or the folder's.
        sections: Markdown, each with its heading.
        base: The model that it was made from: a folder or a name on the Hub.
        has_grid: True if the folder has a grid of samples.
        license: Its licence, by the Hub's identifier.
        datasets: Names on the Hub of its training data.
        tags: Tags for the Hub's search.

    Raises:
        OSError: If the card cannot be written.
    """
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag=kind.pipeline_tag,
        tags=["diffusers", *tags],
        base_model=None if base is None or is_place(base) else base,
        datasets=datasets,
    )
    names = {"name": json.dumps(name), "base": json.dumps(shareable(base or ""))}
    grid = f"![Samples, one for each line of {PROMPTS_NAME}]({GRID_NAME})" if has_grid else None
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {escaped(kind.title)}",
        _wrapped(kind.introduction),
        grid,
        "## Use",
        fenced(kind.use.format(**names), "python"),
        *sections,
        f"## Limitations\n\n{_wrapped(kind.limitations)}",
    ]
    ModelCard("\n\n".join(part for part in parts if part) + "\n").save(folder / CARD_NAME)


def _wrapped(text):
    return "\n\n".join(textwrap.fill(paragraph, 119) for paragraph in text.split("\n\n"))


def settings_section(settings: Mapping[str, Any]) -> str:
    """The settings of a run, without the folders of the machine that it ran on."""
    text = yaml.safe_dump({key: _shareable_setting(value) for key, value in settings.items()}, sort_keys=False)
    return f"## Settings\n\n{fenced(text, 'yaml')}"


def _shareable_setting(value):
    if isinstance(value, list):
        return [_shareable_setting(item) for item in value]
    return shareable(value) if isinstance(value, str) else value
