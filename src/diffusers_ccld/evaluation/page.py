"""The page of a comparison: one HTML file that loads nothing over the network."""

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, NamedTuple
from urllib.parse import quote

from PIL import Image

from .copying import COPY_RATIO
from .metrics import FEWEST_PROMPTS, LARGEST_P_VALUE

THUMBNAIL = 192  # pixels across

# The scores of the table: name in scores.json, label, meaning, and number format.
FIGURES = [
    ("prompt_similarity", "Prompt similarity", "cosine of picture and prompt in the scorer; higher is nearer", ".3f"),
    ("open_clip_similarity", "Prompt similarity, open_clip", "the same in an independent network", ".3f"),
    ("diversity", "Diversity", "1 − cosine of two pictures of one prompt; 0 if all are the same", ".3f"),
    ("pixel_diversity", "Diversity in pixels", "difference of two pictures of one prompt, in a range of 1", ".3f"),
    ("frechet_distance", "Fréchet distance", "to the held-out images, in the scorer; lower is nearer", ".3f"),
    ("kernel_distance", "Kernel distance", "to the held-out images, not biased by few pictures; 0 is equal", ".3f"),
    ("cmmd", "CMMD", "to the held-out images, with a Gaussian kernel; 0 is equal", ".3f"),
    ("frechet_inception_distance", "Fréchet inception distance", "to the held-out images; lower is nearer", ".1f"),
    ("frechet_feature_distance", "Fréchet distance of features", "the same in the feature network", ".1f"),
    (
        "pair_cosine",
        "Cosine of image and caption",
        "held-out images, in the model's own CLOOB; higher is nearer",
        ".3f",
    ),
    ("centroid_distance", "Distance of images and captions", "of their mean embeddings; lower is nearer", ".3f"),
    ("separability", "Images told from captions", "by a linear classifier of embeddings; 0.5 is not at all", ".3f"),
    ("text_to_image", "Captions whose image is the nearest", "of a hundred, or of all if fewer", ".3f"),
    ("image_to_text", "Images whose caption is the nearest", "of a hundred, or of all if fewer", ".3f"),
]


class Shown(NamedTuple):
    """A picture on the page.

    Attributes:
        image: The picture; the page contains a thumbnail of it.
        href: Address of the full picture relative to the page; `None` if it is not linked.
        title: Description of the picture.
    """

    image: Image.Image
    href: str | None
    title: str


class Pair(NamedTuple):
    """A generated picture and the training image nearest to it, with both ratios (see `copying.Nearest`)."""

    generated: Shown
    training: Shown
    in_embeddings: float
    in_pixels: float


class PromptRow(NamedTuple):
    """The pictures of one prompt.

    Attributes:
        text: The prompt.
        group: Its group, if any.
        models: For each model its name, its prompt similarity, and a picture for each seed.
    """

    text: str
    group: str | None
    models: list[tuple[str, float, list[Shown]]]


def comparison_page(
    title: str, summary: str, scores: dict[str, Any], pairs: dict[str, list[Pair]], prompts: Sequence[PromptRow]
) -> str:
    """Renders the page as HTML.

    Args:
        title: The title.
        summary: A line below the title.
        scores: The content of scores.json: the scores of each model under "models", "styles" and "notes".
        pairs: The closest pairs of each model.
        prompts: The pictures.
    """
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    models = scores["models"]
    return template.substitute(
        title=escape(title),
        summary=escape(summary),
        first=escape(next(iter(models))),
        fewest=FEWEST_PROMPTS,
        significance=LARGEST_P_VALUE,
        scores=_score_table(models),
        copying=_copying(models, pairs, scores["notes"]),
        styles=_style_table(scores["styles"]),
        columns=len(prompts[0].models[0][2]),
        pictures="\n".join(map(_prompt, prompts)),
    )


def link_to(path: Path, page_folder: Path) -> str:
    """The address of a file relative to the page's folder."""
    return quote(path.relative_to(page_folder).as_posix())


