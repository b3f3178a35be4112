"""CLOOB's text and image encoders as transformers models.

After `cloob_training/model_pt.py` in crowsonkb/cloob-training, the PyTorch port that CCLD was trained with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, initialization
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import eager_attention_forward
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_cloob import CLOOBConfig, CLOOBTextConfig, CLOOBVisionConfig
from .inference_layers import InferenceLinear
from .losses_cloob import cloob_loss
from .vision_embeddings import CLOOBConvolutionalStem, CLOOBVisionEmbeddings


@dataclass
class CLOOBTextModelOutput(ModelOutput):
    """Output of the text tower.

    Attributes:
        text_embeds: Embeddings of unit length, (N, D).
        last_hidden_state: Output of the last layer, (N, 77, width).
        hidden_states: Input of the first layer and output of every layer, on request.
        attentions: Attention weights of every layer, on request with eager attention.
    """

    text_embeds: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class CLOOBVisionModelOutput(ModelOutput):
    """Output of the image tower.

    Attributes:
        image_embeds: Embeddings of unit length, (N, D).
        last_hidden_state: Output of the last layer, (N, 1 + patches, width).
        hidden_states: Input of the first layer and output of every layer, on request.
        attentions: Attention weights of every layer, on request with eager attention.
    """

    image_embeds: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class CLOOBOutput(ModelOutput):
    """Output of the joint model.

    Attributes:
        loss: The CLOOB loss, on request.
        logits_per_image: Cosine similarities times the inverse temperature, (images, texts).
        logits_per_text: The same, (texts, images).
        text_embeds: Text embeddings of unit length, (texts, D).
        image_embeds: Image embeddings of unit length, (images, D).
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None


class CLOOBAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: CLOOBTextConfig | CLOOBVisionConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.is_causal = False
        self.q_proj = InferenceLinear(config.hidden_size, config.hidden_size)
        self.k_proj = InferenceLinear(config.hidden_size, config.hidden_size)
        self.v_proj = InferenceLinear(config.hidden_size, config.hidden_size)
        self.out_proj = InferenceLinear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, is_text: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = (
            proj(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if is_text is not None:
            # The original masks the padded *queries* instead of the keys, and the trained weights depend on it. A zero
            # query attends to all tokens equally; all tokens attend to padding.
            query = query * is_text[:, None, :, None]
        # transformers' own models read the setting under this name; there is not a public one.
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(self, query, key, value, None, scaling=self.head_dim**-0.5, dropout=0.0)
        return self.out_proj(output.flatten(2)), weights


class CLOOBMLP(nn.Module):
    """The feed-forward part of a layer."""

    def __init__(self, config: CLOOBTextConfig | CLOOBVisionConfig):
        super().__init__()
        self.fc1 = InferenceLinear(config.hidden_size, config.intermediate_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = InferenceLinear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class CLOOBEncoderLayer(GradientCheckpointingLayer):
    """A pre-norm transformer layer."""

    def __init__(self, config: CLOOBTextConfig | CLOOBVisionConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CLOOBAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CLOOBMLP(config)

    def forward(self, hidden_states: torch.Tensor, is_text: torch.Tensor | None = None) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states), is_text)[0]
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class CLOOBTextEmbeddings(nn.Module):
    """Token plus position embeddings."""

    def __init__(self, config: CLOOBTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Parameter(torch.empty(config.max_position_embeddings, config.hidden_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(input_ids) + self.position_embedding


class CLOOBPreTrainedModel(PreTrainedModel):
    """Initialisation, saving and loading of the CLOOB models."""

    # transformers reads the names with an underscore off its models' classes.
    config: CLOOBConfig
    base_model_prefix = "cloob"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["CLOOBTextEmbeddings", "CLOOBVisionEmbeddings", "CLOOBEncoderLayer"]
    _can_record_outputs = {"hidden_states": CLOOBEncoderLayer, "attentions": CLOOBAttention}

    @torch.no_grad()
    def _init_weights(self, module):
        # As in the JAX training code: Haiku's truncated normal for matrices, zero biases.
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            initialization.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                initialization.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, (CLOOBTextEmbeddings, CLOOBVisionEmbeddings)):
            width = module.position_embedding.shape[1]
            initialization.normal_(module.position_embedding, std=width**-0.5)
            if isinstance(module, CLOOBVisionEmbeddings):
                initialization.normal_(module.class_embedding, std=width**-0.5)
        elif isinstance(module, nn.Embedding):
            initialization.trunc_normal_(module.weight)


def _refuse(kwargs):
    """Raises `TypeError` for unknown arguments, such as an attention mask."""
    unknown = kwargs.keys() - {"output_hidden_states", "output_attentions", "return_dict"}
    if unknown:
        raise TypeError(f"forward() has no arguments {', '.join(sorted(unknown))}.")


class CLOOBTextModelWithProjection(CLOOBPreTrainedModel):
    """CLOOB's text encoder, from token ids to embeddings of unit length."""

    config: CLOOBTextConfig
    base_model_prefix = "text_model"
    input_modalities = ("text",)
    _keys_to_ignore_on_load_unexpected = [r"^vision_model\."]  # the other tower of a joint model's folder

    def __init__(self, config: CLOOBTextConfig):
        super().__init__(config)
        self.embeddings = CLOOBTextEmbeddings(config)
        self.layers = nn.ModuleList(CLOOBEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim)
        shape = (config.projection_dim, config.projection_dim)
        self.register_buffer("residual_factor", torch.zeros(shape) if config.has_residual_factor else None)
        self.post_init()

    def set_residual_factor(self, factor: torch.Tensor | None) -> None:
        """Sets R, (D, D), or removes it with `None`.

        A text's embedding u plus R·z, with z standard normal, normalised, is spread like the embeddings of the images
        that the text describes. `training.text_fit` measures it.
        """
        weight = self.text_projection.weight
        self.residual_factor = None if factor is None else factor.to(weight.device, weight.dtype).contiguous()
        self.config.has_residual_factor = factor is not None

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.token_embedding = value

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, input_ids: torch.LongTensor, **kwargs) -> CLOOBTextModelOutput:
        """Encodes texts.

        Args:
            input_ids: Token ids, (N, up to 77). A shorter sequence is padded with zeros, as in training. Tokens after
                the first end token count as padding, without an attention mask.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `CLOOBTextModelOutput`.

        Raises:
            ValueError: If the sequence is longer than the context.
            TypeError: If other arguments are given.
        """
        _refuse(kwargs)
        missing = self.config.max_position_embeddings - input_ids.shape[-1]
        if missing < 0:
            raise ValueError(
                f"input_ids has {input_ids.shape[-1]} tokens a text; the context length is "
                f"{self.config.max_position_embeddings}."
            )
        input_ids = F.pad(input_ids, (0, missing))
        is_end = (input_ids == self.config.eos_token_id).int()
        is_text = is_end.cumsum(dim=-1) == is_end  # up to and including the first end token

        hidden_states = self.embeddings(input_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states, is_text)
        text_embeds = F.normalize(self.text_projection(hidden_states[:, 0]), dim=-1)
        return CLOOBTextModelOutput(text_embeds=text_embeds, last_hidden_state=hidden_states)


class CLOOBVisionModelWithProjection(CLOOBPreTrainedModel):
    """CLOOB's image encoder, a vision transformer, from pixels to embeddings of unit length."""

    config: CLOOBVisionConfig
    base_model_prefix = "vision_model"
    _keys_to_ignore_on_load_unexpected = [r"^text_model\."]
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: CLOOBVisionConfig):
        super().__init__(config)
        self.embeddings = CLOOBVisionEmbeddings(config)
        self.layers = nn.ModuleList(CLOOBEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    def feature_maps(self, pixel_values: torch.FloatTensor) -> list[torch.Tensor]:
        """Features of images, for losses and discriminators that compare them place by place.

        Args:
            pixel_values: As for `forward`.

        Returns:
            Maps (N, C, h, w): those of the convolutional stem, the finest first, or the patches of each layer.

        Raises:
            ValueError: If the images have another size.
        """
        stem = self.embeddings.patch_embedding
        if isinstance(stem, CLOOBConvolutionalStem):
            return stem.feature_maps(self._checked(pixel_values))
        layers = self(pixel_values, output_hidden_states=True).hidden_states[1:]
        side = self.config.image_size // self.config.patch_size
        return [layer[:, 1:].transpose(1, 2).unflatten(2, (side, side)) for layer in layers]

    def _checked(self, pixel_values):
        """Images in the weights' type; `ValueError` if they have another size."""
        size = self.config.image_size
        if pixel_values.shape[-2:] != (size, size):
            raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}; expected (N, 3, {size}, {size}).")
        return pixel_values.to(self.embeddings.class_embedding.dtype)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.FloatTensor, **kwargs) -> CLOOBVisionModelOutput:
        """Encodes images.

        Args:
            pixel_values: Normalised images, (N, 3, `image_size`, `image_size`), from `CLOOBImageProcessor`.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `CLOOBVisionModelOutput`.

        Raises:
            ValueError: If the images have another size.
            TypeError: If other arguments are given.
        """
        _refuse(kwargs)
        hidden_states = self.embeddings(self._checked(pixel_values))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        image_embeds = F.normalize(self.visual_projection(hidden_states[:, 0]), dim=-1)
        return CLOOBVisionModelOutput(image_embeds=image_embeds, last_hidden_state=hidden_states)


class CLOOBModel(CLOOBPreTrainedModel):
    """Both encoders of CLOOB (Fürst et al. 2021) and the loss of their joint training.

    Raises:
        ValueError: If the embeddings of the two towers differ in width.
    """

    config: CLOOBConfig
    input_modalities = ("image", "text")

    def __init__(self, config: CLOOBConfig):
        super().__init__(config)
        if config.text_config.projection_dim != config.vision_config.projection_dim:
            raise ValueError(
                f"The towers embed into different spaces, of width {config.text_config.projection_dim} (text) and "
                f"{config.vision_config.projection_dim} (vision)."
            )
        # transformers builds parts of models so; there is not a public name for it.
        self.text_model = CLOOBTextModelWithProjection._from_config(config.text_config)
        self.vision_model = CLOOBVisionModelWithProjection._from_config(config.vision_config)
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str,
        text_model_name_or_path: str,
        vision_kwargs: dict | None = None,
        text_kwargs: dict | None = None,
        inverse_temperature: float = 30.0,
        hopfield_scale: float = 15.0,
    ) -> "CLOOBModel":
        """Joins two towers that were saved separately, such as a pipeline's `image_encoder` and `text_encoder`.

        Args:
            vision_model_name_or_path: Folder or hub id of the image encoder.
            text_model_name_or_path: Folder or hub id of the text encoder.
            vision_kwargs: Arguments of `CLOOBVisionModelWithProjection.from_pretrained`, such as `subfolder`.
            text_kwargs: Arguments of `CLOOBTextModelWithProjection.from_pretrained`.
            inverse_temperature: As in `CLOOBConfig`; it is not saved with the towers.
            hopfield_scale: As in `CLOOBConfig`; it is not saved with the towers.
        """
        vision_model = CLOOBVisionModelWithProjection.from_pretrained(
            vision_model_name_or_path, **(vision_kwargs or {})
        )
        text_model = CLOOBTextModelWithProjection.from_pretrained(text_model_name_or_path, **(text_kwargs or {}))
        config = CLOOBConfig(
            text_config=text_model.config,
            vision_config=vision_model.config,
            inverse_temperature=inverse_temperature,
            hopfield_scale=hopfield_scale,
        )
        config.dtype = text_model.dtype
        with torch.device("meta"):
            model = cls(config)
        model.text_model, model.vision_model = text_model, vision_model
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    @can_return_tuple
    def get_text_features(self, input_ids: torch.LongTensor, **kwargs) -> BaseModelOutputWithPooling:
        """Text embeddings of unit length, (N, D), as `pooler_output`; arguments as for the text model."""
        output = self.text_model(input_ids=input_ids, return_dict=True, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=output.text_embeds,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.FloatTensor, **kwargs) -> BaseModelOutputWithPooling:
        """Image embeddings of unit length, (N, D), as `pooler_output`; arguments as for the image model."""
        output = self.vision_model(pixel_values=pixel_values, return_dict=True, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=output.image_embeds,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @can_return_tuple
    def forward(
        self, input_ids: torch.LongTensor, pixel_values: torch.FloatTensor, return_loss: bool = False
    ) -> CLOOBOutput:
        """Compares texts and images.

        Args:
            input_ids: Token ids, (texts, up to 77).
            pixel_values: Normalised images, (images, 3, H, W).
            return_loss: Computes the CLOOB loss if true; text i then has to belong to image i.

        Returns:
            `CLOOBOutput`.
        """
        text_embeds = self.text_model(input_ids=input_ids).text_embeds
        image_embeds = self.vision_model(pixel_values=pixel_values).image_embeds
        logits_per_text = self.config.inverse_temperature * text_embeds @ image_embeds.T
        loss = None
        if return_loss:
            loss = cloob_loss(image_embeds, text_embeds, self.config.inverse_temperature, self.config.hopfield_scale)
        return CLOOBOutput(
            loss=loss,
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
        )
