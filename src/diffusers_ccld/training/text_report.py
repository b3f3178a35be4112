"""The report of a text encoder's fit."""

from typing import Any

from ..sharing.model_cards import shareable
from .text_fit import TextFit

NAMES = {
    "pair_cosine": "cosine of pairs",
    "centroid_distance": "distance of the centroids",
    "separability": "separability of texts and images",
    "text_to_image": "nearest image is its own",
    "image_to_text": "nearest text is its own",
}


def report_of(fit: TextFit, source: str) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "before": fit.before._asdict(),
        "after": fit.after._asdict(),
        "pairs": fit.num_pairs,
        "ridge": fit.ridge,
        "spherical": fit.is_spherical,
        "cosine of least squares": fit.least_squares_cosine,
        "cosine on the sphere": fit.spherical_cosine,
        "dataset": shareable(source),
    }


def gap_table(fit: TextFit) -> str:
    """The gap of held-out pairs before and after the fit, as a table in Markdown."""
    lines = ["| held-out pairs | before | after |", "|---|---|---|"]
    for name, title in NAMES.items():
        candidates = f", of {fit.after.candidates}" if name.endswith(("to_image", "to_text")) else ""
        before, after = (getattr(gap, name) for gap in (fit.before, fit.after))
        lines.append(f"| {title}{candidates} | {before:.3f} | {after:.3f} |")
    return "\n".join(lines)
