"""Built subjects: a city, a cottage, a boat."""

import numpy as np

from .palettes import mix
from .scene import Scene, bezier, blob, box, ridge


def city(scene: Scene) -> None:
    """Towers with lit windows above a river."""
    p, rng = scene.palette, scene.rng
    quay = rng.uniform(0.76, 0.86)
    scene.sky(quay)
    for depth, count, low, high in ((0.0, 9, 0.3, 0.5), (0.5, 7, 0.25, 0.55), (1.0, 6, 0.42, 0.66)):
        near = rng.choice(np.concatenate([p.land[1:], p.accents]), count)
        walls = mix(mix(p.land[0], p.glow, 0.45), mix(near, p.dark, 0.5), depth)
        lefts = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
        for x, wall in zip(lefts, walls):
            width, top = rng.uniform(0.9, 1.4) / count, quay - 0.9 + rng.uniform(low, high)
            _tower(scene, x, top, width, quay, wall, windows=depth > 0.2)
    still = np.stack([mix(p.water, p.glow, 0.3), mix(p.water, p.dark, 0.25)])
    scene.gradient(still, quay, 1)
    for x in rng.uniform(0, 1, 9):
        reflection = np.array([(x, quay + 0.02), (x, quay + rng.uniform(0.06, 0.18))])
        scene.line(reflection, 0.03, mix(p.water, p.dark, 0.5), outline=0)
    for _ in range(7):
        x, y = rng.uniform(0, 1), rng.uniform(quay + 0.03, 0.98)
        scene.line(np.array([(x, y), (x + 0.14, y)]), 0.014, mix(p.water, p.light, 0.6), outline=0.5)
    scene.line(np.array([(-0.05, quay), (1.05, quay)]), 0.02, p.dark)


def _tower(scene: Scene, x: float, top: float, width: float, foot: float, wall: np.ndarray, windows: bool) -> None:
    p, rng = scene.palette, scene.rng
    scene.fill(box(x, top, x + width, foot), wall, flow=np.pi / 2)
    dim = x if scene.light > 0 else x + 0.7 * width
    scene.fill(box(dim, top, dim + 0.3 * width, foot), mix(wall, p.dark, 0.35), flow=np.pi / 2, outline=0)
    roof, middle = rng.choice(["flat", "flat", "gable", "spire", "step"]), x + width / 2
    if roof == "step":
        scene.fill(box(x + 0.2 * width, top - 0.05, x + 0.8 * width, top), wall)
    elif roof != "flat":
        half, height = (0.5, 0.4) if roof == "gable" else (0.25, 1.2)
        slopes = np.array([(-half, 0), (0, -height), (half, 0)]) * width + np.array((middle, top))
        scene.fill(slopes, mix(wall, p.dark, 0.45))
    if not windows:
        return
    columns = max(2, int(width / 0.055))
    for row in np.arange(top + 0.04, foot - 0.05, 0.065):
        for k in range(columns):
            if rng.random() < 0.6:
                left = x + width * (k + 0.5) / columns - 0.012
                scene.fill(box(left, row, left + 0.024, row + 0.032), mix(p.light, p.accents[0], 0.15), outline=0.4)


def cottage(scene: Scene) -> None:
    """A small house with a smoking chimney, a tree and a path to the door."""
    p, rng = scene.palette, scene.rng
    horizon = rng.uniform(0.55, 0.64)
    scene.sky(horizon)
    scene.fill(ridge(rng, horizon - 0.05, 0.03, smooth=True), mix(p.land[0], p.glow, 0.15), outline=0.6)
    scene.fill(ridge(rng, horizon + 0.04, 0.02, smooth=True), p.land[1], flow=0.15)
    x, foot = rng.uniform(0.4, 0.6), horizon + rng.uniform(0.13, 0.18)
    wide, side = rng.uniform(0.2, 0.25), rng.choice([-1, 1])
    _tree(scene, x - side * rng.uniform(0.3, 0.38), foot + 0.02, rng.uniform(0.4, 0.5))
    tall, peak = rng.uniform(0.2, 0.25), rng.uniform(0.17, 0.22)
    wall, roof = mix(p.light, p.paper, 0.25), mix(p.accents[0], p.dark, 0.12)
    chimney = x + side * wide * 0.5
    for k in range(4):
        smoke = (chimney - scene.light * 0.03 * k**1.3, foot - tall - peak - 0.07 - 0.055 * k)
        scene.fill(blob(rng, smoke, (0.03 + 0.009 * k, 0.03), 0.1), mix(p.light, p.sky[1], 0.25), outline=0.4)
    scene.fill(box(chimney - 0.03, foot - tall - peak - 0.03, chimney + 0.03, foot - tall), mix(roof, p.dark, 0.4))
    scene.fill(box(x - wide, foot - tall, x + wide, foot), wall)
    dim = (x - wide, x - wide + 0.12) if scene.light > 0 else (x + wide - 0.12, x + wide)
    scene.fill(box(dim[0], foot - tall, dim[1], foot), mix(wall, p.dark, 0.3), outline=0)
    eaves = foot - tall + 0.02
    gable = box(x - wide - 0.05, eaves - peak, x + wide + 0.05, eaves)
    gable[1:3, 0] += (0.4 * wide + 0.05, -0.4 * wide - 0.05)
    scene.fill(gable, mix(p.light, roof, 0.12) if scene.weather == "winter" else roof, flow=0.05)
    scene.fill(gable * (1, 0.35) + (0, 0.65 * eaves), roof, outline=0.5)
    bend = x - 0.25 * side
    edges = (
        bezier((x - 0.04, foot), (x - 0.02, 0.88), (bend - 0.12, 1.05)),
        bezier((bend + 0.12, 1.05), (x + 0.1, 0.88), (x + 0.04, foot)),
    )
    scene.fill(np.concatenate(edges), mix(p.land[1], p.light, 0.6), outline=0.7)
    scene.fill(box(x - 0.04, foot - 0.14, x + 0.04, foot), mix(p.accents[1], p.dark, 0.35))
    lamplit = scene.weather in ("night", "sunset", "storm")
    glass = mix(p.accents[1], p.light, 0.35) if lamplit else mix(p.water, p.dark, 0.35)
    for left in (x - 0.6 * wide - 0.035, x + 0.6 * wide - 0.035):
        scene.fill(box(left, foot - tall + 0.06, left + 0.07, foot - tall + 0.135), glass)
    for _ in range(rng.integers(4, 9)):
        bush = (rng.uniform(0, 1), rng.uniform(0.9, 1.0))
        scene.fill(blob(rng, bush, (0.06, 0.04), 0.15), mix(p.land[2], rng.choice(p.foliage), 0.5), outline=0.6)


