#!/usr/bin/env python3
"""Converts a diffusers folder to the original's checkpoints, like `ccld export`."""

import sys

from ccld_command import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
