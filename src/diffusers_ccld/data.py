"""Images in."""

from PIL import Image, ImageOps


def resize_and_center_crop(image: Image.Image, size: int) -> Image.Image:
    """The training image of a picture: RGB, shorter side resized to `size` with Lanczos, the centre cropped square.

    After `train_latent_diffusion.py` of JD-P/cloob-latent-diffusion (its torchvision transforms); a picture's EXIF
    orientation is applied first.

    Args:
        image: A picture of any mode and size.
        size: Height and width of the result in pixels.
    """
    image = ImageOps.exif_transpose(image).convert("RGB")
    short, long = sorted(image.size)
    other = int(size * long / short)
    new_size = (size, other) if image.width <= image.height else (other, size)
    image = image.resize(new_size, Image.Resampling.LANCZOS)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
