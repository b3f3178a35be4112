"""The media. Each turns a scene into marks. Marks are coarse: details finer than a few pixels are easily lost."""

from collections.abc import Callable
from itertools import cycle

import cv2
import numpy as np

from .palettes import BLACK, WHITE, mix
from .scene import CANVAS, Scene

Image = np.ndarray  # (CANVAS, CANVAS, 3), 0 to 1
ROWS, COLUMNS = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
FROM_RIM = np.minimum(np.minimum(ROWS, CANVAS - ROWS), np.minimum(COLUMNS, CANVAS - COLUMNS))
"""Distance of each pixel from the nearest edge of the sheet, in pixels."""


def noise(rng: np.random.Generator, hills: int) -> np.ndarray:
    """Smooth noise, (CANVAS, CANVAS), 0 to 1, with a number of hills in each direction."""
    coarse = rng.random((hills, hills), np.float32)
    return np.clip(cv2.resize(coarse, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC), 0, 1)


def grain(rng: np.random.Generator, angle: float, length: int, width: int) -> np.ndarray:
    """Noise stretched along `angle` into streaks of a length and width in pixels: (CANVAS, CANVAS), 0 to 1."""
    side = 2 * CANVAS  # large enough to rotate
    coarse = rng.random((side // width, side // length), np.float32)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = turn.T / [[length], [width]]
    centre = np.array(coarse.shape[::-1]) / 2
    matrix = np.column_stack([inverse, centre - inverse @ [CANVAS / 2, CANVAS / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(coarse, matrix, (CANVAS, CANVAS), flags=flags, borderMode=cv2.BORDER_REFLECT)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; wide blurs are computed on a smaller image, for speed."""
    if sigma < 6:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    small = cv2.resize(image, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / 8), (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)


def luminance(image: np.ndarray) -> np.ndarray:
    """Lightness (h, w) of an image (h, w, 3)."""
    return cv2.cvtColor(np.ascontiguousarray(image, np.float32), cv2.COLOR_RGB2GRAY)


def wobbled(images: list[np.ndarray], rng: np.random.Generator, hills: int, reach: float) -> list[np.ndarray]:
    """Displaces images by the same smooth noise of up to `reach` pixels, as if drawn by an unsteady hand."""
    x, y = (base + reach * (2 * noise(rng, hills) - 1) for base in (COLUMNS, ROWS))
    return [cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for image in images]


def drawn(scene: Scene) -> Image:
    """The colours of the scene with its outlines showing through: (CANVAS, CANVAS, 3)."""
    return scene.colour * (1 - 0.38 * blurred(scene.outline, 1.0)[..., None])


def tones(scene: Scene) -> np.ndarray:
    """Darkness of each pixel relative to the picture, (CANVAS, CANVAS), so that a night has its whites too.

    It is the mean of two values: the share of the picture that is lighter than the pixel, and the pixel's position
    between the lightest and the darkest one.
    """
    lightness = blurred(luminance(scene.colour), 1.5)
    levels = np.percentile(lightness[::4, ::4], np.linspace(2, 98, 9)).astype(np.float32)
    share = np.interp(lightness, levels, np.linspace(1, 0, 9)).astype(np.float32)
    return 0.5 * share + 0.5 * np.clip((levels[-1] - lightness) / max(levels[-1] - levels[0], np.float32(0.12)), 0, 1)


def vivid(image: np.ndarray, amount: float) -> np.ndarray:
    """Increases saturation by an amount, and keeps lightness."""
    grey = luminance(image)[..., None]
    return np.clip(image + amount * (image - grey), 0, 1)


def edginess(image: np.ndarray) -> np.ndarray:
    """Amount of detail that a broad brush would miss: (CANVAS, CANVAS), 0 or more."""
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    edges = blurred(np.abs(half - blurred(half, 2)).sum(-1), 1)
    return cv2.resize(edges, (CANVAS, CANVAS), interpolation=cv2.INTER_LINEAR)


def scatter(rng: np.random.Generator, spacing: float) -> np.ndarray:
    """Places (n, 2), x and y in pixels, that cover the canvas about evenly, in random order."""
    count = int(CANVAS / spacing) + 2
    places = (np.mgrid[:count, :count].reshape(2, -1).T + rng.uniform(-0.9, 0.4, (count * count, 2))) * spacing
    return rng.permutation(places).astype(np.float32)


def pick(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values (n, …) of an image at `places` (n, 2), x and y."""
    x, y = np.clip(np.rint(places), 0, CANVAS - 1).astype(np.intp).T
    return image[y, x]


def strokes(
    source: np.ndarray, places: np.ndarray, angles: np.ndarray, length: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Brush strokes through `places` that stop where the colour below changes by more than `tolerance`.

    Returns:
        The two ends of each stroke, (n, 2) each.
    """
    along = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
    here, ends = pick(source, places), []
    channels = tuple(range(1, here.ndim))
    for direction in (-1, 1):
        reach, going = np.full(len(places), 0.1, np.float32), np.ones(len(places), bool)
        for step in (0.2, 0.35, 0.5):
            there = pick(source, places + along * (direction * step * length))
            going &= np.abs(there - here).sum(channels) < tolerance
            reach[going] = step
        ends.append(places + along * (direction * length * reach)[:, None])
    return ends[0], ends[1]


def draw(surface: np.ndarray, starts: np.ndarray, stops: np.ndarray, colours: np.ndarray, widths: list[int]) -> None:
    """Draws lines over one another; `colours` are (n, channels), and `widths` repeat as needed."""
    starts, stops = np.rint(starts).astype(int).tolist(), np.rint(stops).astype(int).tolist()
    for start, stop, colour, width in zip(starts, stops, colours.tolist(), cycle(widths)):
        cv2.line(surface, start, stop, colour, width)


def oil(scene: Scene, rng: np.random.Generator) -> Image:
    """Opaque strokes that follow the form, large ones first; their ridges catch the light."""
    source = drawn(scene)
    detail = edginess(source)
    surface = np.zeros((CANVAS, CANVAS, 4), np.float32)  # red, green, blue, and thickness of the paint
    swirl = rng.uniform(0.3, 0.8) * (noise(rng, 4) - 0.5)
    # Each brush: its width, the spacing and length of its strokes, the tolerance at which they stop, and the detail
    # that a place needs for this brush.
    brushes = ((22, 16, 60, 9.0, 0), (13, 10, 40, 0.3, 0), (8, 8, 30, 0.25, 0.12), (5, 6, 16, 0.2, 0.3))
    for width, spacing, length, tolerance, needed in brushes:
        places = scatter(rng, spacing)
        places = places[pick(detail, places) >= needed]
        angles = pick(scene.flow + swirl, places) + rng.normal(0, 0.2, len(places))
        starts, stops = strokes(source, places, angles, length, tolerance)
        mixing = rng.normal(0, 0.03 + 0.001 * width, (len(places), 1)) + rng.normal(0, 0.015, (len(places), 3))
        colours = pick(source, places) + mixing
        paint = np.column_stack([colours, rng.uniform(0.2, 0.6, len(places))])
        across = np.stack([np.sin(angles), -np.cos(angles)], -1) * width * 0.28
        lit_side = across * np.sign(across @ (scene.light, -1))[:, None]
        # Each stroke is followed by a ridge along its lit side.
        starts, stops = (np.stack([ends, ends + lit_side], 1).reshape(-1, 2) for ends in (starts, stops))
        paint = np.stack([paint, paint + np.array((0.05, 0.05, 0.04, 0.4))], 1).reshape(-1, 4)
        draw(surface, starts, stops, paint, [width, max(width // 3, 2)])
    height = blurred(surface[..., 3], 1.0)
    relief = cv2.Sobel(height, cv2.CV_32F, 1, 0) * -scene.light + cv2.Sobel(height, cv2.CV_32F, 0, 1)
    return vivid(surface[..., :3], 0.12) + 0.075 * relief[..., None]


def watercolor(scene: Scene, rng: np.random.Generator) -> Image:
    """Washes that bleed at their edges and leave the rim of the sheet, and slivers within, white."""
    sheet = mix(np.array([0.985, 0.975, 0.95], np.float32), scene.palette.paper, 0.08)
    drops = np.zeros((CANVAS, CANVAS), np.float32)
    for _ in range(rng.integers(2, 5)):
        cv2.circle(drops, rng.integers(30, CANVAS - 30, 2).tolist(), int(rng.integers(14, 30)), 1.0, -1)
    wash, edges = wobbled([blurred(scene.colour, 1.6), scene.outline], rng, 14, 5)
    (drops,) = wobbled([drops], rng, 18, 9)
    # Pigment gathers where a wash dries last: along its rim and in hollows of the paper. Drops of water push it out.
    pooled = np.clip(1.6 * blurred(edges, 3.5) - 0.9 * blurred(edges, 1.4), 0, 1)
    drops = blurred(drops, 3)
    density = 0.8 + 0.3 * (noise(rng, 5) - 0.5) + 0.16 * (noise(rng, 44) - 0.5) + 0.8 * pooled
    density += 0.9 * drops * (1 - drops) - 0.25 * drops
    slivers = np.clip(2.0 * blurred(edges, 1.1) - 0.55, 0, 0.6) * np.clip(8 * noise(rng, 9) - 5, 0, 1)
    stained = sheet * (1 - density[..., None] * (1 - vivid(wash, 0.25)))
    stained = mix(stained, sheet, slivers[..., None])
    inside = FROM_RIM - 8 - 16 * noise(rng, 9) - 6 * (noise(rng, 30) - 0.5)  # the deckled edge
    rim = np.exp(-(((inside - 4) / 3) ** 2))
    granular = sheet + 0.03 * (noise(rng, 60) - 0.5)[..., None]
    return mix(granular, stained * (1 - 0.3 * rim)[..., None], np.clip(inside / 3, 0, 1)[..., None])


def charcoal(scene: Scene, rng: np.random.Generator) -> Image:
    """Broad smudged hatching on toned paper, heightened with coloured chalk."""
    p, darkness = scene.palette, tones(scene)
    angle = scene.light * rng.uniform(0.7, 1.0)
    tooth = 0.45 * noise(rng, 60) + 0.55 * grain(rng, -angle, 28, 6)
    paper = mix(p.paper, vivid(blurred(scene.colour, 12), 0.4), 0.6)
    paper *= np.clip(0.4 / (luminance(paper) + 0.01), 1, 2.2)[..., None]  # charcoal needs paper that it can darken
    black, white = np.zeros((2, CANVAS, CANVAS), np.float32)
    for turn, threshold in ((0.0, 0.5), (0.5, 0.75)):
        places = scatter(rng, 11)
        places = places[pick(darkness, places) > threshold]
        angles = turn - angle + rng.normal(0, 0.08, len(places))
        starts, stops = strokes(darkness, places, angles, 52, 0.22)
        draw(black, starts, stops, 0.25 + 0.6 * pick(darkness, places)[:, None] ** 1.5, [8])
    places = scatter(rng, 10)
    places = places[pick(darkness, places) < 0.25]
    starts, stops = strokes(darkness, places, np.full(len(places), -angle), 44, 0.2)
    draw(white, starts, stops, rng.uniform(0.6, 1.0, (len(places), 1)), [7])
    (contour,) = wobbled([scene.outline], rng, 10, 3)
    contour = 1.9 * blurred(contour, 1.5) / (1 + 2.5 * blurred(contour, 7))
    coal = (0.8 * blurred(black, 0.9) + contour) * (0.4 + tooth) + 0.2 * blurred(black, 4)
    chalk = blurred(white, 0.9) * (0.2 + 1.2 * tooth)
    toned = paper + 0.05 * (tooth - 0.5)[..., None]
    heightened = mix(toned, mix(p.light, vivid(scene.colour, 0.5), 0.5), chalk.clip(0, 0.9)[..., None])
    soot = mix(p.dark, mix(BLACK, WHITE, 0.06), 0.75)
    return mix(heightened, soot, coal.clip(0, 0.92)[..., None])


def ink(scene: Scene, rng: np.random.Generator) -> Image:
    """A brush line that swells and thins, loose flat washes, hatched shadows and a few drops."""
    p, darkness = scene.palette, tones(scene)
    pale = p.ink.mean() > p.paper.mean()
    if pale:  # on dark paper the lights are hatched
        darkness = 1 - darkness
    flat = cv2.medianBlur((scene.colour.clip(0, 1) * 255).astype(np.uint8), 5).astype(np.float32) / 255
    (wash,) = wobbled([flat], rng, 5, 9)  # slightly outside the lines
    line, darkness = wobbled([scene.outline, darkness], rng, 14, 3)
    paper = mix(p.paper, p.dark if pale else p.light, 0.25)
    sheet = mix(paper, vivid(wash, 0.3), (0.62 * np.clip(1.4 * noise(rng, 4), 0.7, 1))[..., None])
    crowded = blurred(line, 8)
    contour = blurred(line, 1.8) > 0.17 - 0.08 * noise(rng, 7) + 0.5 * crowded
    pitch, angle = 13, scene.light * rng.uniform(0.7, 0.9)
    stripes = (COLUMNS * np.sin(angle) + ROWS * np.cos(angle) + 5 * noise(rng, 6)) % pitch
    shadow = np.clip(blurred(darkness, 2) - 0.68, 0, 0.32) / 0.32
    hatched = stripes < pitch * (0.48 * shadow + 0.15 * (shadow > 0.05)) * (1 - 0.5 * np.clip(3 * crowded, 0, 1))
    black = (contour | hatched).astype(np.float32)
    for x, y, radius in np.column_stack([rng.uniform(0, CANVAS, (6, 2)), rng.uniform(2, 6, 6)]).astype(int).tolist():
        cv2.circle(black, (x, y), radius, 1.0, -1)
    return mix(sheet, p.ink, 0.95 * blurred(black, 0.6)[..., None])


def pastel(scene: Scene, rng: np.random.Generator) -> Image:
    """Thick chalky strokes, all at one slant; the dark paper shows between and around them."""
    p, slant = scene.palette, rng.choice([-1, 1]) * rng.uniform(0.6, 1.0)
    source = vivid(drawn(scene), 0.3)
    detail = edginess(source)
    paper = mix(p.paper * 0.7, p.dark, 0.25)
    surface = np.zeros((CANVAS, CANVAS, 4), np.float32)  # red, green, blue, and amount of chalk
    surface[..., :3] = paper
    sticks = ((15, 13, 56, 0.5, 0), (10, 9, 40, 0.28, 0), (6, 6, 20, 0.18, 0.2))  # like the brushes of `oil`
    for width, spacing, length, tolerance, needed in sticks:
        places = scatter(rng, spacing)
        places = places[pick(detail, places) >= needed]
        angles = slant + rng.normal(0, 0.1, len(places))
        starts, stops = strokes(source, places, angles, length, tolerance)
        colours = mix(pick(source, places), p.light, 0.06) + rng.normal(0, 0.04, (len(places), 1))
        draw(surface, starts, stops, np.column_stack([colours, rng.uniform(0.6, 1.1, len(places))]), [width])
    streaks = 0.65 * grain(rng, slant, 36, 7) + 0.35 * grain(rng, slant, 9, 5)
    ragged = np.clip(1 - FROM_RIM / 18, 0, 1)  # strokes end before the edge of the sheet
    chalk = np.clip((surface[..., 3] - 1.2 * streaks - 0.9 * ragged + 0.03 + 0.25 * detail) * 4, 0, 1)
    return mix(paper, blurred(surface[..., :3], 0.8), (0.2 + 0.8 * blurred(chalk, 0.7))[..., None])


def pointillism(scene: Scene, rng: np.random.Generator) -> Image:
    """Round dots of pure colour, each lighter or darker than its neighbours, on the bare canvas."""
    p = scene.palette
    source = vivid(drawn(scene), 0.4)
    detail = edginess(source)
    surface = np.empty_like(source)
    surface[:] = mix(p.paper, WHITE if p.paper.mean() > 0.45 else p.dark, 0.5)
    # Most dots are about as large as one latent pixel of a factor 8 autoencoder, so that it can represent them.
    for spacing, radius, needed in ((17, 8, 0), (16, 7, 0), (9, 4, 0.2)):
        places = scatter(rng, spacing)
        places = places[pick(detail, places) >= needed]
        tone = rng.choice([-0.1, 0, 0.1], (len(places), 1)) + rng.normal(0, 0.04, (len(places), 3))
        colours = pick(source, places) + tone
        for place, colour in zip(np.rint(places).astype(int).tolist(), colours.tolist()):
            cv2.circle(surface, place, radius, colour, -1)
    return surface


TECHNIQUES: dict[str, Callable[[Scene, np.random.Generator], Image]] = {
    "oil": oil,
    "watercolor": watercolor,
    "charcoal": charcoal,
    "ink": ink,
    "pastel": pastel,
    "pointillism": pointillism,
}
