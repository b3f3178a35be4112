"""Files, messages and pictures: knows nothing of diffusion."""
