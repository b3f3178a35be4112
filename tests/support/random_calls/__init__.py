"""Random legal calls of the pipelines, and what must hold for each."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import transformers


def quiet() -> None:
    """Turns off what the libraries say of small networks in unusual precisions."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    logger = logging.getLogger("diffusers_ccld")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


@contextmanager
def warnings_of_ours() -> Iterator[list[str]]:
    """Collects the warnings that the package logs inside the context."""
    texts, handler, logger = [], logging.Handler(logging.WARNING), logging.getLogger("diffusers_ccld")
    handler.emit = lambda record: texts.append(record.getMessage())
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