# Scores


def _score_table(models: dict[str, dict[str, Any]]) -> str:
    rows = [_row("th", [escape(name) for name in models], "<th></th>")]
    for key, label, meaning, form in FIGURES:
        values = [model.get(key) for model in models.values()]
        if None in values:
            continue
        head = f"<th scope='row'>{label}<small>{meaning}</small></th>"
        if not isinstance(values[0], dict):
            rows.append(_row("td", [format(value, form) for value in values], head))
            continue
        rows.append(_row("td", [_estimate(value, form) for value in values], head))
        for group in values[0].get("groups", ()):
            cells = [_estimate(value["groups"][group], form) for value in values]
            rows.append(_row("td", cells, f"<th scope='row'>{escape(group)}</th>", "group"))
    if any("copying" in model for model in models.values()):
        cells = [_verdict(model["copying"]) for model in models.values()]
        rows.append(_row("td", cells, "<th scope='row'>Memorized images<small>see below</small></th>"))
    return f"<table><thead>{rows[0]}</thead><tbody>{''.join(rows[1:])}</tbody></table>"


def _row(tag: str, cells: Sequence[str], head: str, kind: str = "") -> str:
    return f"<tr class='{kind}'>{head}{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _estimate(value: dict[str, Any], form: str) -> str:
    text = format(value["mean"], form) + _error(value, form)
    difference = value.get("difference")
    if difference is None:
        return text
    p_value = difference["p_value"]
    kind = "clear" if p_value is not None and p_value < LARGEST_P_VALUE else "unclear"
    return f"{text}<small class='{kind}'>{_signed(difference['mean'], form)}{_error(difference, form)}</small>"


def _signed(value: float, form: str) -> str:
    return format(value, f"+{form}").replace("-", "−")


def _error(value: dict[str, Any], form: str) -> str:
    return "" if value["standard_error"] is None else f" ± {value['standard_error']:{form}}"


# Copying


def _copying(models: dict[str, dict[str, Any]], pairs: dict[str, list[Pair]], notes: Sequence[str]) -> str:
    if not any("copying" in model for model in models.values()):
        return "".join(f"<p class='soft'>{escape(note)}</p>" for note in notes)
    cards = [_card(name, model["copying"], pairs[name]) for name, model in models.items()]
    return f"""<h2>Did it memorize its training images?</h2>
<p class="soft">The ratio is the distance to the nearest training image, divided by the mean distance to the next
nearest ones. The lines show the share of pictures below each ratio. A picture with a pixel ratio below a third is a
copy. A model is flagged if at least one picture in twenty is a copy, and clearly more than among held-out images.</p>
{"".join(f"<p class='soft'>{escape(note)}</p>" for note in notes)}
<div class="cards">{"".join(cards)}</div>"""


def _verdict(copying: dict[str, Any]) -> str:
    return {
        None: "<span class='badge none'>not tested: no held-out images</span>",
        "copies": "<span class='badge bad'>copies</span>",
        "unclear": "<span class='badge none'>unclear: too few prompts or held-out images</span>",
        "none": "<span class='badge good'>no sign of copying</span>",
    }[copying.get("verdict")]


def _card(name: str, copying: dict[str, Any], pairs: Sequence[Pair]) -> str:
    charts = "".join(
        f"<figure>{_chart(copying[key], key == 'in_pixels')}<figcaption>{label}</figcaption></figure>"
        for key, label in (("in_pixels", "by pixels"), ("in_embeddings", "by meaning, in the scorer"))
    )
    real = "<i class='real'></i>held out" if "verdict" in copying else ""
    return f"""<section class="card"><header><h3>{escape(name)}</h3>{_verdict(copying)}</header>
<p>{_share_of_copies(copying)}</p>
<small class="key"><i class="made"></i>generated{real}<i class="threshold"></i>a third</small>
<div class="charts">{charts}</div>
<small>The closest pairs: generated, and the training image nearest to it</small>
<div class="pairs">{"".join(map(_pair, pairs))}</div></section>"""


