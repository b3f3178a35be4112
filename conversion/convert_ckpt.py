#!/usr/bin/env python3
"""Converts the original's checkpoints to a diffusers folder, like `ccld convert`."""

import sys

from ccld_command import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
