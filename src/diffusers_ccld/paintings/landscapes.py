"""Outdoor subjects: mountains, the sea, a forest, the moon."""

import numpy as np

from .palettes import WHITE, mix
from .scene import Scene, bezier, blob, ellipse, ridge


def mountain(scene: Scene) -> None:
    """Snowy peaks, lit from one side, behind hills and a meadow with firs."""
    p, rng = scene.palette, scene.rng
    horizon = rng.uniform(0.6, 0.7)
    scene.sky(horizon, clouds=0.7)
    scene.fill(ridge(rng, horizon - 0.13, 0.05), mix(p.land[0], p.glow, 0.5), outline=0.4)
    count = rng.integers(2, 5)
    apexes = np.stack([(np.arange(count) + rng.uniform(0.25, 0.75, count)) / count, rng.uniform(0.2, 0.36, count)], -1)
    apexes[rng.integers(count), 1] = rng.uniform(0.1, 0.16)
    for apex in sorted(apexes.tolist(), key=lambda apex: apex[1]):
        _peak(scene, tuple(apex), horizon + 0.05)
    scene.veil(horizon - 0.2, horizon + 0.05, 0.35)
    hill = rng.uniform(-0.4, 0.4)
    scene.fill(ridge(rng, horizon, 0.03, smooth=True), p.land[1], flow=hill / 2)
    if rng.random() < 0.5:
        lake = (rng.uniform(0.3, 0.7), horizon + 0.12)
        scene.fill(blob(rng, lake, (rng.uniform(0.25, 0.4), 0.06), 0.1), p.water)
        scene.fill(ellipse((lake[0], lake[1] - 0.02), (0.15, 0.014)), mix(p.water, p.light, 0.6), outline=0)
    scene.fill(ridge(rng, horizon + 0.2, 0.025, smooth=True), p.land[2], flow=-hill / 2)
    for x in rng.uniform(0, 1, rng.integers(3, 8)):
        _fir(scene, x, horizon + rng.uniform(0.12, 0.28), rng.uniform(0.13, 0.24))


def _peak(scene: Scene, apex: tuple[float, float], foot: float) -> None:
    p, rng, (x, y) = scene.palette, scene.rng, apex
    spread = (foot - y) * rng.uniform(0.65, 0.9)
    down = np.linspace(0, 1, 8)
    left, right, middle = (
        np.stack([x + down * (side * spread) + rng.normal(0, 0.014, 8) * (down > 0), y + down * (foot - y)], -1)
        for side in (-1, 1, rng.uniform(-0.2, 0.2))
    )
    lit, shaded = mix(p.land[0], p.light, 0.3), mix(p.land[0], p.dark, 0.5)
    sides = ((left, lit if scene.light < 0 else shaded, -1), (right, shaded if scene.light < 0 else lit, 1))
    depth = rng.integers(2, 5)
    for slope, colour, sign in sides:
        scene.fill(np.concatenate([slope, middle[::-1]]), colour, flow=sign * 0.9)
        snow = mix(p.light, p.sky[0], 0.0 if colour is lit else 0.45)
        edge = np.linspace(slope[depth], middle[depth], 5) + np.column_stack([np.zeros(5), rng.normal(0, 0.03, 5)])
        scene.fill(np.concatenate([slope[: depth + 1], edge, middle[depth::-1]]), snow, flow=sign * 0.9, outline=0.7)


def seascape(scene: Scene) -> None:
    """Rows of waves with crests of foam, running in from the horizon."""
    p, rng = scene.palette, scene.rng
    horizon = rng.uniform(0.3, 0.45)
    scene.sky(horizon)
    deep = mix(p.water, p.dark, 0.35)
    scene.gradient(np.stack([mix(p.water, p.glow, 0.35), p.water, deep]), horizon, 1)
    if rng.random() < 0.5:
        _headland(scene, horizon)
    foam = mix(p.light, p.water, 0.1)
    rows = horizon + (1 - horizon) * np.linspace(0.06, 0.95, 7) ** 1.35
    for y in rows + rng.uniform(-0.01, 0.01, len(rows)):
        near = (y - horizon) / (1 - horizon)
        x, length = rng.uniform(-0.1, 0.1), 0.16 + 0.4 * near
        while x < 1.05:
            width, swell = length * rng.uniform(0.7, 1.3), (0.02 + 0.1 * near) * rng.uniform(0.6, 1.2)
            crest = bezier((x, y), (x + 0.35 * width, y), (x + 0.45 * width, y - 1.6 * swell), (x + width, y))
            hollow = bezier((x + width, y), (x + 0.5 * width, y + 0.7 * swell), (x, y))
            body = mix(p.water, deep, rng.uniform(0.3, 1.2))
            scene.fill(np.concatenate([crest, hollow]), body, flow=0.25 * scene.light, outline=0.4)
            under = mix(crest, np.array((x + 0.3 * width, y)), 0.1) + np.array((0, 0.012 + 0.035 * near))
            lip = np.concatenate([crest[2:12], under[11:1:-1]])
            scene.fill(lip, foam, flow=0.3 * scene.light, outline=0.7)
            x += width * rng.uniform(0.9, 1.5)
    if rng.random() < 0.5:
        _beach(scene)


