"""The preparatory drawing: colours, outlines and brush directions of a picture, before a medium is chosen."""

from functools import cache
from math import comb

import cv2
import numpy as np

from .palettes import Colour, Palette, mix

CANVAS = 256
"""Height and width in pixels at which pictures are drawn, before they are resized."""

Point = tuple[float, float]


class Scene:
    """A picture before a medium is chosen. Shapes cover earlier ones, including their outlines.

    Coordinates and lengths are fractions of the side: x to the right, y down, (0, 0) at the upper left corner.

    Attributes:
        colour: (CANVAS, CANVAS, 3), 0 to 1.
        outline: (CANVAS, CANVAS), 0 to 1: the strength of drawn lines.
        flow: (CANVAS, CANVAS): the angle in radians at which a brush follows the form.
        light: −1 for light from the left, 1 for light from the right.
        weather: The name of the palette, which decides what falls or floats in the sky.
    """

    def __init__(self, palette: Palette, weather: str, rng: np.random.Generator):
        self.palette, self.weather, self.rng = palette, weather, rng
        self.colour = np.zeros((CANVAS, CANVAS, 3), np.float32)
        self.outline = np.zeros((CANVAS, CANVAS), np.float32)
        self.flow = np.zeros((CANVAS, CANVAS), np.float32)
        self.light = float(rng.choice([-1.0, 1.0]))
        (self._sky_rng,) = rng.spawn(1)  # separate, so that the weather does not move things on the ground

    def fill(self, points: np.ndarray, colour: Colour, flow: float = 0.0, outline: float = 1.0) -> None:
        """Fills the polygon `points` (n, 2)."""
        corners = [_pixels(points)]
        cv2.fillPoly(self.colour, corners, colour.tolist())
        cv2.fillPoly(self.flow, corners, flow)
        cv2.fillPoly(self.outline, corners, 0)
        if outline:
            cv2.polylines(self.outline, corners, True, outline, 2)

    def line(self, points: np.ndarray, width: float, colour: Colour, outline: float = 1.0) -> None:
        """Draws a line of a width through `points` (n, 2); it counts as an outline too."""
        corners, thickness = [_pixels(points)], max(1, round(width * CANVAS))
        (x0, y0), (x1, y1) = points[0], points[-1]
        cv2.polylines(self.colour, corners, False, colour.tolist(), thickness)
        cv2.polylines(self.flow, corners, False, float(np.arctan2(y1 - y0, x1 - x0)), thickness)
        cv2.polylines(self.outline, corners, False, 0, thickness)
        cv2.polylines(self.outline, corners, False, outline, min(thickness, 3))

    def ball(self, centre: Point, radii: Point, colour: Colour) -> None:
        """Draws an ellipse shaded from shadow to highlight, with the brush running around it."""
        (x, y), (rx, ry), p = centre, radii, self.palette
        shadow, highlight = mix(colour, p.dark, 0.5), mix(colour, p.light, 0.55)
        for step in np.linspace(0, 1, 5):
            tone = mix(shadow, colour, 2 * step) if step < 0.5 else mix(colour, highlight, 2 * step - 1)
            shrink, shift = 1 - 0.72 * step, 0.42 * step
            place = (x + self.light * shift * rx, y - shift * ry)
            self.fill(ellipse(place, (rx * shrink, ry * shrink)), tone, outline=1.0 if step == 0 else 0)
        inside = np.zeros((CANVAS, CANVAS), np.uint8)
        cv2.fillPoly(inside, [_pixels(ellipse(centre, radii))], 1)
        rows, columns = inside.nonzero()
        self.flow[rows, columns] = np.arctan2(columns - x * CANVAS, y * CANVAS - rows)

    def gradient(self, stops: np.ndarray, top: float, bottom: float) -> None:
        """Fills the rows between two heights with a vertical gradient of the colours `stops` (n, 3)."""
        first, last = int(np.clip(top, 0, 1) * CANVAS), int(np.clip(bottom, 0, 1) * CANVAS)
        where = np.linspace(0, len(stops) - 1, max(last - first, 1))
        bands = np.stack([np.interp(where, np.arange(len(stops)), stops[:, c]) for c in range(3)], -1)
        self.colour[first:last] = bands[: last - first, None]
        self.flow[first:last], self.outline[first:last] = 0.12 * self.light, 0

    def sky(self, horizon: float, clouds: float = 1.0, stops: np.ndarray | None = None) -> None:
        """Draws the sky down to the horizon, with its weather; indoors it is the wall in the background.

        Args:
            horizon: The height of the horizon.
            clouds: Number of clouds relative to the usual number in this weather; 0 for none.
            stops: Colours (n, 3) from the zenith down; by default those of the palette.
        """
        p, rng = self.palette, self._sky_rng
        self.gradient(p.sky if stops is None else stops, 0, horizon + 0.04)
        cloudy = {"summer": 3, "storm": 7, "sunset": 5, "winter": 2, "spring": 2, "autumn": 2, "fog": 4, "night": 1}
        for _ in range(int(clouds * rng.integers(1, 1 + cloudy[self.weather]) + 0.5)):
            self._cloud(horizon)
        self._weather(horizon)

    def _cloud(self, horizon: float) -> None:
        p, rng = self.palette, self._sky_rng
        x, y, width = rng.uniform(0, 1), horizon * rng.uniform(0.08, 0.75), rng.uniform(0.12, 0.3)
        pale = {"storm": mix(p.sky[0], p.dark, 0.35), "night": mix(p.sky[1], p.sky[2], 0.6), "sunset": p.light}
        colour = pale.get(self.weather, mix(p.sky[1], p.light, 0.85))
        if self.weather in ("sunset", "fog", "night"):  # long bars
            self.fill(blob(rng, (x, y), (width * 1.4, width * 0.13), 0.15), colour, outline=0.3)
            return
        for _ in range(4):  # heaps
            place = (x + rng.uniform(-0.6, 0.6) * width, y + rng.uniform(-0.02, 0.02))
            self.fill(blob(rng, place, (width * 0.5, width * rng.uniform(0.2, 0.3)), 0.1), colour, outline=0.3)
        self.fill(ellipse((x, y + 0.12 * width), (width * 0.9, width * 0.13)), mix(colour, p.sky[0], 0.25), outline=0)

    def _weather(self, horizon: float) -> None:
        p, rng = self.palette, self._sky_rng
        if self.weather == "night":
            for x, y in rng.uniform(0, 1, (14, 2)) * (1, horizon):
                self.fill(ellipse((x, y), (0.013, 0.013)), p.light, outline=1)
        elif self.weather == "storm":
            slant = 0.05 + 0.05 * rng.random()
            for x, y in rng.uniform(0, 1, (16, 2)) * (1.2, horizon):
                self.line(np.array([(x, y), (x - slant, y + 0.14)]), 0.012, mix(p.sky[1], p.light, 0.3), outline=0.5)
        elif self.weather in ("winter", "spring", "autumn"):
            falling = {"winter": p.light[None], "spring": p.foliage[:1], "autumn": p.foliage}[self.weather]
            for x, y in rng.uniform(0, 1, (16, 2)) * (1, horizon):
                radii = rng.uniform(0.011, 0.018) * np.array([1, 1 if self.weather == "winter" else 0.6])
                self.fill(ellipse((x, y), radii, rng.uniform(0, 3)), rng.choice(falling), outline=0.25)

    def veil(self, top: float, bottom: float, strength: float) -> None:
        """Draws mist over everything so far, thickest at `bottom`."""
        rows = slice(int(top * CANVAS), int(bottom * CANVAS))
        ramp = np.linspace(0, strength, len(self.colour[rows]), dtype=np.float32)[:, None]
        self.colour[rows] += (self.palette.glow - self.colour[rows]) * ramp[..., None]
        self.outline[rows] *= 1 - ramp


