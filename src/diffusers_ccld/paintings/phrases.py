"""The phrases and templates of captions. Importing it needs no library."""

import re
from itertools import chain

SUBJECT_PHRASES = {
    "mountain": ("a mountain landscape", "mountains", "mountain peaks"),
    "seascape": ("a seascape", "ocean waves", "the ocean"),
    "forest": ("a forest", "the woods", "a forest with tall trees"),
    "city": ("a city skyline", "a city", "city towers"),
    "fruit": ("a still life with fruit", "a bowl of fruit", "fruit on a table"),
    "rose": ("a rose", "a rose in bloom", "a single rose"),
    "moon": ("the moon over a landscape", "a full moon", "the moon over a lake"),
    "portrait": ("a portrait", "a portrait of a person", "a face"),
    "boat": ("a boat", "a sailing boat", "a boat on the water"),
    "abstract": ("an abstract composition", "abstract shapes", "an abstract"),
    "cottage": ("a cottage", "a small house", "a cottage with a tree"),
    "cat": ("a cat", "a sitting cat", "a cat on a rug"),
}

MOODS = {  # before a noun
    "winter": ("winter", "snowy"),
    "spring": ("spring",),
    "summer": ("summer", "sunny"),
    "autumn": ("autumn", "fall"),
    "sunset": ("sunset",),
    "night": ("night",),
    "fog": ("foggy", "misty"),
    "storm": ("stormy",),
}

TIMES = {  # after a noun
    "winter": ("in winter", "in the snow"),
    "spring": ("in spring",),
    "summer": ("in summer", "on a sunny day"),
    "autumn": ("in autumn", "in the fall"),
    "sunset": ("at sunset",),
    "night": ("at night",),
    "fog": ("in the fog", "in the mist"),
    "storm": ("in a storm", "on a stormy day"),
}

KINDS = {  # a noun for the picture
    "oil": ("an oil painting", "an oil on canvas"),
    "watercolor": ("a watercolor", "a watercolor painting"),
    "charcoal": ("a charcoal drawing", "a charcoal sketch"),
    "ink": ("an ink drawing", "an ink sketch"),
    "pastel": ("a pastel", "a pastel drawing"),
    "pointillism": ("a pointillist painting", "a painting in dots"),
}

TECHNIQUES = {  # after a comma
    "oil": ("oil on canvas", "oil painting"),
    "watercolor": ("watercolor on paper", "watercolor"),
    "charcoal": ("charcoal on paper", "charcoal"),
    "ink": ("ink on paper", "ink"),
    "pastel": ("pastel on paper", "pastel"),
    "pointillism": ("pointillism", "painted in dots"),
}

WORKS = {medium: "drawing" if medium in ("charcoal", "ink", "pastel") else "painting" for medium in KINDS}

# `moody` stands for a phrase with the mood between its article and its noun: "a winter city", "an autumn watercolor".
COMPLETE = (
    "{moody_subject}, {technique}",
    "{moody_subject} {work}, {technique}",
    "{kind} of {subject} {time}",
    "{kind} of {moody_subject}",
    "{moody_kind} of {subject}",
    "{subject} {time}, {technique}",
    "{subject}, {technique}, {mood} colors",
)
PARTIAL = (
    "{subject}",
    "a {work} of {subject}",
    "{moody_subject}",
    "{subject} {time}",
    "{moody_kind}",
    "{kind}",
    "{kind} of {subject}",
    "{subject}, {technique}",
    "{mood} colors, {technique}",
)

_WORD = re.compile(r"[a-z]+")
_PHRASES = [SUBJECT_PHRASES, MOODS, TIMES, KINDS, TECHNIQUES]
VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        set(_WORD.findall(" ".join(chain(*(chain(*group.values()) for group in _PHRASES)))))
        | set(_WORD.findall(re.sub(r"{\w+}", "", " ".join(COMPLETE + PARTIAL))))
        | {"a", "an"}
    )
)
"""All words that occur in captions."""
