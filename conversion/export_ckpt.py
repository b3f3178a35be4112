#!/usr/bin/env python3
"""Writes the original's files of a diffusers folder; the same as `ccld export`. See --help."""

import sys

from diffusers_ccld.cli import export_main

if __name__ == "__main__":
    sys.exit(export_main())
