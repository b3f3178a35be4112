"""The report of a text encoder's fit, and of the gap between texts and images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.embedding_gap import EmbeddingGap
from ..sharing.base_models import shareable
from ..utils.files import write_text
from .text_fit import TextFit

REPORT_NAME = "text_fit.json"
# The fields of the report.
FIELDS = {
    "before": "gap of held-out pairs with the previous layer",
    "after": "gap of held-out pairs with the fitted layer",
    "pairs": "number of pairs that the layer was fitted to",
    "ridge": "the chosen penalty",
    "spherical": "true if reweighting raised the mean cosine, and was kept",
    "cosine of least squares": "mean cosine of held-out pairs without reweighting",
    "cosine on the sphere": "mean cosine of held-out pairs with reweighting",
    "dataset": "the dataset: its name on the Hub, or the last part of its path",
}
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


def save_report(fit: TextFit, source: str, folder: Path) -> None:
    """Writes the report beside the text encoder."""
    write_text(folder / REPORT_NAME, json.dumps(report_of(fit, source), indent=2) + "\n")


def gap_table(pairs: str, gaps: Mapping[str, EmbeddingGap]) -> str:
    """One or several gaps as the columns of a table in Markdown.

    Args:
        pairs: Title of the rows: the pairs that were measured.
        gaps: The gaps, by the title of their column.
    """
    lines = [f"| {pairs} | {' | '.join(gaps)} |", "|---" * (1 + len(gaps)) + "|"]
    for name, title in NAMES.items():
        of = f", of {next(iter(gaps.values())).candidates}" if name.endswith(("to_image", "to_text")) else ""
        values = " | ".join(f"{getattr(gap, name):.3f}" for gap in gaps.values())
        lines.append(f"| {title}{of} | {values} |")
    return "\n".join(lines)


def fit_table(fit: TextFit) -> str:
    """The gap of held-out pairs before and after the fit, as a table in Markdown."""
    return gap_table("held-out pairs", {"before": fit.before, "after": fit.after})
