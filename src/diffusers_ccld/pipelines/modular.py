"""Text to image as diffusers' modular blocks: encode, prepare, denoise, decode, with one of diffusers' guiders.

    pipe = CCLDBlocks().init_pipeline(folder)
    pipe.load_components()
    pipe.update_components(guider=AdaptiveProjectedGuidance(guidance_scale=5.0))
    pipe(prompt="a winter landscape", output="images")[0].save("winter.png")

The blocks call the methods of `CCLDPipeline`.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, ClassifierFreeGuidance, ModularPipeline
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines import (
    ComponentSpec,
    ConfigSpec,
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
    SequentialPipelineBlocks,
)

from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..models.unet_ccld import CCLDUNet2DConditionModel
from ..schedulers.scheduling_ccld import CCLDScheduler
from ..utils.notices import Notices
from .calls import USUAL_GUIDANCE_SCALE, SamplingCall
from .guidance import Guidance, guided_prediction
from .pipeline_ccld import CCLDPipeline
from .saving import SETTINGS
from .timesteps import set_timesteps

COMPONENTS = {
    "vae": AutoencoderKL,
    "text_encoder": CLOOBTextModelWithProjection,
    "tokenizer": CLOOBTokenizer,
    "unet": CCLDUNet2DConditionModel,
    "scheduler": CCLDScheduler,
    "image_encoder": CLOOBVisionModelWithProjection,
    "feature_extractor": CLOOBImageProcessor,
}

PROMPTS = (
    "prompt",
    "negative_prompt",
    "image_prompt",
    "image_prompt_weight",
    "prompt_embeds",
    "negative_prompt_embeds",
    "image_embeds",
    "variation",
    "num_images_per_prompt",
)
STEPS = ("height", "width", "num_inference_steps", "timesteps", "sigmas", "latents")


class _Block(ModularPipelineBlocks):
    """A block that does one stage of `CCLDPipeline`.

    Attributes:
        options: Names of the inputs that are arguments of `CCLDPipeline`.
        needed: Names of the inputs that are outputs of earlier blocks.
        made: Names of the outputs.
    """

    options: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    made: tuple[str, ...] = ()

    def __init__(self):
        super().__init__()
        self._notices = Notices()

    @property
    def description(self) -> str:
        return self.__doc__.partition("\n")[0]

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec(name, kind) for name, kind in COMPONENTS.items()]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        return [ConfigSpec(name, None) for name in SETTINGS]

    @property
    def inputs(self) -> list[InputParam]:
        defaults = {name: field.default for name, field in SamplingCall.__dataclass_fields__.items()}
        own = [InputParam(name, default=defaults[name]) for name in self.options]
        return own + [InputParam(name, required=True) for name in self.needed]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam(name) for name in self.made]

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        block_state = self.get_block_state(state)
        parts = {name: getattr(components, name) for name in COMPONENTS}
        pipe = CCLDPipeline(**parts, **{name: components.config.get(name) for name in SETTINGS})
        pipe.notices = self._notices
        values = {name: getattr(block_state, name) for name in (*self.options, *self.needed)}
        for name, value in self.run(pipe, components, **values).items():
            setattr(block_state, name, value)
        self.set_block_state(state, block_state)
        return components, state

    def run(self, pipe: CCLDPipeline, components: ModularPipeline, **values: Any) -> dict[str, Any]:
        """Computes the outputs from the inputs, both by name."""
        raise NotImplementedError


class CCLDEncodeStep(_Block):
    """Embeds prompts and image prompts."""

    options = (*PROMPTS, "generator")
    made = ("guidance",)

    def run(self, pipe: CCLDPipeline, components: ModularPipeline, **values: Any) -> dict[str, Any]:
        call = pipe.prepare_call(SamplingCall(**values))
        guidance = pipe.prepare_guidance(call, call.num_images)
        return {"guidance": pipe.vary_texts(guidance, call.variation, call.generator)}


class CCLDPrepareStep(_Block):
    """Sets the timesteps and draws the initial noise."""

    options = (*STEPS, "generator")
    needed = ("guidance",)
    made = ("latents", "run_scheduler")

    def run(
        self, pipe: CCLDPipeline, components: ModularPipeline, guidance: Guidance, **values: Any
    ) -> dict[str, Any]:
        call = pipe.prepare_call(SamplingCall(conditions=_unconditional(guidance), **values))
        scheduler, device = pipe.own_scheduler(), pipe._execution_device
        set_timesteps(scheduler, call.steps, device)
        noise = call.latents
        if noise is None:
            noise = pipe.prepare_noise(call.num_images, call.height, call.width, call.generator, device)
        return {"latents": noise.to(device, torch.float32) * scheduler.init_noise_sigma, "run_scheduler": scheduler}


class CCLDDenoiseStep(_Block):
    """Denoises the latents, guided by the component `guider`."""

    options = ("eta", "generator")
    needed = ("latents", "guidance", "run_scheduler")
    made = ("latents",)

    @property
    def expected_components(self) -> list[ComponentSpec]:
        guider = ComponentSpec(
            "guider",
            ClassifierFreeGuidance,
            config={"guidance_scale": USUAL_GUIDANCE_SCALE},
            default_creation_method="from_config",
        )
        return [*super().expected_components, guider]

    def run(
        self,
        pipe: CCLDPipeline,
        components: ModularPipeline,
        latents: torch.Tensor,
        guidance: Guidance,
        run_scheduler: CCLDScheduler,
        **values: Any,
    ) -> dict[str, Any]:
        call = pipe.prepare_call(SamplingCall(conditions=_unconditional(guidance), guidance_scale=1.0, **values))
        timesteps = run_scheduler.timesteps
        predict = prediction_by(components.guider, guidance, len(timesteps))
        latents = pipe.denoise(
            latents, call, guidance=guidance, scheduler=run_scheduler, timesteps=timesteps, predict=predict
        )
        return {"latents": latents}


class CCLDDecodeStep(_Block):
    """Decodes latents to images."""

    options = ("output_type",)
    needed = ("latents",)
    made = ("images",)

    def run(
        self, pipe: CCLDPipeline, components: ModularPipeline, latents: torch.Tensor, output_type: str
    ) -> dict[str, Any]:
        call = SamplingCall(conditions=[], output_type=output_type)
        return {"images": pipe.finish(latents, call).images}


class CCLDBlocks(SequentialPipelineBlocks):
    """Text to image with CCLD."""

    block_classes = [CCLDEncodeStep, CCLDPrepareStep, CCLDDenoiseStep, CCLDDecodeStep]
    block_names = ["encode", "prepare", "denoise", "decode"]

    @property
    def description(self) -> str:
        return "Text to image with CLOOB-Conditioned Latent Diffusion."


def prediction_by(guider: BaseGuidance, guidance: Guidance, num_steps: int) -> Callable[..., torch.Tensor]:
    """Returns a function like `guided_prediction` in which a guider of diffusers combines two predictions.

    The two are the predictions of the guidance formula at scales 1 and 0. The formula is linear in the scale, so
    `ClassifierFreeGuidance`, which extrapolates linearly, gives the formula's own result.

    Args:
        guider: The guider, which has the guidance scale.
        guidance: The terms of the formula. They must come from prompts, because the weights of conditions are fixed.
        num_steps: Number of timesteps of the run.
    """
    step = 0

    def predict(
        unet: torch.nn.Module,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        condition_embeds: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        nonlocal step
        guider.set_state(step=step, num_inference_steps=num_steps, timestep=timestep)
        batches = guider.prepare_inputs({"scale": (1.0, 0.0)})
        for batch in batches:
            guider.prepare_models(unet)
            batch.noise_pred = guided_prediction(
                unet, latents, timestep, condition_embeds, guidance.weights(batch.scale)
            )
            guider.cleanup_models(unet)
        step += 1
        return guider(batches)[0]

    return predict


def _unconditional(guidance: Guidance) -> list[list]:
    """Placeholders for the conditions of a call, one for each image of the guidance, which has the embeddings."""
    return [[] for _ in guidance.condition_embeds]
