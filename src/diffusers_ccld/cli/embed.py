"""`ccld embed`."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..utils.requirements import require_torch
from .arguments import add_option, open_image, require_model
from .outputs import require_new, require_writable

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..pipelines.pipeline_ccld import CCLDPipeline

HELP = "make one embedding of pictures, as a condition"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, add_shared = parser.add_argument, partial(add_option, parser)
    add("pictures", nargs="+", type=Path, metavar="PICTURE|DIR", help="pictures, or folders of pictures")
    add_shared("--model")
    add(
        "--learn",
        type=int,
        default=0,
        metavar="STEPS",
        help="learn the embedding for so many steps, from the mean of the pictures' on (default: %(default)s)",
    )
    add("--learning-rate", type=float, default=0.02, metavar="RATE", help="its learning rate (default: %(default)g)")
    add_shared("--batch-size")
    add_shared("--seed", help="seed of the learning (default: %(default)s)")
    add_shared("--device")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    add_shared("--overwrite", help="replace an existing file")


class EmbedRequest(NamedTuple):
    """The arguments of the command, and the pictures by their paths."""

    args: argparse.Namespace
    images: "dict[Path, Image.Image]"


def check(args: argparse.Namespace) -> EmbedRequest:
    if args.learn < 0 or args.batch_size < 1 or not args.learning_rate > 0:
        raise ValueError("--learn must be at least 0, --batch-size at least 1, and --learning-rate above 0.")
    if args.output.is_dir():
        raise ValueError(f"--output {args.output} is a folder; name a file to write.")
    require_writable(args.output.parent)
    require_new(args.output, "--output", args.overwrite)
    require_model(args.model)
    require_torch("ccld embed")
    return EmbedRequest(args, {path: open_image(path, "") for path in picture_files(args.pictures)})


def run(request: EmbedRequest) -> None:
    """Write one embedding of pictures: the mean direction of their CLOOB embeddings, or with --learn the one by which
    the network denoises them best (textual inversion). It is a condition like a prompt, for models with this CLOOB."""
    from ..data.embedding_files import EmbeddingFile, encoder_fingerprint, mean_direction
    from ..inference.devices import usable_device
    from ..inference.loading import find_model
    from ..pipelines.pipeline_ccld import CCLDPipeline

    args, images = request.args, list(request.images.values())
    pipe = CCLDPipeline.from_pretrained(find_model("default" if args.model is None else args.model))
    pipe.to(usable_device(args.device))
    embeds = pipe.encode_image(images).detach().cpu()
    embedding = mean_direction(embeds)
    cosine = (embeds @ embedding).mean()
    print(f"{len(images)} pictures; the mean cosine of their embeddings and the result is {cosine:.3f}")
    if args.learn:
        embedding = learn(pipe, images, embedding, args)
    origin = {
        "method": "textual inversion" if args.learn else "mean",
        "pictures": [path.name for path in request.images],
        "model": args.model or "default",
    }
    if args.learn:
        names = ("learn", "learning_rate", "batch_size", "seed")
        origin |= {name: getattr(args, name) for name in names}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    file = EmbeddingFile(embedding=embedding, fingerprint=encoder_fingerprint(pipe.image_encoder), origin=origin)
    file.save(args.output)
    print(args.output)


def picture_files(paths: list[Path]) -> list[Path]:
    """The given files, and all pictures of the given folders.

    Raises:
        ValueError: If a folder has no pictures.
    """
    found = []
    for path in paths:
        files = [path]
        if path.is_dir():
            from PIL import Image

            Image.init()
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in Image.EXTENSION)
        if not files:
            raise ValueError(f"{path}: the folder has no pictures.")
        found += files
    return found


def learn(
    pipe: "CCLDPipeline", images: "list[Image.Image]", start: "torch.Tensor", args: argparse.Namespace
) -> "torch.Tensor":
    """Learns the embedding of pictures, and prints the denoising loss before and after."""
    import torch

    from ..data.decoding import resize_and_crop
    from ..pipelines.pipeline_ccld_img2img import CCLDImg2ImgPipeline
    from ..training.embedding_inversion import denoising_loss, learn_embedding

    pipe.unet.requires_grad_(False)
    squares = [resize_and_crop(image, min(pipe.default_size)) for image in images]
    encoder = CCLDImg2ImgPipeline.from_pipe(pipe)
    with torch.no_grad():
        latents = torch.cat([encoder.encode_latents(encoder.prepare_image(square)) for square in squares])
    learned = learn_embedding(pipe.unet, latents, start, args.learn, args.learning_rate, args.batch_size, args.seed)
    repeated = latents.repeat(-(-32 // len(latents)), 1, 1, 1)
    with torch.no_grad():
        before, after = (
            denoising_loss(pipe.unet, repeated, embedding, torch.Generator().manual_seed(args.seed + 1)).item()
            for embedding in (start, learned)
        )
    print(f"denoising loss {before:.5f} before, {after:.5f} after")
    return learned.cpu()