def _headland(scene: Scene, horizon: float) -> None:
    p, rng, side = scene.palette, scene.rng, scene.rng.choice([-1, 1])
    for reach, height, tone in ((0.4, 0.16, 0.25), (0.28, 0.1, 0.6)):
        x = np.linspace(0, 1, 9)
        top = horizon + 0.02 - height * np.sqrt(1 - x) * rng.uniform(0.75, 1.1, 9) * (x < 1)
        cliff = np.stack([0.5 + side * (0.5 - reach * x), top], -1)
        foot = [(0.5 + side * 0.5, horizon + 0.03)]
        scene.fill(np.concatenate([cliff, foot]), mix(p.land[0], p.dark, tone), flow=1.3)


def _beach(scene: Scene) -> None:
    p, rng, side = scene.palette, scene.rng, scene.rng.choice([-1, 1])
    low, high = (1.02, rng.uniform(0.78, 0.86))
    shore = bezier((0.5 - 0.55 * side, low), (0.5, 0.92), (0.5 + 0.2 * side, high), (0.5 + 0.55 * side, high))
    scene.fill(np.concatenate([shore, [(0.5 + 0.55 * side, 1.05)]]), mix(p.land[1], p.glow, 0.45))
    scene.line(shore, 0.035, p.light)


def forest(scene: Scene) -> None:
    """Rows of trunks under a canopy of leaves."""
    p, rng = scene.palette, scene.rng
    ground = rng.uniform(0.68, 0.78)
    scene.sky(ground, clouds=0)
    for _ in range(9):
        place = (rng.uniform(0, 1), rng.uniform(0.3, ground - 0.05))
        scene.fill(blob(rng, place, (0.2, 0.12), 0.1), mix(rng.choice(p.foliage), p.glow, 0.6), outline=0.2)
    scene.fill(ridge(rng, ground - 0.04, 0.015, smooth=True), mix(p.land[1], p.glow, 0.3), outline=0.4)
    scene.fill(ridge(rng, ground + 0.02, 0.015, smooth=True), p.land[1], outline=0.4)
    if rng.random() < 0.6:
        x, bend = rng.uniform(0.3, 0.7), rng.uniform(-0.2, 0.2)
        left = bezier((x - 0.03, ground), (x + bend, 0.85), (x - 0.25, 1.05))
        right = bezier((x + 0.03, ground), (x + bend + 0.1, 0.85), (x + 0.2, 1.05))
        scene.fill(np.concatenate([left, right[::-1]]), mix(p.land[1], p.light, 0.55), outline=0.5)
    for depth, count in ((0.2, 7), (0.55, 5), (1.0, 3)):
        width, foot = 0.022 + 0.065 * depth**1.5, ground + 0.02 + 0.22 * depth
        bark = mix(mix(p.glow, p.land[0], 0.5), p.dark, 0.15 + 0.75 * depth)
        xs = (np.arange(count) + rng.uniform(0, 1, count)) / count
        for x in xs:
            _trunk(scene, x, foot + rng.uniform(-0.03, 0.03), width * rng.uniform(0.75, 1.25), bark)
        if depth < 1:
            _canopy(scene, 0.3 - 0.12 * depth, 6, mix(p.glow, bark, 0.2), 0.45 - 0.3 * depth)
    _canopy(scene, 0.09, 9, p.dark, 0.12)
    for _ in range(6):
        bush = (rng.uniform(0, 1), rng.uniform(0.97, 1.04))
        scene.fill(blob(rng, bush, (rng.uniform(0.08, 0.16), 0.06), 0.15), mix(p.land[2], rng.choice(p.foliage), 0.4))


def _trunk(scene: Scene, x: float, foot: float, width: float, bark: np.ndarray) -> None:
    p, rng, lean = scene.palette, scene.rng, scene.rng.normal(0, 0.025)
    left = bezier((x - 0.9 * width, foot), (x - 0.4 * width, foot - 0.12), (x - 0.35 * width + lean, -0.05))
    right = bezier((x + 0.9 * width, foot), (x + 0.4 * width, foot - 0.12), (x + 0.35 * width + lean, -0.05))
    scene.fill(np.concatenate([left, right[::-1]]), bark, flow=np.pi / 2)
    bright, other = (left, right) if scene.light < 0 else (right, left)
    scene.fill(np.concatenate([bright, mix(bright, other, 0.3)[::-1]]), mix(bark, p.light, 0.35), np.pi / 2, outline=0)
    for y in rng.uniform(0.15, 0.5, 2):
        side = rng.choice([-1, 1])
        branch = bezier((x + lean * 0.5, y), (x + side * 0.06, y - 0.03), (x + side * 0.12, y - 0.12))
        scene.line(branch, width * 0.3, bark)


