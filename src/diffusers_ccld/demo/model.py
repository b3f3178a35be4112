"""The model of the page: its name, its fingerprint and its examples."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from ..inference.loading import default_model
from ..sharing.base_models import BUNDLED, BUNDLED_FOLDER, RESULT_NAMES, model_name
from ..sharing.model_cards import GRID_NAME
from ..utils.fingerprints import folder_fingerprint
from ..utils.text_lines import read_entries
from ..utils.words import PROMPTS_NAME, example_prompts, unknown_words, vocabulary_of, whole_words

MOST_EXAMPLES = 6
COLUMNS = 4  # of a grid of samples
BUNDLED_EXAMPLES = Path(__file__).with_name("examples.txt"), Path(__file__).with_name("examples.png")

Example = tuple[str, Image.Image | None]  # a prompt, and its picture if there is one


@dataclass(frozen=True)
class DemoModel:
    """The model that the page paints with.

    Attributes:
        folder: Its folder; `None` for a pipeline that was not loaded from one.
        source: A folder, a name on the Hub, or "default" for the bundled model.
    """

    folder: Path | None
    source: str

    @classmethod
    def of(cls, place: str | Path | None, source: str | None = None) -> "DemoModel":
        """The model of a pipeline.

        Args:
            place: Where it was loaded from.
            source: Its name for people, if that is another one, as for a model of the Hub.
        """
        folder = Path(place) if place and Path(place).is_dir() else None
        if folder is not None and folder.samefile(default_model()):
            source = BUNDLED
        return cls(folder, str(source or place or ""))

    @property
    def is_bundled(self) -> bool:
        """True for the bundled model."""
        return self.source == BUNDLED

    @property
    def name(self) -> str:
        """Its name in a sentence, without the folders of this machine."""
        if self.is_bundled:
            return "the bundled model"
        return f"the model {model_name(self.source)}" if self.source else "the model"

    @property
    def record(self) -> dict[str, str]:
        """The fields that name it in the record of a picture."""
        source = BUNDLED if self.is_bundled else model_name(self.source)
        fields = {"model": source, "fingerprint": self.fingerprint}
        return {name: value for name, value in fields.items() if value}

    @cached_property
    def fingerprint(self) -> str | None:
        """The fingerprint of its weights, for links; `None` if they are not in a folder."""
        return None if self.folder is None else folder_fingerprint(self.folder)

    @cached_property
    def vocabulary(self) -> set[str]:
        """The tokens of its tokenizer; empty if they are not known."""
        return set() if self.folder is None else vocabulary_of(self.folder)

    @property
    def words(self) -> list[str]:
        """The words of a small vocabulary, in alphabetical order; empty for a large one."""
        return sorted(whole_words(self.vocabulary))

    @cached_property
    def examples(self) -> list[Example]:
        """Prompts of words that it knows, with pictures if its folder has a grid of them."""
        files = BUNDLED_EXAMPLES
        if not self.is_bundled:
            files = () if self.folder is None else (self.folder / PROMPTS_NAME, self.folder / GRID_NAME)
        found = [] if not files else [e for e in read_grid(*files) if not unknown_words(e[0], self.vocabulary)]
        return found[:MOST_EXAMPLES] or [(prompt, None) for prompt in example_prompts(self.vocabulary)]

    def difference(self, thing: str, fingerprint: object, source: object = None) -> str:
        """A sentence that a link or a picture was made with another model; empty if not, or if that cannot be told.

        Args:
            thing: "link" or "picture".
            fingerprint: That of its model; `None` if it does not have one.
            source: The source of its model, which tells without a fingerprint; its folders may be another machine's.
        """
        if fingerprint and self.fingerprint:
            is_other = fingerprint != self.fingerprint
        else:
            theirs, ours = last_name(str(source or "")), last_name(self.source)
            is_other = bool(source and ours) and theirs != ours and bool(theirs or self.is_bundled)
        if not is_other:
            return ""
        return f"The {thing} was made with another model. This page paints the same settings with {self.name}."


def last_name(source: str) -> str:
    """The name in a model's source, without folders and owners; empty for a folder like "." or "pipeline"."""
    parts = [part for part in re.split(r"[/\\]", source) if part not in ("", ".", "..", *RESULT_NAMES)]
    name = parts[-1] if parts else ""
    return BUNDLED if name == BUNDLED_FOLDER.name else name


def read_grid(prompts: Path, grid: Path) -> list[Example]:
    """The prompts of a grid of samples with their pictures; none if a file is missing or damaged."""
    try:
        texts = [text for _, text in read_entries(prompts)]
        with Image.open(grid, formats=("PNG",)) as sheet:
            columns = min(COLUMNS, len(texts))
            width, height = sheet.width // columns, sheet.height // math.ceil(len(texts) / columns)
            sheet = sheet.convert("RGB")
    except (OSError, ValueError, ZeroDivisionError, SyntaxError, Image.DecompressionBombError):
        return []
    corners = [(i % columns * width, i // columns * height) for i in range(len(texts))]
    return [(text, sheet.crop((x, y, x + width, y + height))) for text, (x, y) in zip(texts, corners)]
