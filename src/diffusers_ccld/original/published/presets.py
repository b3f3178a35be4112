"""The published models: their files, where to download them, and settings that the files do not contain."""

from typing import NamedTuple

THE_EYE = "https://the-eye.eu/public/AI/models"
CONFIGS_OF_LDM = "https://raw.githubusercontent.com/CompVis/latent-diffusion/main/configs/autoencoder"


class PublishedFile(NamedTuple):
    """A file that can be downloaded.

    Attributes:
        name: Its published name, also in a folder of downloaded files.
        repository: Its repository on the Hugging Face Hub, or `None`.
        url: Its address, if it is not on the Hub.
        sha256: Its SHA-256; `None` if it was not published.
        member: Name of the file to unpack from it, if it is a zip archive.
    """

    name: str
    repository: str | None = None
    url: str | None = None
    sha256: str | None = None
    member: str | None = None

    @property
    def address(self) -> str:
        """The address at which a person finds the file."""
        return self.url or f"https://huggingface.co/{self.repository}"


class Preset(NamedTuple):
    """A published model.

    Attributes:
        block_out_channels: Widths of its U-Net.
        cloob_config: Published name of the CLOOB configuration it was trained with.
        autoencoder_scale: Factor that multiplies its latents before decoding.
        files: Its files, by the converter's option.
    """

    block_out_channels: tuple[int, ...]
    cloob_config: str
    autoencoder_scale: float
    files: dict[str, PublishedFile]


def _cloob(name, sha256):
    return PublishedFile(f"{name}-{sha256}.pkl", url=f"{THE_EYE}/cloob/{name}-{sha256}.pkl", sha256=sha256)


def _the_eye(name):
    return PublishedFile(name, url=f"{THE_EYE}/{name}")


CLOOB_16_EPOCHS, CLOOB_32_EPOCHS = "cloob_laion_400m_vit_b_16_16_epochs", "cloob_laion_400m_vit_b_16_32_epochs"
CLOOBS = {
    CLOOB_16_EPOCHS: _cloob(CLOOB_16_EPOCHS, "405a3c31572e0a38f8632fa0db704d0e4521ad663555479f86babd3d178b1892"),
    CLOOB_32_EPOCHS: _cloob(CLOOB_32_EPOCHS, "646f61628eb4bc03a01ce5c23b727a348105f0405b6037a329da062739a06441"),
}
WIKIART_AUTOENCODER = {
    "autoencoder": PublishedFile("ae_model.ckpt", "huggan/ccld_wa"),
    "autoencoder_config": PublishedFile("ae_model.yaml", "huggan/ccld_wa"),
}

PRESETS = {
    "wikiart": Preset(
        (768, 768, 1536, 1536),
        CLOOB_16_EPOCHS,
        2.55,
        {
            "unet": PublishedFile("df_model.ckpt", "huggan/ccld_wa"),
            **WIKIART_AUTOENCODER,
            "cloob": CLOOBS[CLOOB_16_EPOCHS],
        },
    ),
    "wikiart-mini": Preset(
        (192, 192, 384, 384),
        CLOOB_16_EPOCHS,
        2.55,
        {
            "unet": PublishedFile("model_student.ckpt", "huggan/distill-ccld-wa"),
            **WIKIART_AUTOENCODER,
            "cloob": CLOOBS[CLOOB_16_EPOCHS],
        },
    ),
    "yfcc": Preset(
        (768, 768, 1536, 1536),
        CLOOB_16_EPOCHS,
        2.55,
        {
            "unet": _the_eye("yfcc-latent-diffusion-f8-e2-s250k.ckpt"),
            "autoencoder": PublishedFile(
                "kl-f8.zip", url="https://ommer-lab.com/files/latent-diffusion/kl-f8.zip", member="model.ckpt"
            ),
            "autoencoder_config": PublishedFile(
                "autoencoder_kl_32x32x4.yaml", url=f"{CONFIGS_OF_LDM}/autoencoder_kl_32x32x4.yaml"
            ),
            "cloob": CLOOBS[CLOOB_16_EPOCHS],
        },
    ),
    "danbooru": Preset(
        (512, 512, 1024, 1024),
        CLOOB_32_EPOCHS,
        9.3154,
        {
            "unet": _the_eye("danbooru-latent-diffusion-e88.ckpt"),
            "autoencoder": _the_eye("danbooru-kl-f8.ckpt"),
            "autoencoder_config": _the_eye("danbooru-kl-f8.yaml"),
            "cloob": CLOOBS[CLOOB_32_EPOCHS],
        },
    ),
}
