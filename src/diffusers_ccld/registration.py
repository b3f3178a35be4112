"""Makes diffusers and transformers know our classes.

`DiffusionPipeline.from_pretrained` looks a pipeline's class up as an attribute of the `diffusers` module, and the
classes of its components in a module of `diffusers.pipelines` of the name that stands in `model_index.json`. Neither
has a hook for third parties, so importing this package puts its public names there. transformers has proper ones.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import diffusers
from diffusers.pipelines import auto_pipeline
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from .models.configuration_cloob import CLOOBConfig, CLOOBTextConfig, CLOOBVisionConfig
from .models.gumbel_vq import GumbelVQModel
from .models.modeling_cloob import CLOOBModel, CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from .models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from .models.unet_ccld import CCLDUNet2DConditionModel
from .original.published.presets import REPOSITORIES
from .original.single_file import unet_from_single_file
from .pipelines.pipeline_ccld import CCLDPipeline
from .pipelines.pipeline_ccld_img2img import CCLDImg2ImgPipeline
from .pipelines.pipeline_ccld_inpaint import CCLDInpaintPipeline
from .schedulers.scheduling_ccld import CCLDScheduler


def download_pipeline(
    download: Callable[..., str], cls: type[diffusers.DiffusionPipeline], pretrained_model_name: str, **kwargs: Any
) -> str:
    """diffusers' download of a pipeline, but for repositories of which it would only say that they hold none.

    Raises:
        ValueError: If it is one with the original's files.
    """
    preset = REPOSITORIES.get(str(pretrained_model_name))
    if preset is not None:
        raise ValueError(
            f"{pretrained_model_name} holds the original's files, not a pipeline of diffusers. Convert them once: "
            f"`ccld convert --preset {preset} --output DIR`, and load the folder DIR."
        )
    return download(cls, pretrained_model_name, **kwargs)


def register() -> None:
    """Registers all classes; to be called once, at import."""
    for cls in (CCLDScheduler, CCLDUNet2DConditionModel, GumbelVQModel):
        setattr(diffusers, cls.__name__, cls)
    for mapping, cls in (
        (auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING, CCLDPipeline),
        (auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, CCLDImg2ImgPipeline),
        (auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING, CCLDInpaintPipeline),
    ):
        setattr(diffusers, cls.__name__, cls)
        setattr(diffusers.pipelines, cls.__name__, cls)
        mapping["ccld"] = cls
    # The parent's would look for a Stable Diffusion U-Net in the file. It stands here because the U-Net's module
    # knows nothing of the original's formats.
    CCLDUNet2DConditionModel.from_single_file = classmethod(unet_from_single_file)
    diffusers.DiffusionPipeline.download = classmethod(
        functools.partial(download_pipeline, diffusers.DiffusionPipeline.download.__func__)
    )
    diffusers.pipelines.diffusers_ccld = sys.modules["diffusers_ccld"]
    # A stock pipeline that holds our scheduler writes its module's name into `model_index.json`. (Not so for CLOOB:
    # transformers reads the source of the module that a model's class names.)
    CCLDScheduler.__module__ = "diffusers_ccld"

    for config_class, model_class in (
        (CLOOBConfig, CLOOBModel),
        (CLOOBTextConfig, CLOOBTextModelWithProjection),
        (CLOOBVisionConfig, CLOOBVisionModelWithProjection),
    ):
        AutoConfig.register(config_class.model_type, config_class)
        AutoModel.register(config_class, model_class)
    for config_class in (CLOOBConfig, CLOOBTextConfig):
        AutoTokenizer.register(config_class, fast_tokenizer_class=CLOOBTokenizer)
    for config_class in (CLOOBConfig, CLOOBVisionConfig):
        AutoImageProcessor.register(config_class, slow_image_processor_class=CLOOBImageProcessor)
