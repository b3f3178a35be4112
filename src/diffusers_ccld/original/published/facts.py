"""Authors, training data and sources of the published models.

From the README files of JD-P/cloob-latent-diffusion and crowsonkb/cloob-training, and from the model card of
huggan/distill-ccld-wa. Facts that none of them states are `UNKNOWN`.
"""

from typing import NamedTuple

UNKNOWN = "unknown"

CODE = "https://github.com/JD-P/cloob-latent-diffusion"
CROWSON_AND_PRESSMAN = "Katherine Crowson and John David Pressman"
HUGGAN = "in the HugGAN event of Hugging Face, April 2022"
UNSTATED_LICENSE = f"{UNKNOWN}: none is stated for the weights; the original's code is MIT"
WEB_BIASES = """CLOOB learnt from pictures and texts of the internet. The model has the biases of these, and of the
pictures that it was trained on."""

CLOOB_OF = f"ViT-B/16 of {CROWSON_AND_PRESSMAN}, trained on LAION-400M for {{}} epochs (zero-shot ImageNet top-1 {{}})"
CLOOB_16 = CLOOB_OF.format(16, "61.2 %")
CLOOB_32 = CLOOB_OF.format(32, "62.8 %")


class Publication(NamedTuple):
    """The facts in a published model's card.

    Attributes:
        title: Name of the model.
        facts: Makers, data, hardware, time, licence, by name.
        limitations: Known limitations.
        links: Addresses by title.
        license: The Hub's identifier of its licence; `None` if no licence is stated.
        datasets: Hub names of the datasets that its U-Net was trained on.
        base_model: Hub name of the model that it was made from.
    """

    title: str
    facts: dict[str, str]
    limitations: str
    links: dict[str, str]
    license: str | None = None
    datasets: tuple[str, ...] = ()
    base_model: str | None = None


PUBLICATIONS = {
    "wikiart": Publication(
        "CCLD WikiArt",
        {
            "made by": f"Jonathan Whitaker, {HUGGAN}",
            "data": "WikiArt (huggan/wikiart): the pictures alone, without captions or labels",
            "began from": f"another trained CCLD ({UNKNOWN} which)",
            "hardware": "2 × A6000, provided by Paperspace",
            "time": "about 12 hours",
            "CLOOB": CLOOB_16,
            "autoencoder": f"KL, 8 pixels to a latent, published with the U-Net; its training is {UNKNOWN}",
            "licence": UNSTATED_LICENSE,
        },
        f"""It paints paintings. {WEB_BIASES} The original's authors advise at most two thirds of a parameter for each
number in the latents of the pictures. For WikiArt they give 216 million. This model has five times as many parameters
and may have memorised pictures.""",
        {
            "its repository": "https://huggingface.co/huggan/ccld_wa",
            "how it was made": "https://johnowhitaker.dev/dsc/2022-04-12-fine-tuning-a-cloob-conditioned-latent-"
            "diffusion-model-on-wikiart.html",
        },
        datasets=("huggan/wikiart",),
    ),
    "wikiart-mini": Publication(
        "CCLD WikiArt mini",
        {
            "made by": f"Théo Gigant, {HUGGAN}, by knowledge distillation",
            "teacher": "huggan/ccld_wa, by Jonathan Whitaker, of 1.17 billion parameters",
            "data": "WikiArt (huggan/wikiart): the pictures alone, without captions, style, genre or artist",
            "hardware": "1 × A6000, provided by Paperspace",
            "time": "17 hours, after the teacher's 12 on two",
            "CLOOB": CLOOB_16,
            "autoencoder": "the teacher's",
            "licence": "MIT, by the card of the U-Net's repository",
        },
        f"It paints paintings, less well than its teacher and faster. {WEB_BIASES}",
        {
            "its repository": "https://huggingface.co/huggan/distill-ccld-wa",
            "its teacher's": "https://huggingface.co/huggan/ccld_wa",
            "its code": "https://github.com/giganttheo/distill-ccld",
            "its training": "https://wandb.ai/gigant/distill-ccld/reports/Distill-Diffusion-105M--VmlldzoxODQwMTUz",
        },
        license="mit",
        datasets=("huggan/wikiart",),
        base_model="huggan/ccld_wa",
    ),
    "yfcc": Publication(
        "CCLD YFCC",
        {
            "made by": f"{CROWSON_AND_PRESSMAN}; published in April 2022",
            "data": "YFCC100M (Yahoo Flickr Creative Commons): photographs, without captions",
            "hardware": "not stated for this run; the authors estimate one pod of 8 × A100 for its size",
            "time": "about five and a half days, 250,000 steps",
            "CLOOB": CLOOB_16,
            "autoencoder": "kl-f8 of CompVis' latent-diffusion",
            "licence": UNSTATED_LICENSE,
        },
        f"It was trained on photographs and is weaker at paintings. {WEB_BIASES}",
        {"its code": CODE},
    ),
    "danbooru": Publication(
        "CCLD Danbooru",
        {
            "made by": f"{CROWSON_AND_PRESSMAN}; published in April 2022",
            "data": f"pictures of Danbooru; {UNKNOWN} which of them, and whether explicit ones were left out",
            "hardware": UNKNOWN,
            "time": UNKNOWN,
            "CLOOB": CLOOB_32,
            "autoencoder": f"KL, 8 pixels to a latent, made for it; its training is {UNKNOWN}",
            "licence": UNSTATED_LICENSE,
        },
        f"""It draws subjects of Danbooru in the style of anime. Some of its pictures may not be suitable for everyone.
{WEB_BIASES}""",
        {"its code": CODE},
    ),
}

# Papers that every model of this kind is based on.
PAPERS = {
    "latent diffusion": "Rombach et al. 2022, https://arxiv.org/abs/2112.10752",
    "CLOOB": "Fürst et al. 2022, https://arxiv.org/abs/2110.11316",
    "prediction of v": "Salimans and Ho 2022, https://arxiv.org/abs/2202.00512",
    "guidance": "Ho and Salimans 2022, https://arxiv.org/abs/2207.12598",
    "sampling (PLMS)": "Liu et al. 2022, https://arxiv.org/abs/2202.09778",
}
