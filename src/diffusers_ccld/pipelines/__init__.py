"""The pipelines: text to image, image to image, inpainting."""
