"""Helpers for files, error messages and images. Nothing here depends on diffusion."""
