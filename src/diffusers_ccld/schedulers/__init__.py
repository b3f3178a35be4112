"""The noise schedule, the samplers' mathematics, and diffusers' interface to them."""
