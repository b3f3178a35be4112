"""Reads the original's files without running anything in them."""
