"""Still subjects: fruit, a rose, and abstract shapes."""

import numpy as np

from .palettes import mix
from .scene import Scene, bezier, blob, box, ellipse


def fruit(scene: Scene) -> None:
    """A still life: fruit in a bowl and around it, on a table with a cloth."""
    p, rng = scene.palette, scene.rng
    edge = rng.uniform(0.56, 0.66)
    scene.sky(edge, clouds=0)
    scene.fill(box(-0.05, edge, 1.05, 1.05), mix(p.land[2], p.dark, 0.15))
    corners = rng.uniform((0.05, 0.7, 0.8, 0.0), (0.3, 0.9, 1.0, 0.3))
    cloth = np.stack([corners, (edge, edge, 1.05, 1.05)], -1)
    scene.fill(cloth, mix(p.light, p.paper, 0.35), flow=0.2)
    for t in rng.uniform(0.15, 0.85, 2):
        fold = np.array([mix(cloth[0], cloth[1], t), mix(cloth[3], cloth[2], t + 0.05)])
        scene.line(fold, 0.018, mix(p.paper, p.dark, 0.2), outline=0.4)
    x, y, half = rng.uniform(0.42, 0.58), edge + rng.uniform(0.13, 0.18), rng.uniform(0.25, 0.31)
    jug = rng.random() < 0.5
    if jug:
        _jug(scene, x + rng.choice([-1, 1]) * rng.uniform(0.26, 0.3), y - 0.02)
    for k in rng.permutation(4):  # fruit in the bowl
        _one_fruit(scene, (x + (k - 1.5) * half * 0.5, y - 0.1 - 0.04 * (k in (1, 2))), rng.uniform(0.085, 0.11))
    _one_fruit(scene, (x + rng.uniform(-0.06, 0.06), y - 0.2), rng.uniform(0.085, 0.1))
    scene.fill(
        ellipse((x - 0.06 * scene.light, y + 0.125), (half * 1.05, 0.035)), mix(p.land[2], p.dark, 0.7), outline=0
    )
    rim = (x, y - 0.05)
    bowl = np.concatenate([ellipse(rim, (half, 0.17), 0, 0, np.pi), ellipse(rim, (half, 0.03), 0, np.pi, 2 * np.pi)])
    china = mix(p.accents[rng.integers(1, 3)], p.light, 0.2)
    scene.fill(bowl, mix(china, p.dark, 0.25))
    scene.fill(bowl * (0.7, 0.8) + (0.3 * (x + 0.25 * half * scene.light), 0.2 * rim[1]), china, outline=0)
    scene.line(ellipse(rim, (half, 0.03), 0, 0, np.pi), 0.022, mix(china, p.light, 0.6))
    for side in (-1, 1):
        place = (x + side * rng.uniform(0.28, 0.38), min(y + rng.uniform(0.1, 0.16), 0.88))
        _one_fruit(scene, place, rng.uniform(0.075, 0.1), shadow=True)


def _one_fruit(scene: Scene, place: tuple[float, float], radius: float, shadow: bool = False) -> None:
    p, rng, (x, y) = scene.palette, scene.rng, place
    colour = rng.choice(np.concatenate([p.accents, p.accents, p.foliage[2:]]))
    kind = rng.choice(["apple", "pear", "orange"])
    if shadow:
        cast = ellipse((x - 0.5 * radius * scene.light, y + 0.85 * radius), (1.2 * radius, 0.3 * radius))
        scene.fill(cast, mix(p.land[2], p.dark, 0.7), outline=0)
    if kind == "pear":
        scene.ball((x, y - radius * 0.8), (radius * 0.58, radius * 0.85), colour)
    scene.ball(place, (radius, radius * rng.uniform(0.9, 1.0)), colour)
    top = y - radius * (1.45 if kind == "pear" else 0.8)
    if kind != "orange":
        scene.line(np.array([(x, top), (x + 0.02, top - 0.05)]), 0.014, p.dark)
    if kind == "apple":
        scene.fill(ellipse((x + 0.05, top - 0.02), (0.045, 0.02), -0.5), mix(p.foliage[2], p.dark, 0.2))


def _jug(scene: Scene, x: float, foot: float) -> None:
    p, rng = scene.palette, scene.rng
    height, glaze = rng.uniform(0.36, 0.44), mix(scene.palette.accents[1], scene.palette.dark, 0.3)
    scene.line(ellipse((x + 0.09, foot - 0.55 * height), (0.055, 0.09), 0), 0.022, glaze)
    neck = box(x - 0.035, foot - height, x + 0.035, foot - height * 0.5)
    neck[1:3, 0] += (-0.015, 0.015)
    scene.fill(neck, glaze)
    scene.ball((x, foot - 0.3 * height), (0.105, 0.32 * height), glaze)
    scene.fill(ellipse((x, foot - height), (0.052, 0.018)), mix(glaze, p.dark, 0.5))