def _pixels(points: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(points) * CANVAS).astype(np.int32)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Corners (4, 2) of an upright rectangle."""
    return np.array([(left, bottom), (left, top), (right, top), (right, bottom)])


def ellipse(centre: Point, radii: Point, tilt: float = 0.0, start: float = 0.0, stop: float = 2 * np.pi) -> np.ndarray:
    """Points (24, 2) of an ellipse, or of the arc between two angles in radians."""
    angles = np.linspace(start, stop, 24)
    x, y = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    turned = np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], -1)
    return turned + centre


def blob(rng: np.random.Generator, centre: Point, radii: Point, wobble: float) -> np.ndarray:
    """Points (24, 2) of an irregular ellipse, as if drawn by an unsteady hand."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    waves = np.arange(2, 6)
    amplitude, phase = rng.normal(0, wobble, 4) / np.sqrt(waves), rng.uniform(0, 2 * np.pi, 4)
    radius = 1 + (amplitude * np.cos(np.outer(angles, waves) + phase)).sum(-1)
    return np.stack([np.cos(angles) * radii[0] * radius, np.sin(angles) * radii[1] * radius], -1) + centre


def ridge(rng: np.random.Generator, height: float, roughness: float, smooth: bool = False) -> np.ndarray:
    """Points (n, 2) of a skyline from the left to the right edge, closed along the bottom of the picture."""
    x = np.linspace(-0.05, 1.05, 33)
    waves = np.arange(1, 5 if smooth else 13)
    amplitude = roughness * rng.normal(0, 1, len(waves)) / waves ** (1.5 if smooth else 1.0)
    y = height + (amplitude * np.sin(np.outer(x * np.pi, waves) + rng.uniform(0, 2 * np.pi, len(waves)))).sum(-1)
    return np.concatenate([np.stack([x, y], -1), [(1.05, 1.05), (-0.05, 1.05)]])


def bezier(*controls: Point) -> np.ndarray:
    """Points (13, 2) of the Bézier curve with these control points."""
    return _bernstein(len(controls)) @ np.array(controls, float)


@cache
def _bernstein(count: int) -> np.ndarray:
    t, k = np.linspace(0, 1, 13)[:, None], np.arange(count)
    return np.array([comb(count - 1, i) for i in k]) * t**k * (1 - t) ** (count - 1 - k)
