"""The CCLD U-Net: a residual network in which a CLOOB embedding and the time modulate every block.

Primitives first, then blocks, then levels, then the network. The architecture is that of
`train_latent_diffusion.py::DiffusionModel` in JD-P/cloob-latent-diffusion; the module names are those of diffusers.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel, UNet2DConditionOutput
from torch import nn
from torch.nn import functional as F

from .adapters import SavedWithoutAdapters
from .attention_processor import SpatialAttnProcessor
from .inference_layers import records_nothing, use_inference_layers

MAPPING_TIME_FEATURES = 128
INPUT_TIME_FEATURES = 16


class FourierFeatures(nn.Module):
    """Random Fourier features of the time: [cos 2πtw, sin 2πtw] for fixed frequencies w ~ N(0, 1).

    Maps t of shape (N,) to (N, `num_features`), always in float32. `to` and `half` leave the frequencies in float32:
    bfloat16 has three digits, and angles of t near 1 would be wrong by up to 0.05.
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_features // 2, 1, dtype=torch.float32), requires_grad=False)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        # An outer product by broadcasting: a matrix product would lose digits of the angle under autocast.
        angles = 2 * math.pi * t.float()[:, None] * self.weight.float().squeeze(1)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def _apply(self, fn, recurse=True):  # all of torch's conversions, `to`, `half` and so on, come through here
        exact = self.weight.data
        super()._apply(fn, recurse)
        if self.weight.dtype != exact.dtype:
            self.weight.data = exact.to(self.weight.device)
        return self


class ResidualMLP(nn.Module):
    """Two linear layers beside a skip connection. The last block of the mapping network has no final ReLU."""

    def __init__(self, in_features: int, out_features: int, final_activation: bool):
        super().__init__()
        self.linear1 = nn.Linear(in_features, out_features)
        self.linear2 = nn.Linear(out_features, out_features)
        self.skip = nn.Identity() if in_features == out_features else nn.Linear(in_features, out_features, bias=False)
        self.final_activation = nn.ReLU() if final_activation else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = self.linear2(F.relu(self.linear1(hidden_states)))
        return self.final_activation(residual) + self.skip(hidden_states)


class MappingNetwork(nn.Module):
    """Maps the condition (N, D) and the time (N,) to the vector (N, `mapping_dim`) that modulates all blocks.

    With `guidance_dim` it also takes an embedding of the guidance scale, (N, `guidance_dim`).
    """

    def __init__(self, cross_attention_dim: int, mapping_dim: int, guidance_dim: int | None = None):
        super().__init__()
        num_features = cross_attention_dim + MAPPING_TIME_FEATURES
        self.fourier = FourierFeatures(MAPPING_TIME_FEATURES)
        self.guidance = None if guidance_dim is None else nn.Linear(guidance_dim, num_features, bias=False)
        self.block1 = ResidualMLP(num_features, mapping_dim, final_activation=True)
        self.block2 = ResidualMLP(mapping_dim, mapping_dim, final_activation=False)

    def forward(
        self, condition: torch.Tensor, t: torch.Tensor, guidance_embedding: torch.Tensor | None = None
    ) -> torch.Tensor:
        # Unit variance per feature. The zero vector, which means "no condition", has to stay zero. For that the norm's
        # epsilon must be representable, which it is not in half precision.
        normalised = F.normalize(condition.float(), dim=-1) * condition.shape[-1] ** 0.5
        features = torch.cat([normalised, self.fourier(t)], dim=-1).to(condition.dtype)
        if self.guidance is not None:
            features = features + self.guidance(guidance_embedding.to(condition.dtype))
        return self.block2(self.block1(features))


class Modulation(nn.Module):
    """Normalises each image, then maps its channels to x·(1 + scale) + shift, predicted from the mapping vector."""

    def __init__(self, mapping_dim: int, channels: int):
        super().__init__()
        self.proj = nn.Linear(mapping_dim, 2 * channels, bias=False)

    def forward(self, hidden_states: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        scale, shift = self.proj(emb)[..., None, None].chunk(2, dim=1)
        normalised = F.group_norm(hidden_states, num_groups=1)
        # New memory costs more than the arithmetic: each page is cleared when it is first written.
        return torch.addcmul(shift, normalised, scale + 1, out=normalised if records_nothing() else None)


class ResidualBlock(nn.Module):
    """(conv 3×3 → normalise → modulate → ReLU) twice, plus a skip connection.

    With `is_last` the block ends after the second convolution: the network's output is not normalised.
    """

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, mapping_dim: int, is_last: bool = False
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 3, padding=1)
        self.modulation1 = Modulation(mapping_dim, mid_channels)
        self.conv2 = nn.Conv2d(mid_channels, out_channels, 3, padding=1)
        self.modulation2 = None if is_last else Modulation(mapping_dim, out_channels)
        self.skip = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, hidden_states: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.modulation1(self.conv1(hidden_states), emb), inplace=True)
        residual = self.conv2(residual)
        if self.modulation2 is not None:
            residual = F.relu(self.modulation2(residual, emb), inplace=True)
        skip = self.skip(hidden_states)
        return residual.add_(skip) if records_nothing() else residual + skip


