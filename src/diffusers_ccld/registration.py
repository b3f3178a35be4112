"""Makes diffusers and transformers find our classes. All that is set at import is set here.

diffusers has no hooks for third parties, so these are set in it:

- attributes of `diffusers` with our pipelines, models and scheduler: `DiffusionPipeline.from_pretrained` looks a
  pipeline's class up there by the name in `model_index.json`;
- attributes of `diffusers.pipelines` with our pipelines: they are looked up there as components' classes;
- `diffusers.pipelines.diffusers_ccld`, this package: a component's class is an attribute of a module of the name in
  `model_index.json`;
- entries "ccld" in the three mappings of `diffusers.pipelines.auto_pipeline`.

transformers has hooks: `register` of `AutoConfig`, `AutoModel`, `AutoTokenizer` and `AutoImageProcessor`.

In our own classes:

- `CCLDScheduler.__module__` becomes this package: a stock pipeline writes it into `model_index.json`. The CLOOB models
  keep theirs: transformers reads the source of the module that a model's class names.
- `CCLDUNet2DConditionModel.single_file_reader`, for `from_single_file`: models may not import the readers of the
  original's files.
"""

import sys

import diffusers
from diffusers.pipelines import auto_pipeline
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from .models.configuration_cloob import CLOOBConfig, CLOOBTextConfig, CLOOBVisionConfig
from .models.gumbel_vq import GumbelVQModel
from .models.linear_decoder import LinearDecoder
from .models.modeling_cloob import CLOOBModel, CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from .models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from .models.unet_ccld import CCLDUNet2DConditionModel
from .original.single_file import read_unet
from .pipelines.pipeline_ccld import CCLDPipeline
from .pipelines.pipeline_ccld_guided import CCLDGuidedPipeline
from .pipelines.pipeline_ccld_img2img import CCLDImg2ImgPipeline
from .pipelines.pipeline_ccld_inpaint import CCLDInpaintPipeline
from .schedulers.scheduling_ccld import CCLDScheduler


def register() -> None:
    """Registers all classes; called once, at import."""
    _register_with_diffusers()
    _register_with_transformers()
    CCLDScheduler.__module__ = "diffusers_ccld"
    CCLDUNet2DConditionModel.single_file_reader = staticmethod(read_unet)


def _register_with_diffusers():
    for cls in (CCLDScheduler, CCLDUNet2DConditionModel, GumbelVQModel, LinearDecoder, CCLDGuidedPipeline):
        setattr(diffusers, cls.__name__, cls)
    diffusers.pipelines.CCLDGuidedPipeline = CCLDGuidedPipeline
    for mapping, cls in (
        (auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING, CCLDPipeline),
        (auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, CCLDImg2ImgPipeline),
        (auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING, CCLDInpaintPipeline),
    ):
        setattr(diffusers, cls.__name__, cls)
        setattr(diffusers.pipelines, cls.__name__, cls)
        mapping["ccld"] = cls
    diffusers.pipelines.diffusers_ccld = sys.modules["diffusers_ccld"]


def _register_with_transformers():
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