def _tree(scene: Scene, x: float, foot: float, height: float) -> None:
    p, rng = scene.palette, scene.rng
    trunk = box(x - 0.02, foot - height * 0.6, x + 0.02, foot)
    scene.fill(trunk, mix(p.dark, p.land[2], 0.2), flow=np.pi / 2)
    for dx, dy in rng.permutation([(0, 0.95), (-0.09, 0.78), (0.09, 0.78), (-0.05, 0.6), (0.06, 0.62), (0, 0.75)]):
        radius = rng.uniform(0.065, 0.09)
        tuft = blob(rng, (x + dx, foot - dy * height), (radius, radius * 0.85), 0.12)
        scene.fill(tuft, rng.choice(p.foliage), flow=rng.uniform(-1, 1), outline=0.7)


def boat(scene: Scene) -> None:
    """A nearby sailing boat with its reflection."""
    p, rng = scene.palette, scene.rng
    horizon = rng.uniform(0.5, 0.6)
    scene.sky(horizon)
    if rng.random() < 0.7:
        shore = ridge(rng, horizon - 0.03, 0.02)
        scene.fill(shore, mix(p.land[0], p.glow, 0.2), outline=0.5)
    scene.gradient(np.stack([mix(p.water, p.glow, 0.35), p.water, mix(p.water, p.dark, 0.3)]), horizon, 1)
    x, foot = rng.uniform(0.42, 0.58), horizon + rng.uniform(0.16, 0.2)
    size, ahead = rng.uniform(0.85, 1.05), rng.choice([-1, 1])

    def at(*parts: np.ndarray | list) -> np.ndarray:  # from the boat's frame, its bow to the right
        return np.concatenate(parts) * (ahead * size, size) + (x, foot)

    mast, jib = -0.62, mix(p.light, p.accents[0], 0.25)
    contrast = np.abs(p.accents - p.sky[1]).sum(-1).argsort()
    main = mix(p.light, p.accents[contrast[rng.integers(1, 3)]], rng.choice([0.05, 0.85]))
    wood = mix(rng.choice(p.accents), p.dark, 0.45)
    for k, half in enumerate(rng.uniform(0.08, 0.25, 5)):
        row = foot + 0.045 + 0.06 * k
        mirrored = mix(p.water, main if k > 1 else wood, 0.55)
        scene.line(np.array([(x - half, row), (x + half, row + 0.005)]), 0.026, mirrored, outline=0.4)
    scene.line(at([(0, 0), (0.02, mast)]), 0.018, mix(wood, p.dark, 0.5))
    leech = bezier((0.0, mast + 0.02), (-0.3, -0.35), (-0.3, -0.09))
    scene.fill(at(leech, [(-0.01, -0.09)]), main, flow=1.2)
    scene.fill(at(mix(leech, np.array([0, -0.3]), 0.45), [(-0.02, -0.11)]), mix(main, p.dark, 0.15), 1.2, outline=0)
    scene.fill(at(bezier((0.03, mast + 0.05), (0.14, -0.3), (0.3, -0.1)), [(0.05, -0.1)]), jib, flow=-1.2)
    deck, keel = bezier((-0.3, -0.07), (0.0, -0.04), (0.36, -0.1)), bezier((0.36, -0.1), (0.26, 0.04), (0.1, 0.05))
    scene.fill(at(deck, keel, [(-0.22, 0.05)]), wood)
    scene.line(at(deck), 0.024, mix(wood, p.light, 0.6))
    for _ in range(9):
        u, v = rng.uniform(0, 1), rng.uniform(horizon + 0.04, 1) ** 0.9
        if abs(u - x) > 0.36 or v > foot + 0.08:
            ripple = bezier((u - 0.07, v), (u, v - 0.03), (u + 0.07, v))
            scene.line(ripple, 0.016, mix(p.water, p.light, 0.55), outline=0.5)
