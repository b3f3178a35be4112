"""The square of pixels that CLOOB's image encoder sees, by Pillow alone."""

from PIL import Image, ImageOps

# The longest ratio of an image's sides that is resized as a whole; the middle of a longer image is cut out first.
LONGEST = 32


def resize_and_center_crop(image: Image.Image, size: int) -> Image.Image:
    """Resizes an image with Lanczos so that it covers a square, and crops the middle.

    For some sizes the original's rounding leaves a side one pixel short, and the crop has a black line; so it does
    here.

    Args:
        image: An image of any mode and size.
        size: Height and width of the square in pixels.
    """
    image = ImageOps.exif_transpose(image).convert("RGB")
    if max(image.size) > LONGEST * min(image.size):  # otherwise a line of pixels would be enlarged to gigabytes
        image = ImageOps.fit(image, [min(length, LONGEST * min(image.size)) for length in image.size])
    factor = max(size / image.width, size / image.height)
    width, height = int(factor * image.width), int(factor * image.height)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    # A side that is too short is padded with black, the smaller half first; the crop is off-centre by rounding half to
    # even.
    pad_x, pad_y = max(size - width, 0), max(size - height, 0)
    if pad_x or pad_y:
        padded = Image.new("RGB", (width + pad_x, height + pad_y))
        padded.paste(image, (pad_x // 2, pad_y // 2))
        image, width, height = padded, *padded.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
