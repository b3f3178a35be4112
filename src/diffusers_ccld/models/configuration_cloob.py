"""Configurations of the CLOOB text and image encoders."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class CLOOBTextConfig(PreTrainedConfig):
    """Configuration of `CLOOBTextModelWithProjection`; the defaults are the published ViT-B/16 models' text tower.

    Args:
        vocab_size: Size of the byte-pair vocabulary.
        hidden_size: Width of the transformer.
        intermediate_size: Width inside the feed-forward layers; four times `hidden_size` if not given.
        projection_dim: Width D of the embeddings.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of attention heads a layer.
        max_position_embeddings: Context length, to which every text is padded.
        hidden_act: Activation; "gelu" is the exact one, which CCLD was trained with.
        layer_norm_eps: Epsilon of the layer normalisations.
        eos_token_id: Id of the end token; tokens after it count as padding.
        has_residual_factor: True if the model has the spread of image embeddings around a text's, for `variation`.
    """

    model_type = "cloob_text_model"
    base_config_key = "text_config"

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int | None = None
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    pad_token_id: int | None = 0
    has_residual_factor: bool = False

    def __post_init__(self, **kwargs):
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As written to files. Without a residual factor it is what earlier versions wrote."""
        values = super().to_dict()
        if not values["has_residual_factor"]:
            del values["has_residual_factor"]
        return values


@strict
class CLOOBVisionConfig(PreTrainedConfig):
    """Configuration of `CLOOBVisionModelWithProjection`; the defaults are the published ViT-B/16 models' image tower.

    Args:
        hidden_size: Width of the transformer.
        intermediate_size: Width inside the feed-forward layers; four times `hidden_size` if not given.
        projection_dim: Width D of the embeddings.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of attention heads a layer.
        num_channels: Channels of an image.
        image_size: Height and width of an image in pixels.
        patch_size: Height and width of a patch in pixels.
        stem_channels: Widths, multiples of 8, of the convolutions that map patches to vectors. Each halves height and
            width, so that patches of 8 pixels need three. By default patches are projected without them, as in the
            published models.
        stem_depth: Number of residual blocks after each convolution of the stem; 0 for none.
        hidden_act: Activation; "gelu" is the exact one, which CCLD was trained with.
        layer_norm_eps: Epsilon of the layer normalisations.
    """

    model_type = "cloob_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 768
    intermediate_size: int | None = None
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    stem_channels: list[int] | tuple[int, ...] | None = None
    stem_depth: int = 0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs):
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        if self.stem_channels is not None and (
            not self.stem_channels
            or 2 ** len(self.stem_channels) != self.patch_size
            or any(width < 8 or width % 8 for width in self.stem_channels)
        ):
            raise ValueError(
                f"stem_channels={list(self.stem_channels)} must be multiples of 8, and as many as it takes to halve a "
                f"patch of {self.patch_size} pixels to one."
            )
        if self.stem_channels is not None and self.image_size % self.patch_size:
            raise ValueError(
                f"With a stem, image_size={self.image_size} must be a multiple of patch_size={self.patch_size}."
            )
        if self.stem_depth < 0:
            raise ValueError(f"stem_depth={self.stem_depth} must not be negative.")
        if self.stem_depth and self.stem_channels is None:
            raise ValueError(f"The residual blocks of stem_depth={self.stem_depth} need a stem: set stem_channels.")
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The values for files. Unset values of the stem are left out, as fingerprints of older caches require."""
        values = super().to_dict()
        return {key: value for key, value in values.items() if not key.startswith("stem_") or value}


@strict
class CLOOBConfig(PreTrainedConfig):
    """Configuration of the joint `CLOOBModel`.

    Args:
        text_config: Configuration of the text tower.
        vision_config: Configuration of the image tower.
        inverse_temperature: 1/τ of the InfoLOOB loss and of the logits.
        hopfield_scale: β of the Hopfield retrieval in the loss.
    """

    model_type = "cloob"
    sub_configs = {"text_config": CLOOBTextConfig, "vision_config": CLOOBVisionConfig}

    text_config: dict | CLOOBTextConfig | None = None
    vision_config: dict | CLOOBVisionConfig | None = None
    inverse_temperature: float = 30.0
    hopfield_scale: float = 15.0

    def __post_init__(self, **kwargs):
        for name, config_class in self.sub_configs.items():
            config = getattr(self, name)
            if not isinstance(config, config_class):
                setattr(self, name, config_class(**(config or {})))
        super().__post_init__(**kwargs)

    @property
    def projection_dim(self) -> int:
        """Width D of the embeddings."""
        return self.text_config.projection_dim
