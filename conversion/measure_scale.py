#!/usr/bin/env python3
"""Measures the scale of an autoencoder's latents on images, like `ccld measure-scale`."""

import sys

from ccld_command import main

if __name__ == "__main__":
    sys.exit(main(["measure-scale", *sys.argv[1:]]))