def rose(scene: Scene) -> None:
    """One large bloom of nested petals, on a stem with leaves."""
    p, rng = scene.palette, scene.rng
    scene.sky(1.0, clouds=0)
    for _ in range(5):
        cloud = blob(rng, rng.uniform(0, 1, 2), (0.2, 0.16), 0.12)
        scene.fill(cloud, mix(rng.choice(p.sky), p.land[rng.integers(2)], 0.25), outline=0)
    x, y, size = rng.uniform(0.42, 0.58), rng.uniform(0.36, 0.44), rng.uniform(0.27, 0.33)
    green = mix(p.land[2], p.dark, 0.3 if scene.weather != "winter" else 0.55)
    stem = bezier((x, y), (x + rng.uniform(-0.12, 0.12), 0.7), (x + rng.uniform(-0.1, 0.1), 1.05))
    scene.line(stem, 0.035, green)
    for side, along in ((-1, rng.integers(7, 10)), (1, rng.integers(8, 12))):
        _leaf(scene, stem[along], side, green, rng.uniform(0.2, 0.28))
    if rng.random() < 0.5:
        side = rng.choice([-1, 1])
        bud = (x + side * rng.uniform(0.32, 0.38), rng.uniform(0.5, 0.62))
        scene.line(bezier(tuple(stem[9]), (bud[0], 0.8), bud), 0.022, green)
        scene.ball(bud, (0.05, 0.075), p.accents[0])
        scene.fill(ellipse((bud[0], bud[1] + 0.05), (0.04, 0.03)), green)
    _bloom(scene, (x, y), size, p.accents[0])


def _leaf(scene: Scene, base: np.ndarray, side: int, green: np.ndarray, length: float) -> None:
    rng, (x, y) = scene.rng, base
    tip = (x + side * length, y - rng.uniform(0, 0.12))
    upper = bezier((x, y), (x + side * 0.3 * length, y - 0.2), tip)
    lower = bezier((x, y), (x + side * 0.6 * length, y + 0.1), tip)
    tilt = float(np.arctan2(tip[1] - y, tip[0] - x))
    scene.fill(np.concatenate([upper, lower[::-1]]), green, flow=tilt)
    bright = np.concatenate([upper, mix(upper, lower, 0.45)[::-1]])
    scene.fill(bright, mix(green, scene.palette.light, 0.3), flow=tilt, outline=0.5)


def _bloom(scene: Scene, centre: tuple[float, float], size: float, colour: np.ndarray) -> None:
    p, rng, turn = scene.palette, scene.rng, scene.rng.uniform(0, 6)
    rings = ((0.6, 0.52, 5), (0.42, 0.44, 5), (0.25, 0.34, 4), (0.1, 0.24, 3))  # outermost first
    for ring, (reach, breadth, count) in enumerate(rings):
        for k in range(count):
            angle = turn + ring * 0.6 + k * 2 * np.pi / count + rng.normal(0, 0.1)
            outward = np.array([np.cos(angle), np.sin(angle) * 0.92])
            facing = outward @ (scene.light * 0.7, -0.7)
            toward, amount = (p.dark, 0.12 + 0.13 * ring) if facing < 0 else (p.light, 0.12 * (3 - ring) * facing)
            tone = mix(colour, toward, amount)
            place = np.array(centre) + outward * reach * size
            scene.fill(blob(rng, place, (breadth * size, breadth * size), 0.06), tone, flow=angle + np.pi / 2)
            rim = ellipse(place, (breadth * size * 0.9, breadth * size * 0.9), 0, angle - 1.0, angle + 1.0)
            scene.line(rim, 0.02, mix(tone, p.light, 0.45), outline=0)
    spiral = np.linspace(0, 9, 24)
    heart = np.stack([np.cos(spiral + turn), np.sin(spiral + turn)], -1) * (0.2 * size * spiral / 9)[:, None] + centre
    scene.line(heart, 0.016, mix(colour, p.dark, 0.65))


def abstract(scene: Scene) -> None:
    """Discs, bars, triangles and arcs on planes of colour."""
    p, rng = scene.palette, scene.rng
    scene.sky(1.0, clouds=0)
    hues = np.concatenate([p.accents, p.accents, p.accents, p.foliage, [p.land[0], p.water, p.light, p.light]])
    for _ in range(3):
        angle = rng.uniform(0, 2 * np.pi)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        start = 0.5 + across * rng.uniform(-0.1, 0.4)
        plane = start + np.array([-2 * along, 2 * along, 2 * (along + across), 2 * (across - along)])
        scene.fill(plane, mix(rng.choice(p.sky), rng.choice(hues), 0.45), flow=angle, outline=0.6)
    for size in np.linspace(0.26, 0.08, rng.integers(7, 10)):
        place, angle, hue = rng.uniform(0.12, 0.88, 2), rng.uniform(0, np.pi), rng.choice(hues)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        kind = rng.choice(["disc", "rings", "triangle", "bar", "arc", "half"])
        if kind == "bar":
            length, breadth = along * size * 1.8, across * size * 0.25
            corners = np.array([-length - breadth, length - breadth, length + breadth, breadth - length])
            scene.fill(place + corners, hue, flow=angle)
        elif kind == "triangle":
            corners = np.array([angle, angle + 2.1, angle + rng.uniform(3.4, 4.2)])
            scene.fill(place + 1.3 * size * np.stack([np.cos(corners), np.sin(corners)], -1), hue, flow=angle)
        elif kind == "arc":
            scene.line(ellipse(place, (size * 1.3, size * 1.3), angle, 0, np.pi), 0.05, hue)
        elif kind == "half":
            scene.fill(ellipse(place, (size * 1.2, size * 1.2), angle, 0, np.pi), hue, flow=angle)
        else:
            for k in range(3 if kind == "rings" else 1):
                disc = ellipse(place, (size * (1 - 0.3 * k), size * (1 - 0.3 * k)))
                scene.fill(disc, hue if k == 0 else rng.choice(hues), flow=angle)
    for _ in range(rng.integers(2, 5)):
        a, b = rng.uniform(-0.05, 1.05, (2, 2))
        scene.line(np.array([a, b]), 0.024, p.dark)
    for x, y in rng.uniform(0.1, 0.9, (3, 2)):
        scene.fill(ellipse((x, y), (0.028, 0.028)), p.dark)
