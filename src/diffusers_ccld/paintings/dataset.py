"""A dataset of paintings with the columns of WikiArt."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .attributes import MEDIA, PALETTES, SUBJECTS
from .attributes import combinations as combinations_of
from .captions import captions
from .painting import paint

if TYPE_CHECKING:
    from datasets import Dataset


CAPTIONS_EACH = 4


def make_dataset(num_images: int, seed: int, held_out: bool = False, num_proc: int | None = None) -> "Dataset":
    """Paints all combinations in turn, in an order shuffled by the seed.

    The columns are those of WikiArt: `image`, and the classes `artist`, `genre` and `style`, here the palette, the
    subject and the medium. Further columns are `caption`, one description; `captions`, a few more; and the same
    classes under their own names, `subject`, `medium` and `palette`. Needs the library `datasets`, which caches the
    paintings.

    Args:
        num_images: Number of paintings.
        seed: Seed of the paintings and of their order.
        held_out: True for the combinations that are held out of training, False for all others.
        num_proc: Number of processes that paint at once.
    """
    from datasets import ClassLabel, Dataset, Features, Image, List, Value

    subject, medium, palette = (ClassLabel(names=list(names)) for names in (SUBJECTS, MEDIA, PALETTES))
    features = Features(
        {
            "image": Image(),
            "artist": palette,
            "genre": subject,
            "style": medium,
            "caption": Value("string"),
            "captions": List(Value("string")),
            "subject": subject,
            "medium": medium,
            "palette": palette,
        }
    )
    order = np.random.default_rng(seed).permutation(num_images).tolist()
    # `datasets` finds its cache by these arguments. The last one changes with the code of this package.
    arguments = {"numbers": order, "seed": seed, "held_out": held_out, "painters": _fingerprint()}
    return Dataset.from_generator(_examples, features=features, gen_kwargs=arguments, num_proc=num_proc)


def _examples(numbers: list[int], seed: int, held_out: bool, painters: str) -> Iterator[dict]:
    combinations = combinations_of(held_out)
    for number in numbers:
        attributes = combinations[number % len(combinations)]
        own_seed = int(np.random.SeedSequence([seed, held_out, number]).generate_state(1, np.uint64)[0])
        bgr = cv2.cvtColor(paint(attributes, own_seed), cv2.COLOR_RGB2BGR)
        png = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
        caption, *others = captions(attributes, own_seed, 1 + CAPTIONS_EACH)
        subject, medium, palette = attributes
        yield {
            "image": {"bytes": png, "path": None},
            "artist": palette,
            "genre": subject,
            "style": medium,
            "caption": caption,
            "captions": others,
            "subject": subject,
            "medium": medium,
            "palette": palette,
        }


def _fingerprint() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
