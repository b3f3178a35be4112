"""Names of the precisions and animation formats, free of torch for the command line's `--help`."""

# The names of torch's dtypes.
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

# Extension, and Pillow's name and options. WebP loses a little and is a tenth of the others in size.
ANIMATION_FORMATS = {
    "gif": (".gif", "GIF", {}),
    "webp": (".webp", "WEBP", {"quality": 90}),
    "apng": (".png", "PNG", {}),
}
