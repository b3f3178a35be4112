"""Finds requests that are probably mistakes. At a terminal, the user is asked; elsewhere, they are refused."""

import os
import re
import sys
from collections.abc import Sequence

from ..utils.words import unknown_words, unknown_words_sentence, vocabulary_of, words_in
from .arguments import PICTURE_SUFFIXES, parse_weighted
from .runtimes import model_folder, name_of_model
from .shell_words import quoted

LARGEST_WEIGHT = 15
LARGEST_AREA = 16  # of a picture, relative to the training images'

# Words that are not prompts by themselves. Next to another word, they belong to a prompt without quotation marks.
PART_OF_PROMPT = re.compile("a|an|and|at|by|for|from|in|near|of|on|or|over|the|to|under|with", re.IGNORECASE)


class DeclinedError(Exception):
    """Raised if a user answers that a command shall do nothing. The message says what was not done."""


# Quotation marks of word processors, which a shell takes for letters, and those that were typed twice.
OPENING, CLOSING = '"“”„‟«»‹›‘‚', '"“”„‟«»‹›‘’'
DECIMAL_COMMA = re.compile(r"(?P<text>.+):(?P<weight>-?\d+,\d+)\s*")
TIME = re.compile(r"(?<![:\d])\d\d?:\d\d?\s*$")  # or a ratio, such as 16:9
OPTION = re.compile(r"(^|\s)(?P<name>--[a-z][a-z_-]*|-[a-z](?=\s+\d))")
DASHED = re.compile(r"[—–](?P<name>[a-z][a-z_-]*)")
IN_BRACKETS = re.compile(r"\((?P<text>[^():]+):(?P<weight>\d*\.?\d+)\)")
NUMBER = re.compile(r"-?\d+([.,]\d+)?")


def is_file_name(typed: str) -> bool:
    """True for a prompt that is the file name of a picture, or of an existing file.

    Args:
        typed: The prompt as it was typed, with its weight.
    """
    names = {typed, parse_weighted(typed)[0]}
    existing = any(os.path.isfile(name.lstrip("@")) and ("." in name or name.startswith("@")) for name in names)
    return existing or any(name.lower().endswith(PICTURE_SUFFIXES) for name in names)


def refuse_bytes(prompts: Sequence[str]) -> None:
    """Raises `ValueError` for a prompt with bytes that are not text, which no record could hold."""
    for typed in prompts:
        if found := re.search("[\ud800-\udfff]", typed):
            raise ValueError(f"{typed!r} has a character that is not text: {found[0]!r}.")


def refuse_file_names(prompts: Sequence[str], advice: str = "") -> None:
    """Raises `ValueError` for a prompt that is the file name of a picture.

    Args:
        prompts: Prompts as they were typed, with their weights.
        advice: What to do instead, with "{name}" for the name.
    """
    for typed in prompts:
        if is_file_name(typed):
            name = quoted(typed.lstrip("@"))
            text = parse_weighted(typed)[0]
            message = f"{text!r} is the file name of a picture, not a prompt. {advice.format(name=name)}"
            raise ValueError(message.rstrip())


def doubts_about(
    prompts: Sequence[str],
    files: Sequence[tuple[str, float | None]] = (),
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    are_waypoints: bool = False,
) -> list[str]:
    """Returns warnings about weights that are large or missing, and about prompts that lack their quotation marks.

    Args:
        prompts: Prompts as they were typed, with their weights.
        files: Options with the files of image prompts and embeddings, and their weights.
        guidance_scale: The guidance scale, if one was given.
        negative_prompt: The negative prompt, if one was given.
        are_waypoints: True for the waypoints of a path, where words in a row are usual.
    """
    texts = [*prompts, negative_prompt or ""]
    doubts = [doubt for typed in texts for doubt in _slips_in(typed)]
    for typed in prompts:
        text, weight = parse_weighted(typed)
        if typed.rstrip().endswith(":"):
            doubts.append(
                f"{typed!r} ends in a colon without a weight. Leave the colon out, or add a weight, as in "
                f"{typed.rstrip() + '2'!r}."
            )
        if is_large(weight) or (weight is not None and TIME.search(typed)):
            doubts.append(
                f"{typed!r} means {text!r} with the weight {weight:g}; usual weights are 1 to 10. If the number "
                f"belongs to the prompt, add a weight after it, as in {typed + ':3'!r}."
            )
    doubts += [
        f"{option} has the weight {weight:g}; usual weights are 1 to 10."
        for option, weight in files
        if is_large(weight)
    ]
    if is_large(guidance_scale):
        doubts.append(f"--guidance-scale {guidance_scale:g} is unusual; usual values are 1 to 10.")
    if negative_prompt is not None and ends_in_weight(negative_prompt):
        doubts.append(
            f"--negative-prompt {negative_prompt!r} is taken as a text with its number: a negative prompt has no "
            f"weight of its own, but 1 minus those of the prompts."
        )
    weights = [weight for _, weight in [*map(parse_weighted, prompts), *files]]
    if weights and not are_waypoints and all(weight is not None and weight <= 0 for weight in weights):
        doubts.append(
            "All weights are negative or 0, so the pictures have as little as possible of their prompts. "
            "--negative-prompt keeps something out of the pictures of a prompt."
        )
    for words in _unquoted(prompts, are_waypoints):
        kind = "waypoints of a path" if are_waypoints else "prompts, to be combined in one picture"
        advice = f'To give one prompt, write it in quotation marks: "{_without_quotes(" ".join(words))}".'
        doubts.append(f"These are {len(words)} {kind}. {advice}")
    return doubts


