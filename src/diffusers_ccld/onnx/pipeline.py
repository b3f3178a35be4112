"""Samples pictures from a folder of ONNX files, without torch.

pipe = OnnxPipeline("my-model-onnx")
(picture,) = pipe.sample([0], [("the moon over a landscape, oil on canvas", 3.0)])
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..models.square_crop import resize_and_center_crop
from ..schedulers.names import ONNX_ALGORITHMS
from ..schedulers.solvers import METHODS
from ..utils.notices import Notices
from ..utils.rgb import to_rgb
from .manifest import Manifest
from .networks import Networks
from .noise import NoiseSource
from .sampler import Guidance, Sampler, sampling_times
from .text import TextEncoding

Condition = str | Image.Image | np.ndarray
BUNDLED = Path(__file__).parents[1] / "default_model"
USUAL_GUIDANCE_SCALE = 3.0

StepCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class SchedulerSettings:
    """Settings of the sampler, named as in `CCLDScheduler`.

        pipe.scheduler = dataclasses.replace(pipe.scheduler, algorithm_type="unipc")

    Attributes:
        algorithm_type: "dpmpp", "unipc" or "ddim".
        timestep_schedule: "spliced", "ddpm", "log" or "linear".
        prediction_type: The network's output: "v_prediction" or "epsilon".

    Raises:
        ValueError: If the algorithm is not one of these.
    """

    algorithm_type: str
    timestep_schedule: str
    prediction_type: str

    def __post_init__(self):
        if self.algorithm_type not in ONNX_ALGORITHMS:
            names = ", ".join(ONNX_ALGORITHMS)
            raise ValueError(f"The ONNX runtime does not have {self.algorithm_type}; choose one of {names}.")

    @property
    def config(self) -> dict[str, str]:
        """The settings by name."""
        return dict(vars(self))

    def accepts_eta(self, eta: float) -> bool:
        """True if the algorithm can add this share of noise."""
        return self.algorithm_type == "ddim"


class OnnxPipeline:
    """A pipeline of ONNX files. It samples the same pictures as the exported pipeline, up to rounding.

    Args:
        folder: A folder that `ccld export-onnx` wrote; `None` for the bundled model.
        num_threads: Number of threads for each network; by default, onnxruntime chooses it.

    Raises:
        ExportError: If the folder cannot be used.
    """

    def __init__(self, folder: str | Path | None = None, num_threads: int | None = None):
        self.folder = BUNDLED if folder is None else Path(folder)
        self.manifest = Manifest.read(self.folder)
        self.scheduler = SchedulerSettings(**self.manifest.scheduler)
        self.networks = Networks(self.folder, self.manifest, num_threads)
        self._tokenize: TextEncoding | None = None
        self.notices = Notices()

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts. Returns embeddings of unit length, (N, D)."""
        if self._tokenize is None:
            path = self.manifest.tokenizer.verify(self.folder)
            self._tokenize = TextEncoding(path, self.manifest.context_length)
        self.notices.warn_of_words(texts, self._tokenize.vocabulary)
        return self.networks("text_encoder", input_ids=self._tokenize(texts))

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embeds image prompts of any mode and size. Returns embeddings of unit length, (N, D)."""
        settings = self.manifest.image_processor
        if settings is None:
            raise ValueError(f"{self.folder} was exported without an image encoder, which image prompts need.")
        crops = np.stack([np.asarray(resize_and_center_crop(to_rgb(i), settings["size"])) for i in images])
        mean, std = (np.float32(settings[name])[:, None, None] for name in ("image_mean", "image_std"))
        pixels = crops.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        return self.networks("image_encoder", pixel_values=(pixels - mean) / std)

    def decode(self, latents: np.ndarray) -> list[Image.Image]:
        """Decodes scaled latents, (N, C, H, W).

        Raises:
            ValueError: If a pixel is infinite or not a number.
        """
        pixels = self.networks("decoder", latents=latents) / 2 + 0.5
        if not np.isfinite(pixels).all():
            raise ValueError("The model's pixels are not finite. Try another algorithm, or less guidance.")
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
        return [Image.fromarray(image) for image in pixels.transpose(0, 2, 3, 1)]

    @property
    def size_multiple(self) -> int:
        """The number that heights and widths in pixels must be multiples of."""
        return self.manifest.size_multiple

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the training images in pixels."""
        return self.manifest.height, self.manifest.width

    def steps_or_default(self, num_inference_steps: int | None, usual: int | None = None) -> int:
        """Returns the given number of steps, or else the model's own, or else `usual`, or else the algorithm's."""
        own, of_algorithm = (
            self.manifest.defaults["num_inference_steps"],
            METHODS[self.scheduler.algorithm_type].num_steps,
        )
        return next(number for number in (num_inference_steps, own, usual, of_algorithm) if number is not None)

    def sample(
        self,
        seeds: Sequence[int],
        conditions: Sequence[tuple[Condition, float]],
        *,
        num_inference_steps: int | None = None,
        guidance_interval: tuple[float, float] | None = None,
        variation: float | None = None,
        eta: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 4,
        on_step: StepCallback | None = None,
    ) -> Iterator[Image.Image]:
        """Samples one picture from each seed, in batches. A seed gives the same noise as in torch.

        Args:
            seeds: The seeds.
            conditions: Texts, images or embeddings with their weights, for all pictures; see `CCLDPipeline`. A prompt
                with guidance scale g has weight g, a negative prompt 1 − g.
            num_inference_steps: Number of steps; by default the model's own.
            guidance_interval: Times between which guidance applies; by default all.
            variation: Spread of the pictures around a prompt, 0 to 1; by default the model's own.
            eta: Share of fresh noise that "ddim" adds in each step, 0 to 1.
            height: Height in pixels; by default the model's own.
            width: Width in pixels; by default the model's own.
            batch_size: Number of pictures to sample at once.
            on_step: Called as on_step(steps done, steps of all batches) after every step.

        Yields:
            Pictures in the order of the seeds.

        Raises:
            ValueError: If an argument is wrong, or pixels are not finite.
            ExportError: If a file of the folder is missing or damaged.
        """
        manifest, settings = self.manifest, self.scheduler
        if eta and not settings.accepts_eta(eta):
            raise ValueError(f'eta={eta} is an option of "ddim", not of "{settings.algorithm_type}".')
        times = sampling_times(self.steps_or_default(num_inference_steps), settings.timestep_schedule)
        sampler = Sampler(settings.algorithm_type, times, settings.prediction_type, eta)
        size = height or manifest.height, width or manifest.width
        shape = self._latent_shape(*size)
        self.notices.warn_of_size(size, self.default_size)
        variation = self.variation_or_default(variation)
        embeds, weights = self._terms(conditions)
        starts = range(0, len(seeds), batch_size)
        progress = _Progress(len(starts) * len(sampler.times), on_step)
        for first in starts:
            sources = [NoiseSource(seed) for seed in seeds[first : first + batch_size]]
            noise = _draw(sources, shape)
            guidance = Guidance(
                self._varied(embeds, conditions, sources, variation),
                np.tile(weights, (len(sources), 1)),
                tuple(guidance_interval or (0.0, 1.0)),
                manifest.takes_guidance_scale,
            )
            yield from self.decode(
                sampler.run(self._unet, noise, guidance, lambda sources=sources: _draw(sources, shape), progress)
            )

    def guidance_or_default(self, guidance_scale: float | None) -> float:
        """Returns the given guidance scale, or else the model's own, or else 3.

        A default is limited to the largest scale that a guidance-distilled network has learned.
        """
        if guidance_scale is not None:
            return guidance_scale
        own, largest = (self.manifest.defaults[name] for name in ("guidance_scale", "max_guidance_scale"))
        usual = USUAL_GUIDANCE_SCALE if own is None else own
        return usual if largest is None else min(usual, largest)

    def variation_or_default(self, variation: float | None) -> float:
        """Returns the given variation, or else the model's own, or else 0.

        Raises:
            ValueError: If it is out of range, or the model's text encoder was not fitted.
        """
        can_vary = "text_variation" in self.manifest.networks
        if variation is None:
            return (self.manifest.defaults["variation"] or 0.0) if can_vary else 0.0
        if not 0 <= variation <= 1:
            raise ValueError(f"variation={variation!r} must be a number in [0, 1].")
        if variation and not can_vary:
            raise ValueError(f"variation={variation:g} needs a model whose text encoder was fitted; this one was not.")
        return variation

    def _unet(self, latents, timesteps, conditions, scales):
        inputs = {"sample": latents, "timestep": timesteps, "condition": conditions}
        return self.networks(
            "unet", **inputs, **({"guidance_scale": scales} if self.manifest.takes_guidance_scale else {})
        )

    def _latent_shape(self, height, width):
        multiple = self.manifest.size_multiple
        if min(height, width) < 1 or height % multiple or width % multiple:
            raise ValueError(f"height={height} and width={width} must be positive multiples of {multiple} pixels.")
        factor = self.manifest.downsampling
        return self.manifest.latent_channels, height // factor, width // factor

    def _terms(self, conditions):
        """Embeddings (K, D) and weights (K,) of conditions."""
        embeds: list[np.ndarray | None] = [c if isinstance(c, np.ndarray) else None for c, _ in conditions]
        for kind, encode in ((str, self.encode_texts), (Image.Image, self.encode_images)):
            indices = [i for i, (condition, _) in enumerate(conditions) if isinstance(condition, kind)]
            for i, embed in zip(indices, encode([conditions[i][0] for i in indices]) if indices else ()):
                embeds[i] = embed
        weights = np.array([weight for _, weight in conditions], dtype=np.float64)
        limit = self.manifest.defaults["max_guidance_scale"]
        if limit is not None and len(weights) == 1 and weights[0] > limit:
            raise ValueError(
                f"The network was distilled for guidance scales up to {limit:g}; {weights[0]:g} is too large."
            )
        return np.array(embeds, dtype=np.float32).reshape(-1, self.manifest.embedding_dim), weights

    def _varied(self, embeds, conditions, sources, variation):
        """Embeddings (N, K, D), one row for each source of noise. Texts with positive weights are varied."""
        varied = np.tile(embeds, (len(sources), 1, 1))
        texts = [i for i, (condition, weight) in enumerate(conditions) if isinstance(condition, str) and weight > 0]
        if variation and texts:
            noise = variation * _draw(sources, embeds.shape[1:])
            for i in texts:
                varied[:, i] = self.networks("text_variation", embeds=varied[:, i].copy(), noise=noise)
        return varied


class _Progress:
    """Counts the steps of all batches, and reports them."""

    def __init__(self, num_steps: int, report: StepCallback | None):
        self.num_steps, self.done, self.report = num_steps, 0, report

    def __call__(self, denoised: np.ndarray) -> None:
        self.done += 1
        if self.report is not None:
            self.report(self.done, self.num_steps)


def _draw(sources: Sequence[NoiseSource], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([source.normal((1, *shape)) for source in sources])
