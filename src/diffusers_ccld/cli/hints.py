"""Answers to a first word that is not a command of `ccld`: what was probably meant."""

import os
from collections.abc import Sequence
from itertools import takewhile

from ..utils.arguments import suggestion
from .arguments import PICTURE_SUFFIXES
from .doubts import PART_OF_PROMPT
from .shell_words import as_prompt, quoted

# What to type, and the words of people and of other programs for it.
SYNONYMS = {
    "sample": "create draw gen generate image imagine make paint picture prompt render t2i text2image text-to-image "
    "text2img txt2image txt2img",
    "ccld sample PROMPT --edit FILE": "change edit modify",
    "ccld sample PROMPT --init FILE": "i2i image2image image-to-image img2img init vary",
    "ccld sample PROMPT --init FILE --mask FILE": "fill inpaint inpainting mask",
    "interpolate": "animate animation blend film gif lerp mix morph slerp travel tween video",
    "compare": "benchmark eval evaluate fid metrics score",
    "demo": "app gradio gui serve server start ui web webui",
    "embed": "embedding encode invert learn textual-inversion",
    "convert": "import",
    "inspect": "describe identify info metadata read record show words",
    "export-onnx": "onnx to-onnx",
    "measure-scale": "scale scaling-factor",
    "python training/finetune.py": "finetune fine-tune lora train training",
    "--help": "help usage",
    "--version": "version",
}

# Options of other programs, and what to type for them where a command has it.
OPTIONS = {
    "--guidance-scale": "cfg cfg-scale cond-scale scale",
    "--steps": "ddim-steps inference-steps num-inference-steps sampling-steps",
    "--num-images": "n-iter n-samples num-images-per-prompt num-samples number-of-images",
    "--width and --height": "resolution size",
    "--init": "img init-image init-img input input-image",
    "--algorithm": "method sampler scheduler",
    "--dtype": "fp16 half precision torch-dtype",
    "--strength": "denoise denoising denoising-strength",
    "--output": "out outdir output-dir save-dir",
}


def option_synonyms(options: Sequence[str], takes_prompts: bool) -> dict[str, str]:
    """Returns what to type in place of options of other programs, for a command.

    Args:
        options: The options that the command has.
        takes_prompts: True if its arguments without an option are prompts.
    """
    synonyms = {"--prompt": "the prompt without an option"} if takes_prompts else {}
    for meant, words in OPTIONS.items():
        if meant.split()[0] in options:
            synonyms |= {f"--{word}": meant for word in words.split()}
    return synonyms


def answer_to(argv: Sequence[str], names: Sequence[str]) -> str:
    """The sentences that refuse a command line whose first word is not a command.

    Args:
        argv: The words of the command line.
        names: The names of the commands.
    """
    word = argv[0]
    refusal = f"{word!r} is not a command."
    commands = f"Commands are {', '.join(names)}."
    for meant, synonyms in SYNONYMS.items():
        if word.lower() in synonyms.split():
            return f"{refusal} Did you mean {meant}? {commands}"
    if os.path.isfile(word) or word.lower().endswith(PICTURE_SUFFIXES):
        return f"{refusal} To describe this file: ccld inspect {quoted(word)}"
    prompt = " ".join(takewhile(lambda typed: not typed.startswith("-"), argv))
    is_prompt = any(map(str.isspace, word)) or PART_OF_PROMPT.fullmatch(word) is not None
    if not is_prompt and (similar := suggestion([word.lower()], names)):
        return f"{refusal}{similar} {commands}"
    sentences = [refusal] if is_prompt else [refusal, commands]
    if any(map(str.isalpha, word)):
        sentences.append(f"To paint it: ccld sample {as_prompt(prompt)}")
    return " ".join(sentences)