def doubts_about_words(prompts: Sequence[str], model: str | None) -> list[str]:
    """Returns a warning for each prompt of which a model of a small vocabulary does not know a single word.

    Words such as "a" and "in" do not count.

    Args:
        prompts: Prompts as they were typed, with their weights.
        model: The model, as --model names it. It need not exist.
    """
    vocabulary = vocabulary_of(model_folder(model))
    doubts = []
    for text, _ in map(parse_weighted, prompts):
        counted = {word for word in words_in(text) if not PART_OF_PROMPT.fullmatch(word)}
        if counted and counted.issubset(unknown_words(text, vocabulary)):
            sentence = unknown_words_sentence([text], vocabulary, name_of_model(model, "The"))
            advice = f"`ccld inspect {quoted(model or 'default')}` lists the words that it knows."
            doubts.append(f"{sentence}. Nothing else in {text!r} says what to paint. {advice}")
    return doubts


def _slips_in(typed):
    """Warnings about what a prompt has in it because of how it was typed."""
    if typed.strip().lower() in ("help", "?"):
        yield f"{typed!r} would be the prompt. To see the options, give --help."
    text, _ = parse_weighted(typed)
    bare = _without_quotes(text)
    is_quoted = text[:1] in tuple(OPENING) and text[-1:] in tuple(CLOSING)
    if is_quoted and bare and not set(bare) & set(OPENING + CLOSING):
        yield f'{text!r} has quotation marks that are part of it: type "{bare}".'
    if found := DECIMAL_COMMA.fullmatch(typed):
        meant = f"{found['text']}:{found['weight'].replace(',', '.')}"
        yield f"{typed!r} is a prompt without a weight, because of the comma: for a weight, type {meant!r}."
    if found := IN_BRACKETS.fullmatch(typed):
        yield f"{typed!r} is a prompt without a weight: for a weight, type '{found['text']}:{found['weight']}'."
    if NUMBER.fullmatch(typed.strip()):
        yield f"{typed!r} would be a prompt of its own; a weight follows its prompt and a colon, as in 'a rose:2.5'."
    if found := DASHED.fullmatch(typed):
        yield f"{typed!r} begins with the dash of a word processor: type --{found['name']}."
    if found := OPTION.search(typed):
        yield f"{typed!r} has {found['name']} in it: an option belongs outside of the quotation marks."


def _without_quotes(text):
    return text.strip(OPENING + CLOSING)


def is_large(weight: float | None) -> bool:
    """True for a weight or a guidance scale that is probably a mistake."""
    return weight is not None and abs(weight) > LARGEST_WEIGHT


def ends_in_weight(text: str) -> bool:
    """True for a text that would have a weight as a prompt."""
    try:
        return parse_weighted(text)[1] is not None
    except ValueError:  # nothing but a weight
        return True


def _unquoted(prompts, are_waypoints):
    """Rows of single words that are probably one prompt each. A weight ends a row.

    Words in a row are usual as waypoints, so there one of them has to be a part of a prompt, such as "a" or "on".
    """
    rows = [[]]
    for typed in prompts:
        text, weight = parse_weighted(typed)
        is_word = len(text.split()) == 1 and not text.startswith("@")
        if is_word:
            rows[-1].append(typed)
        if weight is not None or not is_word:
            rows.append([])
    rows = [row for row in rows if len(row) > 1]
    return [row for row in rows if any(map(PART_OF_PROMPT.fullmatch, row))] if are_waypoints else rows


def doubts_about_size(size: tuple[int, int], trained: tuple[int, int]) -> list[str]:
    """Returns a warning about a picture that is far larger than the training images.

    Args:
        size: Width and height of the picture in pixels.
        trained: Width and height of the training images in pixels.
    """
    area = size[0] * size[1] / (trained[0] * trained[1])
    if area <= LARGEST_AREA:
        return []
    return [
        f"--width {size[0]} --height {size[1]} is {area:.0f} times the area of the model's training images, "
        f"{trained[0]} × {trained[1]} pixels. Sampling takes about as many times as long and as much memory, and the "
        f"pictures have faults."
    ]


def is_at_terminal() -> bool:
    """True if there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def settle(doubts: Sequence[str], agreed: bool) -> None:
    """Asks at a terminal whether to continue in spite of doubts.

    Args:
        doubts: Warnings, as from `doubts_about`.
        agreed: True if the option --yes was given.

    Raises:
        DeclinedError: If the user declines.
        ValueError: If the command does not run at a terminal.
    """
    if agreed or not doubts:
        return
    if not is_at_terminal():
        raise ValueError(f"{' '.join(doubts)} (Give --yes to paint it anyway.)")
    print(*doubts, sep="\n", file=sys.stderr)
    print("Paint it anyway? [y/N] ", end="", flush=True, file=sys.stderr)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DeclinedError("Nothing was painted.")
