"""Inputs of CLOOB's encoders: cleaned and tokenised text, cropped and normalised images.

After `clip.tokenize` of openai/CLIP, and `cfg_sample.py` and `train_latent_diffusion.py` of
JD-P/cloob-latent-diffusion.
"""

import html
import re
import threading

import ftfy
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import BatchEncoding, CLIPTokenizer
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import logging

from .square_crop import resize_and_center_crop

logger = logging.get_logger(__name__)

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

# Held while texts are tokenised: truncation and padding are settings of the Rust tokenizer, which threads may share.
_TOKENIZING = threading.Lock()


def clean_text(text: str) -> str:
    """Repairs mojibake, decodes HTML entities (even doubly escaped), collapses white space, lowers the case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()


class CLOOBTokenizer(CLIPTokenizer):
    """CLIP's byte-pair tokenizer with the cleaning and the padding that CLOOB was trained with.

    Every text becomes 77 tokens, `<|startoftext|> … <|endoftext|>` and then zeros. Padding with the end token, as
    `CLIPTokenizer` pads, would change the embeddings, and so would leaving out the padding.

    The default vocabulary is the one that open_clip ships; nothing is downloaded.

    Args:
        vocab: Vocabulary, token to id.
        merges: Byte-pair merges.
        kwargs: Arguments of `CLIPTokenizer`.
    """

    model_input_names = ["input_ids"]

    def __init__(self, vocab: str | dict[str, int] | None = None, merges: str | list[str] | None = None, **kwargs):
        if vocab is None and merges is None:
            vocab, merges = _open_clip_vocabulary()
        kwargs.setdefault("model_max_length", 77)
        super().__init__(vocab=vocab, merges=merges, **kwargs)

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "CLOOBTokenizer":
        """Loads a tokenizer; arguments as in transformers.

        Raises:
            ValueError: If its files are damaged, or of another kind of tokenizer.
        """
        try:
            return super().from_pretrained(*args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # also what the Rust library raises
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{args[0]}: the tokenizer is damaged, or of another model. ({reason})") from error

    def __call__(
        self, text: str | list[str], padding: bool | str = "max_length", truncation: bool | str = True, **kwargs
    ) -> BatchEncoding:
        """Tokenises one text or several.

        Args:
            text: The text or texts.
            padding: As in transformers; by default texts are padded to the context length.
            truncation: As in transformers; by default a longer text loses its end, with a warning.
            kwargs: Further options of `CLIPTokenizer`, such as `return_tensors` and `max_length`.

        Returns:
            `BatchEncoding` with `input_ids`, (N, 77).
        """
        return super().__call__(text, padding=padding, truncation=truncation, **kwargs)

    def _encode_plus(self, text, text_pair=None, return_attention_mask=None, **kwargs):
        if text_pair is not None or kwargs.get("is_split_into_words"):
            raise ValueError("CLOOB encodes single texts, not pairs or lists of words.")
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(t, str) for t in texts):
            raise ValueError("Give a text or a list of texts.")
        texts = [clean_text(t) for t in texts]
        truncation = kwargs.get("truncation_strategy", TruncationStrategy.DO_NOT_TRUNCATE)
        with _TOKENIZING:
            encoding = super()._encode_plus(
                texts[0] if isinstance(text, str) else texts, return_attention_mask=True, **kwargs
            )
            if truncation != TruncationStrategy.DO_NOT_TRUNCATE:
                self._warn_of_truncation(texts, kwargs.get("max_length") or self.model_max_length)
        return _zero_padding(encoding, return_attention_mask)

    def tokenize(self, text: str, **kwargs) -> list[str]:
        """The tokens of a text, cleaned as in `__call__`."""
        return super().tokenize(clean_text(text), **kwargs)

    def pad(self, encoded_inputs, return_attention_mask=None, **kwargs) -> BatchEncoding:
        """Pads sequences of ids with zeros; arguments as in transformers."""
        return _zero_padding(super().pad(encoded_inputs, return_attention_mask=True, **kwargs), return_attention_mask)

    def _warn_of_truncation(self, texts, max_length):
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        for text in texts:
            num_tokens = len(self.backend_tokenizer.encode(text).ids)
            if num_tokens > max_length:
                logger.warning(
                    f"The text {text[:40]!r}… has {num_tokens} tokens; all after the first {max_length} were cut off."
                )

    def _decode(self, token_ids, **kwargs):
        # Tokens after the end token are padding and would be decoded as exclamation marks.
        token_ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if self.eos_token_id in token_ids:
            token_ids = token_ids[: token_ids.index(self.eos_token_id) + 1]
        return super()._decode(token_ids, **kwargs)


def _zero_padding(encoding, return_attention_mask):
    # The padding id is that of "!". Declared as the padding token, it could no longer be used in texts.
    encoding["input_ids"] = _zero_where_masked(encoding["input_ids"], encoding["attention_mask"])
    if not return_attention_mask:
        del encoding["attention_mask"]
    return encoding


def _zero_where_masked(ids, mask):
    if not isinstance(ids, list):
        return ids * mask
    if ids and isinstance(ids[0], list):
        return [_zero_where_masked(i, m) for i, m in zip(ids, mask)]
    return [i if m else 0 for i, m in zip(ids, mask)]


def _open_clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from open_clip.tokenizer import SimpleTokenizer  # slow to import; needed only for a tokenizer without files

    tokenizer = SimpleTokenizer()
    # open_clip has other names for OpenAI's two special tokens.
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {names.get(token, token): i for token, i in tokenizer.encoder.items()}, list(tokenizer.bpe_ranks)


class CLOOBImageProcessor(BaseImageProcessor):
    """Turns images into the original's inputs of CLOOB's image encoder, to the last bit.

    The image is resized with Lanczos so that it covers the square, centre-cropped and normalised
    (`square_crop.resize_and_center_crop`).

    Args:
        size: Height and width in pixels.
        image_mean: Mean of each colour channel, of values in [0, 1].
        image_std: Standard deviation of each colour channel.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        size: int = 224,
        image_mean: tuple[float, ...] = IMAGE_MEAN,
        image_std: tuple[float, ...] = IMAGE_STD,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size = size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def preprocess(self, images: Image.Image | list[Image.Image], return_tensors: str = "pt") -> BatchFeature:
        """Prepares one image or several.

        Args:
            images: PIL images of any mode and size.
            return_tensors: "pt" or "np".

        Returns:
            `BatchFeature` with `pixel_values`, (N, 3, size, size), float32.

        Raises:
            TypeError: If an image is not a PIL image.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        for image in images:
            if not isinstance(image, Image.Image):
                raise TypeError(f"Expected a PIL image, not {type(image).__name__}.")
        crops = np.stack([np.asarray(self.resize_and_center_crop(image)) for image in images])
        pixel_values = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
        return BatchFeature({"pixel_values": self.normalize(pixel_values)}, tensor_type=return_tensors)

    def resize_and_center_crop(self, image: Image.Image) -> Image.Image:
        """The square of RGB pixels that the encoder sees."""
        return resize_and_center_crop(image, self.size)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Normalises each channel of images in [0, 1], (N, 3, H, W)."""
        mean = torch.tensor(self.image_mean, dtype=images.dtype, device=images.device)[:, None, None]
        std = torch.tensor(self.image_std, dtype=images.dtype, device=images.device)[:, None, None]
        return (images - mean) / std

    def preprocess_training_images(self, images: torch.Tensor) -> torch.Tensor:
        """Prepares training images as CCLD was trained: bicubic, without antialiasing, values left unclamped.

        Args:
            images: Images in [0, 1], (N, 3, H, W), as the autoencoder gets them before its scaling to [−1, 1].

        Returns:
            Pixel values, (N, 3, size, size).
        """
        resized = F.interpolate(images, (self.size, self.size), mode="bicubic", align_corners=False)
        return self.normalize(resized)
