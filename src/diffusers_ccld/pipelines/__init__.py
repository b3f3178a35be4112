"""Pipelines: from prompts and pictures to pictures."""
