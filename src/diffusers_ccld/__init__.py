"""CLOOB-Conditioned Latent Diffusion for diffusers. Importing it makes diffusers know its classes."""

from .bundled import default_model
from .configuration_cloob import CLOOBConfig, CLOOBTextConfig, CLOOBVisionConfig
from .interpolation import interpolate
from .modeling_cloob import CLOOBModel, CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from .modeling_gumbel_vq import GumbelVQModel
from .pipeline_ccld import CCLDPipeline
from .pipeline_ccld_img2img import CCLDImg2ImgPipeline
from .pipeline_ccld_inpaint import CCLDInpaintPipeline
from .processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from .registration import register
from .scheduling_ccld import CCLDScheduler
from .standalone import save_standalone
from .unet_ccld import CCLDUNet2DConditionModel

__version__ = "0.1.0"

__all__ = [
    "CCLDImg2ImgPipeline",
    "CCLDInpaintPipeline",
    "CCLDPipeline",
    "CCLDScheduler",
    "CCLDUNet2DConditionModel",
    "CLOOBConfig",
    "CLOOBImageProcessor",
    "CLOOBModel",
    "CLOOBTextConfig",
    "CLOOBTextModelWithProjection",
    "CLOOBTokenizer",
    "CLOOBVisionConfig",
    "CLOOBVisionModelWithProjection",
    "GumbelVQModel",
    "default_model",
    "interpolate",
    "save_standalone",
]

register()
