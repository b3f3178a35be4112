#!/usr/bin/env python3
"""Measures the scale of an autoencoder's latents on images. See --help."""

import sys

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.measure_scale import measure_scale

if __name__ == "__main__":
    sys.exit(run_reporting_errors(measure_scale))
