#!/usr/bin/env python3
"""Converts checkpoints of CLOOB-Conditioned Latent Diffusion; the same as `ccld convert`. See --help."""

import sys

from diffusers_ccld.cli import convert_main

if __name__ == "__main__":
    sys.exit(convert_main())
