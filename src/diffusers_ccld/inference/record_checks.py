"""Checks of the record in a picture, which may come from anywhere. `Provenance` describes its fields.

`web/valid-record.js` has the same checks and the same sentences; a test compares the two.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

TASKS = ("paint", "image_to_image", "edit", "inpaint", "between")
LAST_SEED = 2**63 - 1
DEEPEST = 10  # nesting of a field
LONGEST = 40  # characters of a value in a sentence
EXACT = 2**53 - 1  # JavaScript rounds whole numbers beyond
INTO = ("conditions", "waypoints", "prompt")  # one of them says what a picture was painted from


def _as_it_is(value):
    return value


class Kind(NamedTuple):
    """A kind of values.

    Attributes:
        name: Its name in a sentence.
        fits: The test of a value.
        read: The value as this package takes it.
    """

    name: str
    fits: Callable[[Any], bool]
    read: Callable[[Any], Any] = _as_it_is


def _is_text(value):
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()  # half a surrogate pair cannot be written
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value, lowest=-math.inf, highest=math.inf):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= 1e300 and lowest <= value <= highest  # no infinity, and no whole number beyond


def _number(lowest: float = -math.inf, highest: float = math.inf) -> Kind:
    bounds = "" if lowest == -math.inf else f" from {lowest:g}" + ("" if highest == math.inf else f" to {highest:g}")
    return Kind("a finite number" + bounds, lambda value: _is_number(value, lowest, highest))


def _whole(lowest: int, highest: int = LAST_SEED) -> Kind:
    """Whole numbers. JSON does not tell 5.0 from 5."""
    return Kind(
        f"a whole number from {lowest} to {highest}",
        lambda value: _is_number(value, lowest, highest) and value == int(value),
        int,
    )


def _is_source(value, lengths):
    """True for a text with its weight, and the hash of the file in a list of three."""
    is_list = isinstance(value, list) and len(value) in lengths
    return is_list and _is_text(value[0]) and _is_number(value[1]) and all(map(_is_text, value[2:]))


def _is_interval(value):
    is_pair = isinstance(value, list) and len(value) == 2 and all(_is_number(time, 0, 1) for time in value)
    return is_pair and value[0] <= value[1]


TEXT = Kind("a text", _is_text)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
SHARE = _number(0, 1)
COUNT = _whole(1)
SEED = _whole(0)


def _list(of: Kind, name: str, shortest: int = 0, longest: float = math.inf) -> Kind:
    return Kind(
        name,
        lambda value: isinstance(value, list) and shortest <= len(value) <= longest and all(map(of.fits, value)),
        lambda value: [of.read(part) for part in value],
    )


TEXTS = _list(TEXT, "a list of texts")
SIZE = _list(COUNT, "a width and a height", 2, 2)

FIELDS: dict[str, Kind] = {
    "task": Kind(f"one of {', '.join(TASKS)}", lambda value: isinstance(value, str) and value in TASKS),
    "conditions": _list(Kind("", lambda value: _is_source(value, (2,))), "a list of pairs of a text and its weight"),
    "prompt": TEXT,
    "waypoints": _list(
        Kind("", lambda value: _is_source(value, (2, 3))), "a list of pairs of a text and its weight", 1
    ),
    "seeds": _list(SEED, f"a list of whole numbers from 0 to {LAST_SEED}", 1),
    "images": TEXTS,
    "embeddings": TEXTS,
    "negative_prompt": TEXT,
    "image_prompt_weight": SHARE,
    "guidance_scale": _number(),
    "cloob_guidance": _number(0),
    "cloob_repeats": COUNT,
    "variation": SHARE,
    "picture": TEXT,
    "mask": TEXT,
    "strength": SHARE,
    "model": TEXT,
    "identity": TEXT,
    "fingerprint": TEXT,
    "steps": COUNT,
    "guidance_interval": Kind("a list of two times from 0 to 1", _is_interval),
    "parallel_guidance": SHARE,
    "algorithm": TEXT,
    "timestep_schedule": TEXT,
    "eta": SHARE,
    "height": COUNT,
    "width": COUNT,
    "dtype": TEXT,
    "compiled": FLAG,
    "runtime": TEXT,
    "version": TEXT,
    "seed": SEED,
    "num_images": COUNT,
    "position": _number(0),
    "frames": _whole(2),
    "max_pictures": _whole(2),
    "loop": FLAG,
    "frame_rate": _number(0),
    "size": SIZE,
    "trained_size": SIZE,
}


def valid_record(record: Any) -> dict[str, Any]:
    """A record without the fields that are null, which say the same as missing ones.

    Fields that this version does not know are kept: a later one may have written them.

    Args:
        record: A value from JSON.

    Raises:
        ValueError: With a sentence that says what is wrong with it.
    """
    if not isinstance(record, Mapping) or not all(isinstance(name, str) for name in record):
        raise _damaged("it does not have fields")
    record = {name: value for name, value in record.items() if value is not None}
    for name, value in record.items():
        if not _is_flat(value, DEEPEST):
            raise _damaged(f"its field {_short(name)} is nested too deeply")
        if name in FIELDS and not FIELDS[name].fits(value):
            raise _damaged(f"its {name} is {_short(value)}, not {FIELDS[name].name}")
    if not any(name in record for name in INTO):
        raise _damaged("it does not say what the picture was painted from")
    record = {name: FIELDS[name].read(value) if name in FIELDS else value for name, value in record.items()}
    _check_path(record)
    if is_grid(record) and len(record["seeds"]) > record["num_images"]:
        raise _damaged(f"it has {len(record['seeds'])} seeds for {record['num_images']} pictures")
    return record


def is_grid(record: Mapping[str, Any]) -> bool:
    """True for the record of several pictures in one, as `ccld sample` writes it."""
    return "seeds" in record and "num_images" in record and "waypoints" not in record


def _check_path(record):
    """Raises `ValueError` if a picture lies on a path and the record does not fit it."""
    if "waypoints" not in record:
        return
    if "seeds" not in record and "seed" not in record:
        raise _damaged("it does not have the seeds of its waypoints")
    count, num_seeds = len(record["waypoints"]), len(record.get("seeds", [0]))
    if len({count, num_seeds} - {1}) > 1:
        raise _damaged(f"it has {num_seeds} seeds for {count} waypoints")
    if record.get("position", 0) > max(count, num_seeds):
        raise _damaged(f"its position {_short(record['position'])} lies beyond its {max(count, num_seeds)} waypoints")


def _damaged(what):
    return ValueError(f"The record of how the picture was painted is damaged: {what}.")


def _short(value):
    """A value in a sentence."""
    text = _spelled(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _spelled(value):
    """A value as JSON in ASCII, with whole numbers as JavaScript writes them: without a decimal point."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(name)}:{_spelled(part)}' for name, part in value.items())}}}"
    if isinstance(value, float) and abs(value) <= EXACT and value == int(value):
        return str(int(value))
    try:
        return json.dumps(value)
    except ValueError:  # a number of thousands of digits
        return "a huge number"


def _is_flat(value, most):
    """True if lists and objects are nested no deeper than a number of levels."""
    if not isinstance(value, (list, tuple, dict)):
        return True
    return most > 0 and all(
        _is_flat(part, most - 1) for part in (value.values() if isinstance(value, dict) else value)
    )