def _canopy(scene: Scene, height: float, count: int, toward: np.ndarray, amount: float) -> None:
    rng = scene.rng
    for x in (rng.permutation(count) + rng.uniform(0, 1, count)) / count:
        leaf = mix(rng.choice(scene.palette.foliage), toward, amount)
        place, radii = (x, height + rng.uniform(-0.09, 0.06)), (rng.uniform(0.09, 0.16), rng.uniform(0.07, 0.11))
        scene.fill(blob(rng, place, radii, 0.14), leaf, flow=rng.uniform(-1, 1), outline=0.6)
        above = (place[0] + 0.25 * scene.light * radii[0], place[1] - 0.3 * radii[1])
        lit = blob(rng, above, (radii[0] * 0.5, radii[1] * 0.4), 0.1)
        scene.fill(lit, mix(leaf, scene.palette.light, 0.25), outline=0)


def moon(scene: Scene) -> None:
    """A large full moon over hills and a lake that reflects it, at any hour and in any season."""
    p, rng = scene.palette, scene.rng
    horizon, size = rng.uniform(0.62, 0.72), rng.uniform(0.15, 0.21)
    x, y = rng.uniform(0.28, 0.72), rng.uniform(0.22, 0.32)
    dusk = mix(p.sky[0], p.dark, 0.25 if p.sky[0].mean() > 0.5 else 0.0)  # a pale moon needs a darker sky
    scene.sky(horizon, clouds=0, stops=np.stack([dusk, dusk, p.sky[1]]))
    silver = mix(p.light, WHITE, 0.3)
    for halo in (1.7, 1.35):
        scene.fill(ellipse((x, y), (size * halo, size * halo)), mix(dusk, silver, 0.62 - 0.32 * halo), outline=0)
    scene.fill(ellipse((x, y), (size * 1.03, size * 1.03)), silver)
    maria = ((-0.35, -0.25, 0.3), (0.25, -0.4, 0.2), (0.15, 0.3, 0.3), (-0.4, 0.35, 0.16), (0.55, 0.05, 0.15))
    for dx, dy, r in maria:
        place = (x + (dx + rng.normal(0, 0.05)) * size, y + (dy + rng.normal(0, 0.05)) * size)
        scene.fill(blob(rng, place, (r * size, r * size * 0.85), 0.12), mix(silver, p.sky[0], 0.32), outline=0.3)
    scene.fill(ridge(rng, horizon - 0.06, 0.035), mix(p.land[0], p.dark, 0.1), flow=0.2)
    scene.fill(ridge(rng, horizon, 0.02, smooth=True), mix(p.land[1], p.dark, 0.15), flow=-0.1)
    shore = horizon + 0.06
    scene.gradient(np.stack([mix(p.water, p.glow, 0.25), p.water]), shore, 1)
    for k in range(5):  # the moon's path on the water
        row, half = shore + 0.035 + 0.055 * k, size * rng.uniform(0.35, 0.95)
        scene.line(np.array([(x - half, row), (x + half, row)]), 0.024, mix(silver, p.water, 0.1), outline=0.7)
    side = rng.choice([-1, 1])
    bank = bezier((0.5 + 0.55 * side, 0.8), (0.5 + 0.3 * side, 0.86), (0.5 + 0.05 * side, 1.05))
    scene.fill(np.concatenate([bank, [(0.5 + 0.55 * side, 1.05)]]), mix(p.land[2], p.dark, 0.35))
    if rng.random() < 0.7:
        for k in range(rng.integers(1, 4)):
            _fir(scene, 0.5 + side * (0.44 - 0.1 * k), 0.88 + 0.03 * k, rng.uniform(0.22, 0.32))


def _fir(scene: Scene, x: float, foot: float, height: float) -> None:
    p, rng = scene.palette, scene.rng
    green = mix(p.foliage[1], p.dark, 0.62)
    scene.line(np.array([(x, foot), (x, foot - 0.2 * height)]), 0.02, p.dark)
    for k in range(3):
        y, half = foot - height * (0.12 + 0.25 * k), height * (0.3 - 0.07 * k)
        tip, droop = (x, y - 0.42 * height), rng.uniform(0, 0.01)
        scene.fill(np.array([(x - half, y + droop), tip, (x + half, y - droop)]), green, flow=np.pi / 2, outline=0.6)
        if scene.weather == "winter":
            scene.fill(np.array([(x - half * 0.4, y - 0.2 * height), tip, (x + half * 0.4, y - 0.2 * height)]), WHITE)