def _share_of_copies(copying: dict[str, Any]) -> str:
    share = f"{copying['copies']:.1%} of the pictures are copies"
    if "verdict" not in copying:
        return f"{share}."
    p_value = "p &lt; 0.0001" if copying["p_value"] < 1e-4 else f"p = {copying['p_value']:.2g}"
    return f"{share}; {copying['held_out_copies']:.1%} of the held-out images would count as copies ({p_value})."


def _chart(space: dict[str, Any], has_threshold: bool) -> str:
    """Cumulative distributions as an SVG of 160 × 100 units."""
    real = f"<path class='real' d='{_cumulative(space['held_out_ratios'])}'/>" if "held_out_ratios" in space else ""
    threshold = f"<path class='threshold' d='M{160 * COPY_RATIO:.1f} 0V100'/>" if has_threshold else ""
    return f"""<svg viewBox="-2 -4 168 122" role="img" aria-label="cumulative distribution of ratios">
<path class="axis" d="M0 0V100H160"/>{threshold}{real}<path class="made" d="{_cumulative(space["ratios"])}"/>
<text x="0" y="114">0</text><text x="80" y="114" text-anchor="middle">ratio</text>
<text x="160" y="114" text-anchor="end">1</text></svg>"""


def _cumulative(ratios: Sequence[float]) -> str:
    steps = [f"H{160 * ratio:.1f}V{100 - 100 * (i + 1) / len(ratios):.1f}" for i, ratio in enumerate(sorted(ratios))]
    return f"M0 100{''.join(steps)}H160"


def _pair(pair: Pair) -> str:
    return f"""<figure><div>{_picture(pair.generated)}{_picture(pair.training)}</div>
<figcaption>{escape(pair.generated.title)} · {escape(pair.training.title)}<br>
ratio {pair.in_pixels:.2f} by pixels, {pair.in_embeddings:.2f} by meaning</figcaption></figure>"""


# Styles


def _style_table(styles: dict[str, dict[str, Any]]) -> str:
    first = next(iter(styles))
    rows = [_row("th", [escape(name) for name in styles], "<th></th>")]
    for style in styles[first]["shares"]:
        cells = "".join(
            f"<td class='share' style='--share:{of['shares'][style]:.3f}'>{of['shares'][style]:.0%}</td>"
            for of in styles.values()
        )
        rows.append(f"<tr><th scope='row'>{escape(style)}</th>{cells}</tr>")
    shifts = [f"{of['distance_to_first']:.0%}" for of in styles.values()]
    rows.append(_row("td", shifts, f"<th scope='row'>Shift<small>from {escape(first)}</small></th>"))
    return f"""<h2>Styles</h2>
<p class="soft">Share of the pictures that are nearest to each style in the scorer. The shift is the share that would
have to change style to match {escape(first)}.</p>
<div class="scroll"><table><thead>{rows[0]}</thead><tbody>{"".join(rows[1:])}</tbody></table></div>"""


# Pictures


def _prompt(prompt: PromptRow) -> str:
    group = f"<span class='group-name'>{escape(prompt.group)}</span>" if prompt.group else ""
    rows = "".join(
        f"<div class='row'><span>{escape(name)}<small>{similarity:.3f}</small></span>"
        f"<div class='pictures'>{''.join(map(_picture, pictures))}</div></div>"
        for name, similarity, pictures in prompt.models
    )
    return f"<section class='prompt'><header><h3>{escape(prompt.text)}</h3>{group}</header>{rows}</section>"


def _picture(shown: Shown) -> str:
    source = f"<img src='{thumbnail(shown.image)}' alt='{escape(shown.title)}' loading='lazy'>"
    if shown.href is None:
        return source
    return f"<a class='picture' href='{escape(shown.href)}' title='{escape(shown.title)}'>{source}</a>"


def thumbnail(image: Image.Image) -> str:
    """A small JPEG as a data URI."""
    image = image.convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
