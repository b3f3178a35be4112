"""Random legal calls of the pipelines, and what must hold for each."""

import logging
import warnings

import diffusers
import transformers


def quiet() -> None:
    """Turns off what the libraries say of small networks in unusual precisions."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    logging.getLogger("diffusers_ccld").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
