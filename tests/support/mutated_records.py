"""Records of pictures as each writer makes them, and the same with one field replaced by a hostile value."""

import copy
from collections.abc import Iterator
from typing import Any

SHARED = {"steps": 10, "variation": 0.3, "algorithm": "dpmpp", "seed": 3, "version": "0.1.0", "model": "default"}

RECORDS: dict[str, dict[str, Any]] = {
    "shell": {
        **SHARED,
        "task": "inpaint",
        "conditions": [["a cat", 2.0], ["a.png", 1.0], ["style.safetensors", 0.5]],
        "images": ["a.png"],
        "embeddings": ["style.safetensors"],
        "negative_prompt": "fog",
        "guidance_interval": [0.1, 0.9],
        "timestep_schedule": "spliced",
        "eta": 0.0,
        "dtype": "fp32",
        "compiled": False,
        "runtime": "torch",
        "size": [128, 96],
        "parallel_guidance": 0.5,
        "picture": "b.png",
        "mask": "m.png",
        "strength": 0.8,
    },
    "steered": {
        **SHARED,
        "task": "paint",
        "conditions": [["a cat", 1.0]],
        "algorithm": "ddpm",
        "cloob_guidance": 5.0,
        "cloob_repeats": 2,
    },
    "path": {
        **SHARED,
        "waypoints": [["a cat", 2.0], ["@b.png", 2.0, "0f"]],
        "seeds": [1, 2],
        "identity": "00",
        "height": 96,
        "width": 128,
        "position": 0.5,
    },
    "animation": {
        **SHARED,
        "waypoints": [["a cat", 2.0], ["a rose", 2.0]],
        "seeds": [1],
        "frames": 12,
        "max_pictures": 30,
        "loop": True,
        "frame_rate": 8.0,
        "size": [160, 96],
        "trained_size": [128, 96],
    },
    "grid": {
        **SHARED,
        "task": "paint",
        "conditions": [["a cat", 2.0]],
        "seeds": [3, 6],
        "num_images": 4,
    },
    "demo": {
        **SHARED,
        "task": "paint",
        "prompt": "a cat",
        "guidance_scale": 2.0,
        "num_images": 2,
        "images": ["IMAGE"],
        "image_prompt_weight": 0.25,
        "fingerprint": "0a",
    },
    "web": {
        **SHARED,
        "task": "paint",
        "conditions": [["a cat", 3.0], ["IMAGE", 1.0]],
        "images": ["IMAGE"],
        "guidance_scale": 4.0,
        "runtime": "web",
        "size": [128, 128],
    },
    "mix": {
        **SHARED,
        "task": "between",
        "waypoints": [["a cat", 2.0], ["a rose", 2.0]],
        "seeds": [3],
        "position": 0.35,
        "guidance_scale": 2.0,
        "negative_prompt": None,
    },
}

DEEP: list = []
for _ in range(500):
    DEEP = [DEEP]

# Values of JSON.
HOSTILE = (
    *(
        None,
        True,
        False,
        0,
        -0.0,
        -1,
        5,
        7.0,
        1e308,
        -1e308,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**200,
        0.5,
        float("nan"),
        float("inf"),
    ),
    *("", "x", "a\0b", "\ud800", "x" * 10_000, "paint", "upscale", "@c.png", "-5", "\x1b[31m"),
    *([], {}, [[]], [None], [["a"]], [["a"], ["b"]], [["a", "2"]], [["a", 2.0]], [["a", 2.0, 3]], [["a", 2**2000]]),
    *([["a", float("nan")]], [[["a"], [2]], ["b", [2]]], [["a", True]], [{"a": 1}], {"a": 1}, [1, 2, 3], [0.9, 0.1]),
    *([0, 1], [4.0, 2**53 + 1], [1.5], [-3], ["IMAGE"], ["a cat"], [1e308, 1e308], ["a", ["b"]], DEEP, {"a": DEEP}),
)


def mutated_records() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each record with each field removed, and with each field and a new one set to each hostile value, named."""
    for kind, record in RECORDS.items():
        for field in [*record, "unknown"]:
            yield f"{kind} without {field}", {name: value for name, value in record.items() if name != field}
            for value in HOSTILE:
                changed = copy.copy(record) | {field: value}
                yield f"{kind} with {field} {type(value)!s} {value!r:.60}", changed
    yield from ((f"{value!r:.60} as the record", value) for value in HOSTILE)
