"""Messages on the terminal: those of libraries are hidden, our own warnings are one line each."""

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..utils.terminal_text import printable

OURS = "diffusers_ccld"
FLAGS = {"num_inference_steps": "--steps", "guidance_scale": "--guidance-scale"}
FLAGS |= {name: f"--{name}" for name in ("strength", "height", "width")}
LIBRARIES = ("torch", "diffusers", "transformers", "huggingface_hub")


def with_flags(message: str) -> str:
    """Names the options of `ccld` where a pipeline's message names its own arguments, such as "strength=0.05"."""
    for name, flag in FLAGS.items():
        message = re.sub(rf"\b{name}=", f"{flag} ", message)
        message = re.sub(rf"\braise {name}\b", f"raise {flag}", message)
        if "_" in name:
            message = re.sub(rf"\b{name}\b", flag, message)
    return message


def in_columns(lines: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of a name and a value, such as "seed      3"; a line without a name continues the one above."""
    return [f"{name:10}{printable(value)}".rstrip() for name, value in lines]


@contextmanager
def quiet_libraries(load: Callable[[], None]) -> Iterator[None]:
    """Hides warnings and progress bars of libraries inside the context, and shows our own warnings.

    Args:
        load: Imports the libraries. Some log while they are imported, before they can be set.
    """
    with warnings.catch_warnings(), own_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            load()
        finally:
            logging.disable(logging.NOTSET)
        loggers = [logging.getLogger(name) for name in LIBRARIES]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        _show_loading_bars(False)
        try:
            yield
        finally:
            _show_loading_bars(True)
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextmanager
def own_warnings() -> Iterator[None]:
    """Context in which warnings of this package are one line on the standard error."""
    logger = logging.getLogger(OURS)
    handler, propagate = logging.StreamHandler(sys.stderr), logger.propagate
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _show_loading_bars(shown: bool) -> None:
    """Shows or hides the libraries' bars while weights are loaded. Those of downloads are always shown."""
    if "transformers" not in sys.modules:
        return
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    for library in (transformers_logging, diffusers_logging):
        if shown:
            library.enable_progress_bar()
        else:
            library.disable_progress_bar()
    if not shown:
        enable_progress_bars()
