"""CLOOB-Conditioned Latent Diffusion for diffusers. Importing it registers its classes with diffusers.

Where torch is not installed, only what runs ONNX files can be imported: `diffusers_ccld.onnx.pipeline`.
"""

from importlib.util import find_spec

from .utils.requirements import install_command
from .version import __version__

if find_spec("torch") is not None:
    from .data.embedding_files import load_embedding
    from .inference.interpolation import interpolate
    from .inference.loading import default_model
    from .models.configuration_cloob import CLOOBConfig, CLOOBTextConfig, CLOOBVisionConfig
    from .models.gumbel_vq import GumbelVQModel
    from .models.linear_decoder import LinearDecoder
    from .models.modeling_cloob import CLOOBModel, CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
    from .models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
    from .models.unet_ccld import CCLDUNet2DConditionModel
    from .pipelines.modular import CCLDBlocks
    from .pipelines.pipeline_ccld import CCLDPipeline
    from .pipelines.pipeline_ccld_guided import CCLDGuidedPipeline
    from .pipelines.pipeline_ccld_img2img import CCLDImg2ImgPipeline
    from .pipelines.pipeline_ccld_inpaint import CCLDInpaintPipeline
    from .registration import register
    from .schedulers.scheduling_ccld import CCLDScheduler
    from .sharing.standalone import save_standalone

    register()

__all__ = [
    "CCLDBlocks",
    "CCLDGuidedPipeline",
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
    "LinearDecoder",
    "__version__",
    "default_model",
    "interpolate",
    "load_embedding",
    "save_standalone",
]


def __getattr__(name: str) -> object:
    """Names what is missing where torch is not installed."""
    if name in __all__:
        command = install_command()
        raise ImportError(f"diffusers_ccld.{name} needs torch, which is not installed. To install it: {command}")
    raise AttributeError(f"diffusers_ccld has no {name}.")
