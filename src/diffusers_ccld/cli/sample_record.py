"""Lines that say how `ccld sample` was understood, and the record in its pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..pipelines.usual import INVERSION_STEPS, STRENGTHS
from ..utils.words import unknown_words_sentence, vocabulary_of
from ..version import __version__
from .messages import in_columns
from .runtimes import model_folder, name_of_model
from .sample_request import SampleRequest, stem_of

if TYPE_CHECKING:
    from ..inference.provenance import Provenance
    from ..onnx.pipeline import OnnxPipeline
    from ..pipelines.pipeline_ccld import CCLDPipeline

ALIKE = 0.99  # of a side at least, where a cut is only rounding


def negative_weight(negative_prompt: str | None, total: float) -> float | None:
    """Weight of a negative prompt, as in the pipelines, beside prompts of a total weight; `None` without one.

    Raises:
        ValueError: If the total is at most 1, which leaves no guidance to turn around.
    """
    if negative_prompt is None:
        return None
    if total <= 1:
        raise ValueError(f"--negative-prompt needs prompts of a weight over 1 in sum, and theirs is {total:g}.")
    return 1 - total


def size_of(request: SampleRequest, pipe: "CCLDPipeline | OnnxPipeline") -> tuple[int, int]:
    """Width and height in pixels: as given, or like the picture to begin with, or the model's own.

    Raises:
        ValueError: If the networks do not take that size.
    """
    height, width = pipe.default_size
    if request.picture is not None:
        from ..inference.tasks import size_like

        width, height = size_like(request.picture, pipe)
    sides = {"--width": request.args.width or width, "--height": request.args.height or height}
    multiple = pipe.size_multiple
    for option, side in sides.items():
        if side % multiple:
            lower = side - side % multiple
            nearest = f"{lower} and {lower + multiple}" if lower else multiple
            raise ValueError(
                f"{option} {side}: sizes are multiples of {multiple} pixels with this model, such as {nearest}."
            )
    return sides["--width"], sides["--height"]


def record_of(
    request: SampleRequest, pipe: "CCLDPipeline | OnnxPipeline", named: list[tuple], size: tuple[int, int], dtype: str
) -> "Provenance":
    """The part of the record that all pictures of a command share."""
    args, config = request.args, pipe.scheduler.config
    algorithm = config.get("algorithm_type", type(pipe.scheduler).__name__)
    if args.eta and hasattr(pipe.scheduler, "accepts_eta") and not pipe.scheduler.accepts_eta(args.eta):
        raise ValueError(f"--eta is an option of --algorithm ddim, not of {algorithm}.")
    record = {
        "task": request.task,
        "conditions": [[str(source), weight] for source, weight in named],
        "images": [str(source) for source, _ in named if source in request.images],
        "negative_prompt": args.negative_prompt,
        "variation": pipe.variation_or_default(args.variation),
        "model": "default" if args.model is None else args.model,
        "steps": pipe.steps_or_default(args.steps, INVERSION_STEPS if request.task == "edit" else None),
        "guidance_interval": args.guidance_interval,
        "algorithm": algorithm,
        "timestep_schedule": config.get("timestep_schedule"),
        "eta": args.eta,
        "dtype": dtype,
        "compiled": args.compile,
        "runtime": request.runtime,
        "version": __version__,
        "size": list(size),
    }
    if size != pipe.default_size[::-1]:
        record["trained_size"] = list(pipe.default_size[::-1])
    if request.embeddings:
        record["embeddings"] = [str(path) for path in request.embeddings]
    if args.parallel_guidance != 1:
        record["parallel_guidance"] = args.parallel_guidance
    if args.cloob_guidance:
        record |= {"cloob_guidance": args.cloob_guidance, "cloob_repeats": args.cloob_repeats}
    if request.picture is not None:
        record |= {"picture": str(args.init or args.edit), "strength": strength_of(request)}
    if request.task == "edit" and len(request.seeds) > 1 and not (record["variation"] or args.eta):
        raise ValueError(f"-n {len(request.seeds)}: --edit takes no noise; give --variation, or several are the same.")
    if request.mask is not None:
        record["mask"] = str(args.mask)
    return record


def strength_of(request: SampleRequest) -> float:
    """The strength of a change, as given or the task's own."""
    return request.args.strength or STRENGTHS[request.task]