class UNetLevel(nn.Module):
    """The residual blocks of one resolution on one side of the U-Net, each with self-attention behind it or not.

    Args:
        channels: Channels (in, mid, out) of each residual block.
        mapping_dim: Width of the mapping vector.
        attention_head_dim: Channels of an attention head; `None` for a level without attention.
        is_output: True if the level's last block is the last one of the network.
    """

    def __init__(
        self,
        channels: list[tuple[int, int, int]],
        mapping_dim: int,
        attention_head_dim: int | None,
        is_output: bool = False,
    ):
        super().__init__()
        last = len(channels) - 1 if is_output else None
        self.resnets = nn.ModuleList(
            ResidualBlock(*widths, mapping_dim, is_last=i == last) for i, widths in enumerate(channels)
        )
        self.attentions = nn.ModuleList()
        if attention_head_dim is not None:
            self.attentions.extend(
                Attention(
                    query_dim=width,
                    heads=width // attention_head_dim,
                    dim_head=attention_head_dim,
                    bias=True,
                    norm_num_groups=1,
                    eps=1e-5,
                    residual_connection=True,
                    processor=SpatialAttnProcessor(),
                )
                for _, _, width in channels
            )
        self.gradient_checkpointing = False

    def run_blocks(self, hidden_states: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        for i, resnet in enumerate(self.resnets):
            hidden_states = self._run(resnet, hidden_states, emb)
            if self.attentions:
                hidden_states = self._run(self.attentions[i], hidden_states)
        return hidden_states

    def _run(self, block: nn.Module, *args: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            # diffusers' `enable_gradient_checkpointing` sets this function; there is not a public name.
            return self._gradient_checkpointing_func(block, *args)
        return block(*args)


class DownLevel(UNetLevel):
    """Halves the resolution, except in the first level, and runs the level's blocks."""

    def __init__(self, *args, downsample: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.downsample = nn.AvgPool2d(2) if downsample else nn.Identity()

    def forward(self, hidden_states: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return self.run_blocks(self.downsample(hidden_states), emb)


class UpLevel(UNetLevel):
    """Appends the skip connection, except in the deepest level, runs the blocks and doubles the resolution."""

    def __init__(self, *args, upsample: bool, **kwargs):
        super().__init__(*args, **kwargs)
        self.upsample = (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False) if upsample else nn.Identity()
        )

    def forward(
        self, hidden_states: torch.Tensor, emb: torch.Tensor, skip: torch.Tensor | None = None
    ) -> torch.Tensor:
        if skip is not None:
            hidden_states = torch.cat([hidden_states, skip], dim=1)
        return self.upsample(self.run_blocks(hidden_states, emb))


class CCLDUNet2DConditionModel(SavedWithoutAdapters, UNet2DConditionModel):
    """The U-Net of CLOOB-Conditioned Latent Diffusion; predicts v = α·ε − σ·x₀ from a noisy latent.

    Its condition is one CLOOB embedding for each image, of a text or of an image; the zero vector is the
    unconditional case. The defaults are the published student of 105M parameters ("wikiart-mini"). The teacher of 1.2
    billion has `block_out_channels=(768, 768, 1536, 1536)`.

    After `train_latent_diffusion.py::DiffusionModel` of JD-P/cloob-latent-diffusion.

    Args:
        sample_size: Height and width of the training latents: a default for pipelines, not a limit.
        in_channels: Channels of the noisy latents.
        out_channels: Channels of the prediction.
        block_out_channels: Width of each level, highest resolution first; multiples of `attention_head_dim`.
        cross_attention_dim: Width D of the condition. The name is diffusers'; the condition modulates every block, and
            the network has no cross-attention.
        attention_head_dim: Channels of an attention head. The first level has no attention.
        mapping_dim: Width of the mapping network.
        layers_per_block: Residual blocks of a level on each side; one number, or one for each level.
        time_cond_proj_dim: Width of the embedding of the guidance scale, an additional input of guidance-distilled
            networks; `None` for other networks.

    Raises:
        ValueError: If the widths and depths do not describe a network.
    """

    # diffusers reads these names off its models' classes.
    _no_split_modules = ["DownLevel", "UpLevel"]
    _repeated_blocks = ["ResidualBlock", "Attention"]
    _keep_in_fp32_modules = ["fourier"]
    _skip_layerwise_casting_patterns = ["fourier", "norm"]

    # Reads the original's files. The package sets it at import: this module does not depend on their formats.
    single_file_reader: Callable[..., "CCLDUNet2DConditionModel"] | None = None

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: tuple[int, ...] = (192, 192, 384, 384),
        cross_attention_dim: int = 512,
        attention_head_dim: int = 64,
        mapping_dim: int = 1024,
        layers_per_block: int | tuple[int, ...] = 4,
        time_cond_proj_dim: int | None = None,
    ):
        # The parent's __init__ would build Stable Diffusion's network; it is a parent for isinstance only.
        ModelMixin.__init__(self)

        widths = tuple(block_out_channels)
        depths = (layers_per_block,) * len(widths) if isinstance(layers_per_block, int) else tuple(layers_per_block)
        if len(widths) < 2 or any(width <= 0 or width % attention_head_dim for width in widths):
            raise ValueError(
                f"block_out_channels={widths}: two or more levels are needed, each with a width that is a positive "
                f"multiple of attention_head_dim={attention_head_dim}."
            )
        if len(depths) != len(widths) or any(depth < 1 for depth in depths):
            raise ValueError(f"layers_per_block={layers_per_block}: needs a positive number for each of {widths}.")
        if time_cond_proj_dim is not None and (time_cond_proj_dim < 4 or time_cond_proj_dim % 2):
            raise ValueError(f"time_cond_proj_dim={time_cond_proj_dim}: waves come in pairs; give 4 or more.")

        self.mapping = MappingNetwork(cross_attention_dim, mapping_dim, time_cond_proj_dim)
        self.fourier = FourierFeatures(INPUT_TIME_FEATURES)

        self.down_blocks = nn.ModuleList()
        in_width = in_channels + INPUT_TIME_FEATURES
        for level, (width, depth) in enumerate(zip(widths, depths)):
            self.down_blocks.append(
                DownLevel(
                    [(in_width, width, width)] + [(width, width, width)] * (depth - 1),
                    mapping_dim,
                    attention_head_dim=None if level == 0 else attention_head_dim,
                    downsample=level > 0,
                )
            )
            in_width = width

        self.up_blocks = nn.ModuleList()
        for level, (width, depth) in reversed(list(enumerate(zip(widths, depths)))):
            in_width = width if level == len(widths) - 1 else 2 * width
            out_width = widths[level - 1] if level > 0 else out_channels
            ins = [in_width] + [width] * (depth - 1)
            outs = [width] * (depth - 1) + [out_width]
            self.up_blocks.append(
                UpLevel(
                    [(i, width, o) for i, o in zip(ins, outs)],
                    mapping_dim,
                    attention_head_dim=None if level == 0 else attention_head_dim,
                    is_output=level == 0,
                    upsample=level > 0,
                )
            )

        # The original shrinks PyTorch's initialisation, biases and norms included, but not the Fourier frequencies.
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.requires_grad:
                    parameter.mul_(0.5**0.5)

        use_inference_layers(self)

    @classmethod
    def from_single_file(
        cls, path: str | Path, torch_dtype: torch.dtype | None = None, ema: bool = True
    ) -> "CCLDUNet2DConditionModel":
        """Loads the U-Net of one of the original's files; its size is read from the weights.

        The parent's method would look for a Stable Diffusion U-Net in the file.

        Args:
            path: A bare U-Net, or a Lightning training checkpoint.
            torch_dtype: Type of the weights, float32 by default. The Fourier frequencies are always float32.
            ema: Takes the EMA weights of a training checkpoint if true, the raw ones otherwise.

        Returns:
            The U-Net, in evaluation mode.

        Raises:
            CheckpointError: If the file is not one of these.
            NotImplementedError: In a standalone folder, which cannot read the original's files.
        """
        if cls.single_file_reader is None:
            raise NotImplementedError("Reading the original's files needs the package diffusers-ccld.")
        return cls.single_file_reader(path, torch_dtype=torch_dtype, ema=ema)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = True,
        timestep_cond: torch.Tensor | None = None,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Predicts v.

        Args:
            sample: Noisy latents, (N, `in_channels`, H, W); H and W multiples of 8 with the default four levels.
            timestep: In diffusers' units, one number or (N,): the continuous time is t = (timestep + 1) / 1000.
            encoder_hidden_states: CLOOB embeddings, (N, D) or (N, 1, D), of any norm; zeros for no condition.
            return_dict: Returns an output object if true, else a tuple.
            timestep_cond: Embeddings of the guidance scale, (N, `time_cond_proj_dim`), from
                `prediction.guidance_scale_embedding`, for guidance-distilled networks; `None` for others.

        Returns:
            `UNet2DConditionOutput` with v as its `sample`, (N, `out_channels`, H, W); or a tuple with just that.

        Raises:
            ValueError: If a shape is wrong.
        """
        self._check_inputs(sample, timestep, encoder_hidden_states, timestep_cond)
        t = (torch.as_tensor(timestep, dtype=torch.float32, device=sample.device) + 1) / 1000
        t = t.expand(sample.shape[0])
        emb = self.mapping(encoder_hidden_states.flatten(1).to(sample.dtype), t, timestep_cond)
        time_planes = self.fourier(t).to(sample.dtype)[..., None, None].expand(-1, -1, *sample.shape[2:])

        hidden_states = torch.cat([sample, time_planes], dim=1)
        skips = []
        for down_block in self.down_blocks:
            hidden_states = down_block(hidden_states, emb)
            skips.append(hidden_states)
        skips[-1] = None  # the deepest level has no skip connection
        for up_block in self.up_blocks:
            hidden_states = up_block(hidden_states, emb, skips.pop())
        hidden_states = hidden_states.contiguous()
        return UNet2DConditionOutput(sample=hidden_states) if return_dict else (hidden_states,)

    def _check_inputs(self, sample, timestep, encoder_hidden_states, timestep_cond):
        config = self.config
        multiple = 2 ** (len(config.block_out_channels) - 1)
        if sample.ndim != 4 or sample.shape[1] != config.in_channels or any(s % multiple for s in sample.shape[2:]):
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}; expected (N, {config.in_channels}, H, W) with H and W "
                f"multiples of {multiple}."
            )
        shape = tuple(encoder_hidden_states.shape)
        if shape not in (
            (sample.shape[0], config.cross_attention_dim),
            (sample.shape[0], 1, config.cross_attention_dim),
        ):
            raise ValueError(
                f"encoder_hidden_states has shape {shape}; expected one CLOOB embedding per image, "
                f"({sample.shape[0]}, {config.cross_attention_dim}) or ({sample.shape[0]}, 1, "
                f"{config.cross_attention_dim})."
            )
        if isinstance(timestep, torch.Tensor) and tuple(timestep.shape) not in ((), (1,), (sample.shape[0],)):
            raise ValueError(
                f"timestep has shape {tuple(timestep.shape)}; expected one number or ({sample.shape[0]},)."
            )
        expected = None if config.time_cond_proj_dim is None else (sample.shape[0], config.time_cond_proj_dim)
        given = None if timestep_cond is None else tuple(timestep_cond.shape)
        if given != expected:
            raise ValueError(
                f"timestep_cond, the embedding of the guidance scale, has shape {given}; this network takes "
                f"{expected}."
            )

    def set_attention_slice(self, slice_size: str | int | list[int] | None = "auto") -> None:
        """Computes attention in slices of heads, to save memory.

        The parent's "auto" makes slices of zero heads in a level with one head.

        Args:
            slice_size: Number of heads computed at once; `None` for all. "auto" is half of them, at least one. "max"
                is one, which saves the most memory. A number above the heads of a level is lowered. A list has one
                number for each attention module.

        Raises:
            ValueError: If it is not one of these, or exceeds the heads of every level.
        """
        heads = [module.sliceable_head_dim for module in self.modules() if isinstance(module, Attention)]
        if slice_size == "auto":
            slice_size = [max(count // 2, 1) for count in heads]
        elif isinstance(slice_size, int) and 1 <= slice_size <= max(heads):
            slice_size = [min(slice_size, count) for count in heads]
        elif isinstance(slice_size, list):
            if len(slice_size) != len(heads) or not all(1 <= size <= count for size, count in zip(slice_size, heads)):
                raise ValueError(f"slice_size={slice_size} does not suit attention modules of {heads} heads.")
        elif slice_size is not None and slice_size != "max":
            raise ValueError(f'slice_size={slice_size!r}: give "auto", "max" or a number from 1 to {max(heads)}.')
        if slice_size is None:
            self.set_attn_processor(SpatialAttnProcessor())
        else:
            super().set_attention_slice(slice_size)

    def set_default_attn_processor(self) -> None:
        """Sets diffusers' plain attention processor, as this method of its models does."""
        self.set_attn_processor(AttnProcessor())

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """Refuses FreeU: its factors are tuned to another network's skip connections.

        Raises:
            ValueError: Always.
        """
        raise ValueError("FreeU is not defined for CCLDUNet2DConditionModel: its skip connections differ.")
