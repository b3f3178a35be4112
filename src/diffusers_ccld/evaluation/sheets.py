"""Sheets of pictures in labelled rows and columns."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = 256  # largest width and height of a picture on a sheet, in pixels
MARGIN = 12


def sheet(title: str, rows: dict[str, list[Image.Image]], seeds: Sequence[int]) -> Image.Image:
    """Draws pictures in labelled rows and columns under a title.

    Args:
        title: The title.
        rows: For each label a list of pictures, one for each seed.
        seeds: Seeds, the labels of the columns.
    """
    font, title_font = ImageFont.load_default(14), ImageFont.load_default(18)
    cell = min(CELL, max(max(image.size) for row in rows.values() for image in row))
    columns = max(len(seeds), -(-320 // (cell + MARGIN)))  # room for a title above one small picture
    width = MARGIN + columns * (cell + MARGIN)
    title_lines = _wrapped(title, title_font, width - 2 * MARGIN)
    labels = {name: _wrapped(name, font, width - 2 * MARGIN)[0] for name in rows}
    top = MARGIN + 24 * len(title_lines)
    canvas = Image.new("RGB", (width, top + 22 + len(rows) * (cell + 26) + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(title_lines):
        draw.text((MARGIN, MARGIN + 24 * i), line, "black", title_font)
    lefts = [MARGIN + column * (cell + MARGIN) for column in range(len(seeds))]
    for left, seed in zip(lefts, seeds):
        draw.text((left, top), f"seed {seed}", "#666666", font)
    for i, (name, images) in enumerate(rows.items()):
        row_top = top + 22 + i * (cell + 26)
        draw.text((MARGIN, row_top), labels[name], "black", font)
        for left, image in zip(lefts, images):
            image = image.copy()
            image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            canvas.paste(image, (left, row_top + 20))
    return canvas


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_shortened(line, font, width) for line in lines]


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"