def description(request: SampleRequest, record: "Provenance", negative: float | None) -> list[str]:
    """Lines that say how the command was understood.

    Args:
        request: The request.
        record: Its record.
        negative: Weight of the negative prompt, if there is one.
    """
    args = request.args
    kinds = dict.fromkeys(request.embeddings, "embedding") | dict.fromkeys(request.images, "image")
    kinds = [kinds.get(source, "prompt") for source, _ in request.given]
    lines = [(kind, f"{text}, weight {weight:g}") for kind, (text, weight) in zip(kinds, record["conditions"])]
    if negative is not None:
        lines.append(("negative", f"{args.negative_prompt}, weight {negative:g}"))
    if not lines:
        lines.append(("prompt", "none: the pictures follow the training images"))
    if "picture" in record:
        verb = {"image_to_image": "init", "inpaint": "inpaint", "edit": "edit"}[request.task]
        where = f" where {record['mask']} is white" if "mask" in record else ""
        lines.append((verb, f"{record['picture']}{where}, strength {record['strength']:g}"))
        lines += [("", sentence) for sentence in _fits(request, record["size"])]
    interval = record["guidance_interval"]
    between = f", guidance from {interval[0]:g} to {interval[1]:g}" if interval else ""
    if "parallel_guidance" in record:
        between += f", of its parallel part {record['parallel_guidance']:g}"
    varied = f", variation {record['variation']:g}" if record["variation"] else ""
    model = name_of_model(args.model)
    width, height = record["size"]
    lines += [
        ("model", f"{model}, {record['steps']} steps of {record['algorithm']}{between}{varied}, {record['dtype']}"),
        ("size", f"{width} × {height} pixels"),
        ("seeds" if len(request.seeds) > 1 else "seed", _range(request.seeds)),
        ("files", _files(request)),
    ]
    texts = [*(text for text, _ in request.given if isinstance(text, str)), args.negative_prompt or ""]
    if unknown := unknown_words_sentence(texts, vocabulary_of(model_folder(args.model)), model):
        lines.append(("unknown", unknown))
        lines.append(("", f"`ccld inspect {args.model or 'default'}` lists the words that it knows."))
    return in_columns(lines)


def _fits(request: SampleRequest, size: Sequence[int]) -> list[str]:
    """Sentences on the cut of a picture to the result's shape, and on the change of a mask to the picture's."""
    (width, height), sentences = request.picture.size, []
    # As in `inference.tasks.fitted`.
    kept = min(width, round(height * size[0] / size[1])), min(height, round(width * size[1] / size[0]))
    if kept[0] < ALIKE * width or kept[1] < ALIKE * height:
        sentences.append(f"the picture's {width} × {height} pixels are cut to {kept[0]} × {kept[1]} in the middle")
    if request.mask is not None:
        mask_width, mask_height = request.mask.size
        if not ALIKE <= mask_width * height / (mask_height * width) <= 1 / ALIKE:
            sentences.append(f"the mask's {mask_width} × {mask_height} pixels are stretched to the picture's shape")
    return sentences


def _range(values: Sequence[object]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _files(request: SampleRequest) -> str:
    if len(set(request.paths)) == 1:
        return str(request.paths[0])
    if request.args.best:
        return f"the best {request.args.best} of {len(request.paths)}, in {request.paths[0].parent}"
    stem = stem_of(request.args)
    last, *grid = ["…" + path.name.removeprefix(stem) for path in (request.paths[-1], request.grid) if path]
    return ", ".join([f"{request.paths[0]} to {last}", *grid])
