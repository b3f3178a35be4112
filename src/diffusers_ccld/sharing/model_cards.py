"""Model cards: the README.md of every finished folder, with metadata for the Hub."""

import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import ModelCard, ModelCardData

from ..utils.files import write_text
from ..utils.words import PROMPTS_NAME, prompts_for
from .base_models import BUNDLED, CARD_NAME, hub_name, place_in_python, placeholder, shareable

GRID_NAME = "samples.png"
PLOT_NAME = "losses.png"

TEXT_TO_IMAGE = "text-to-image"

METHOD = """A text-to-image model that was trained on images without captions. In training its condition is the CLOOB
embedding of each image, in sampling that of a prompt."""
LIMITS_OF_PIPELINES = """It knows the contents of its training images, as CLOOB sees them. It does not know text in
images, counts, or who stands left of whom. It repeats the biases of both."""

USE_PIPELINE = """
import diffusers_ccld  # registers the pipeline with diffusers
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({name})
pipe({prompt}).images[0].save("picture.png")
"""

# The package is on no index, so its own command is that of the README. The others have the lower bounds of setup.cfg.
INSTALL_PACKAGE = """These lines need the package diffusers-ccld, which is on no package index. In a clone of its
repository, this installs it:"""
PACKAGE = "pip install ."
INSTALL_LIBRARIES = "These lines need libraries from the package index:"
LIBRARIES = 'pip install "torch>=2.10" "diffusers>=0.42"'
STANDALONE_LIBRARIES = f'{LIBRARIES} "transformers>=5.20" "ftfy>=6.3"'


class CardKind(NamedTuple):
    """The common parts of the cards of one kind of folder.

    Attributes:
        title: Heading.
        introduction: Description of such a folder.
        use: Lines of Python; `{name}` stands for the folder, `{base}` for the model it was trained from, `{prompt}`
            for a prompt.
        limitations: Known limits.
        pipeline_tag: The Hub's word for the task, if there is one.
        libraries: The command that installs what `use` imports, without this package; `None` if it needs it.
    """

    title: str
    introduction: str
    use: str
    limitations: str
    pipeline_tag: str | None = None
    libraries: str | None = None


PIPELINE = CardKind("CLOOB-Conditioned Latent Diffusion", METHOD, USE_PIPELINE, LIMITS_OF_PIPELINES, TEXT_TO_IMAGE)
STANDALONE = PIPELINE._replace(
    introduction=f"{METHOD} The folder includes the code that it needs.",
    libraries=STANDALONE_LIBRARIES,
    use="""
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({name}, trust_remote_code=True)
pipe({prompt}).images[0].save("picture.png")
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
pipe({prompt}).images[0].save("picture.png")
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
    libraries=LIBRARIES,
)
TINY_AUTOENCODER = CardKind(
    "A small autoencoder for latent diffusion",
    "It decodes the latents of another autoencoder, which it was distilled from, in a fraction of the time.",
    """
from diffusers import AutoencoderTiny

pipe.vae = AutoencoderTiny.from_pretrained({name})
""",
    "Its pictures are less exact than those of its teacher.",
    libraries=LIBRARIES,
)
CLOOB = CardKind(
    "CLOOB",
    "Two encoders that embed images and texts in one space, so that an image and its description are close together.",
    """
from diffusers_ccld import CLOOBTextModelWithProjection, CLOOBTokenizer

tokenizer = CLOOBTokenizer.from_pretrained({name}, subfolder="tokenizer")
text_encoder = CLOOBTextModelWithProjection.from_pretrained({name}, subfolder="text_encoder")
text_embeds = text_encoder(**tokenizer([{prompt}], return_tensors="pt")).text_embeds
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
    prompts: Sequence[str] | None = None,
) -> None:
    """Writes the card of a folder.

    Args:
        folder: The folder, or a temporary one that becomes it.
        kind: The kind of folder.
        name: Its name on the Hub, "owner/name", or else a name without an owner.
        sections: Markdown, each with its heading.
        base: The model that it was made from: a folder or a name on the Hub.
        has_grid: True if the folder has a grid of samples.
        license: Its licence, by the Hub's identifier.
        datasets: Names on the Hub of its training data.
        tags: Tags for the Hub's search.
        prompts: Prompts of which the lines take the first (default: the folder's own, or others that it knows).

    Raises:
        OSError: If the card cannot be written.
    """
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag=kind.pipeline_tag,
        tags=["diffusers", *tags],
        base_model=None if base is None else hub_name(base),
        datasets=datasets,
    )
    grid = f"![Samples, one for each line of {PROMPTS_NAME}]({GRID_NAME})" if has_grid else None
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {escaped(kind.title)}",
        _wrapped(kind.introduction),
        grid,
        use_section(kind, name, base, prompts or prompts_for(folder)),
        *sections,
        f"## Limitations\n\n{_wrapped(kind.limitations)}",
    ]
    ModelCard("\n\n".join(part for part in parts if part) + "\n").save(folder / CARD_NAME)


def copy_card(card: Path, folder: Path) -> None:
    """Copies a card into another folder, with the pictures and the prompts that it shows.

    Raises:
        OSError: If they cannot be copied.
    """
    text = card.read_text(encoding="utf-8")
    for shown in (GRID_NAME, PROMPTS_NAME, PLOT_NAME):
        if (card.parent / shown).is_file() and shown in text:
            shutil.copyfile(card.parent / shown, folder / shown)
    write_text(folder / CARD_NAME, text)


def use_section(kind: CardKind, name: str, base: str | None, prompts: Sequence[str]) -> str:
    """The section of a card that says how to install what a folder needs and how to load it.

    Args:
        kind: The kind of folder.
        name: As for `save_card`.
        base: As for `save_card`.
        prompts: Prompts of which the lines take the first.
    """
    values = {
        "name": json.dumps(name if "/" in name else placeholder(name)),
        "base": place_in_python(base or BUNDLED),
        "prompt": json.dumps(prompts[0], ensure_ascii=False),
    }
    sentences = []
    if "/" not in name:
        sentences.append(f"Replace {escaped(values['name'])} by the name of this model on the Hub, or by its folder.")
    if "{base}" in kind.use and base not in (None, BUNDLED) and hub_name(base) is None:
        sentences.append(f"Replace {escaped(values['base'])} by the folder of the model that it was trained from.")
    parts = [
        "## Use",
        _wrapped(INSTALL_PACKAGE if kind.libraries is None else INSTALL_LIBRARIES),
        fenced(kind.libraries or PACKAGE, "sh"),
        _wrapped(" ".join(sentences)),
        fenced(kind.use.format(**values), "python"),
    ]
    return "\n\n".join(part for part in parts if part)


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
