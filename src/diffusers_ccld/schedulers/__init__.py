"""The noise schedule, the samplers' mathematics, and the diffusers scheduler."""
