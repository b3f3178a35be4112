"""Palettes: the colours of sky, land, leaves and paper in a season or in a weather."""

from dataclasses import dataclass, fields

import numpy as np

Colour = np.ndarray  # (3,): red, green and blue, 0 to 1

BLACK, WHITE = np.zeros(3, np.float32), np.ones(3, np.float32)


@dataclass(frozen=True)
class Palette:
    """The colours of a picture by role. Subjects and media use roles, never literal colours.

    Every colour is (3,), every group of colours (n, 3): red, green and blue, 0 to 1.
    """

    sky: np.ndarray
    """(3, 3): the zenith, the middle of the sky, the glow on the horizon."""
    land: np.ndarray
    """(3, 3): the far, the middle and the near ground."""
    foliage: np.ndarray
    """(3, 3): leaves, blossom or snow on the trees."""
    accents: np.ndarray
    """(3, 3): roofs, fruit, flowers, sails."""
    water: Colour
    light: Colour
    dark: Colour
    paper: Colour
    """The sheet that shows between the marks of charcoal, pastel and ink."""
    ink: Colour
    """Legible on `paper`, hence pale on dark paper."""

    @property
    def glow(self) -> Colour:
        return self.sky[2]


def _palette(sky: str, land: str, foliage: str, accents: str, others: str) -> Palette:
    """Parses hexadecimal colours; `others` are water, light, dark, paper and ink."""

    def read(text: str) -> np.ndarray:
        return np.array([[int(word[i : i + 2], 16) / 255 for i in (0, 2, 4)] for word in text.split()], np.float32)

    return Palette(read(sky), read(land), read(foliage), read(accents), *read(others))


PALETTES_BY_NAME = {
    "winter": _palette(
        sky="79aee2 b0d1ef e9f2fb",
        land="8fb4dc dfebf7 f8fbfe",
        foliage="f4f9ff c4dbf1 86aed6",
        accents="c8414f 3d74b8 86b1de",
        others="5d93c9 ffffff 203a5e cfe1f4 1b3a6b",
    ),
    "spring": _palette(
        sky="b9e4f2 dcecf0 fde3ec",
        land="b5e0bd a2db86 7fcf62",
        foliage="f9a8c6 fcd0df a5dc7c",
        accents="f27fae fbdc55 b58fe3",
        others="8fd8df fff7fa 6d5668 fbdde8 3d7f55",
    ),
    "summer": _palette(
        sky="1579dd 3fa3ee a6dfff",
        land="3aa17f 43b52f 2c9120",
        foliage="2fa02a 1b7a2b 7ccb2b",
        accents="ffd200 ea3320 ff8b1a",
        others="0b8fca fffbdc 164a24 ffef8f 0b3c96",
    ),
    "autumn": _palette(
        sky="e3bd78 efd398 f9eac4",
        land="b9853f c4651d 8c4216",
        foliage="e2741a c93a17 f0ae22",
        accents="d6361c f2a51d 7c1c23",
        others="8e8754 fdf0cf 3c2011 dcb16d 4f210d",
    ),
    "sunset": _palette(
        sky="5c2e8f d6478f ff9a4c",
        land="b3457f 7b2b70 47205f",
        foliage="8c2a73 5c2470 d9487c",
        accents="ff4d6b ffb53c cf3aa4",
        others="e4577f ffdb8c 2d1344 f78f8a 4d1560",
    ),
    "night": _palette(
        sky="080f3a 122164 3352a8",
        land="2d479a 18295f 0d183c",
        foliage="1c4a86 102f66 3069a6",
        accents="f4cb4d 5a86e8 8c6bd9",
        others="15306f f6ebb0 050819 1f2f70 f3e7b2",
    ),
    "fog": _palette(
        sky="c2c5c4 cfd1cf dededa",
        land="b4b9b8 9da3a1 848b88",
        foliage="a6aca9 959c99 b7bbb7",
        accents="93827f 7f8d89 a59b86",
        others="aeb5b6 eeece8 535958 cbccc9 5f6566",
    ),
    "storm": _palette(
        sky="27343b 4b5d62 c3c994",
        land="40565a 4e6144 33442d",
        foliage="3b5341 2a3f37 5c6d44",
        accents="cdbb45 6f918e 94503f",
        others="386864 ecf0bd 121a1c 7b8f86 0e1819",
    ),
}


def jittered(name: str, rng: np.random.Generator) -> Palette:
    """Returns the named palette with random variations, as if mixed by hand."""
    palette = PALETTES_BY_NAME[name]
    # Lightness varies more than hue, so greys stay grey.
    exposure, cast = rng.normal(1, 0.035), rng.normal(0, 0.006, 3)

    def mix_again(colours: np.ndarray) -> np.ndarray:
        error = rng.normal(0, 0.022, (*colours.shape[:-1], 1)) + rng.normal(0, 0.01, colours.shape)
        return np.clip(colours * exposure + cast + error, 0, 1).astype(np.float32)

    return Palette(*(mix_again(getattr(palette, field.name)) for field in fields(palette)))


def mix(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Mixes a share `t` of `b` into `a`; a share outside 0 to 1 extrapolates."""
    return a + (b - a) * t
