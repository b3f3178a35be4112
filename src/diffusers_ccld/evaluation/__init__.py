"""Comparing models by what they paint."""
