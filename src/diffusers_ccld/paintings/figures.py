"""Subjects that look at the viewer: a portrait, a cat."""

import numpy as np

from .palettes import BLACK, WHITE, mix
from .scene import Scene, bezier, blob, box, ellipse


def portrait(scene: Scene) -> None:
    """Head and shoulders, slightly turned, in front of a wall."""
    p, rng = scene.palette, scene.rng
    scene.sky(1.0, clouds=0)
    x, y = rng.uniform(0.44, 0.56), rng.uniform(0.4, 0.46)
    axis = np.array((x, 0.0))
    wide, tall = rng.uniform(0.15, 0.175), rng.uniform(0.205, 0.235)
    scene.fill(blob(rng, (x + 0.1, y), (0.4, 0.4), 0.08), mix(p.sky[1], p.land[0], 0.35), outline=0)
    tones = np.array([(0.96, 0.8, 0.69), (0.9, 0.7, 0.55), (0.74, 0.52, 0.38), (0.55, 0.36, 0.26)], np.float32)
    skin = mix(mix(rng.choice(tones), p.glow, 0.3), p.light, 0.12)
    shade = mix(skin * 0.68, p.dark, 0.15)
    locks = np.array([(0.12, 0.1, 0.1), (0.36, 0.2, 0.1), (0.75, 0.55, 0.25), (0.5, 0.18, 0.08)], np.float32)
    hair = mix(rng.choice(locks), p.dark, 0.4)
    coat, turn = rng.choice(np.concatenate([p.accents, p.land[2:]])), rng.choice([-1, 1]) * rng.uniform(0.1, 0.35)
    long_hair, hat, beard = rng.random() < 0.5, rng.random() < 0.35, rng.random() < 0.25
    if long_hair:
        scene.fill(blob(rng, (x, y + 0.09), (wide * 1.5, tall * 1.45), 0.04), hair, flow=np.pi / 2)
        beard = False
    slope = bezier((0.45, 1.05), (0.42, 0.77), (0.1, 0.74))
    shoulders = np.concatenate([slope * (-1, 1), slope[::-1]]) + axis
    scene.fill(shoulders, mix(coat, p.dark, 0.15), flow=1.2)
    lit = np.concatenate([slope * (0.94 * scene.light, 1), [(0, 1.05)]]) + axis
    scene.fill(lit, mix(coat, p.light, 0.15), flow=-1.2, outline=0)
    neck = np.array([(-0.07, y + 0.1), (0.07, y + 0.1), (0.09, 0.78), (0, 0.84), (-0.09, 0.78)]) + axis
    scene.fill(neck, shade, flow=1.5)
    for side in (-1, 1):
        collar = np.array([(0.08 * side, 0.72), (0.2 * side, 0.78), (0, 0.95)]) + axis
        scene.fill(collar, mix(coat, p.light, 0.5), outline=0.8)
    if not long_hair:
        scene.fill(blob(rng, (x, y - 0.05), (wide * 1.16, tall * 0.98), 0.03), hair, flow=np.pi / 2)
    scene.fill(ellipse((x, y + 0.015), (wide, tall)), skin, flow=1.4)
    dim = ellipse((x, y + 0.015), (wide, tall), 0, np.pi / 2, 3 * np.pi / 2)
    terminator = bezier((x, y + 0.015 - tall), (x - 0.7 * wide, y), (x, y + 0.015 + tall))
    cheek = np.concatenate([dim, terminator]) - axis
    scene.fill(cheek * (scene.light, 1) + axis, shade, flow=1.4, outline=0)
    if beard:
        jaw = ellipse((x, y + 0.1), (wide * 0.97, tall * 0.68), 0, 0, np.pi)
        cheeks = bezier((x - wide, y + 0.06), (x, y + 0.17), (x + wide, y + 0.06))
        scene.fill(np.concatenate([jaw, cheeks]), hair, flow=1.5)
    _features(scene, x + turn * wide, y, wide, skin, beard)
    fringe = ellipse((x, y + 0.01), (wide * 1.08, tall * 1.1), 0, np.pi * 1.02, np.pi * 1.98)
    parting = bezier((x + wide, y - 0.05), (x + turn * 0.9, y - tall * rng.uniform(0.6, 0.95)), (x - wide, y - 0.05))
    scene.fill(np.concatenate([fringe, parting]), hair, flow=0.4 * scene.light)
    if hat:
        felt = mix(rng.choice(p.accents), p.dark, 0.3)
        scene.fill(ellipse((x, y - 0.13), (wide * 1.02, 0.2), 0, np.pi, 2 * np.pi), felt)
        scene.fill(ellipse((x, y - 0.13), (wide * 1.75, 0.042), 0.08 * scene.light), mix(felt, p.dark, 0.3))
        scene.line(bezier((x - wide, y - 0.16), (x, y - 0.14), (x + wide, y - 0.16)), 0.028, mix(felt, p.light, 0.6))


def _features(scene: Scene, x: float, y: float, wide: float, skin: np.ndarray, beard: bool) -> None:
    p, rng = scene.palette, scene.rng
    line = mix(p.dark, BLACK, 0.4)
    for side in (-1, 1):
        eye = (x + side * 0.42 * wide, y)
        scene.fill(ellipse(eye, (0.038, 0.021)), mix(p.light, WHITE, 0.5), outline=0.5)
        scene.fill(ellipse((eye[0] + 0.006 * scene.light, y), (0.018, 0.02)), line, outline=1)
        brow = bezier((eye[0] - 0.045, y - 0.042), (eye[0], y - 0.065), (eye[0] + 0.045, y - 0.042))
        scene.line(brow, 0.014, line)
    nose = np.array([(x, y - 0.01), (x - 0.025 * scene.light, y + 0.085), (x + 0.012, y + 0.088)])
    scene.line(nose, 0.014, mix(skin, p.dark, 0.6))
    red, width = np.array([0.72, 0.16, 0.18], np.float32), rng.uniform(0.045, 0.06)
    lips = mix(red, mix(skin, p.accents[0], 0.5), 0.35)
    mouth = [bezier((-side * width, 0.135), (0, 0.145 - side * 0.03), (side * width, 0.135)) for side in (1, -1)]
    scene.fill(np.concatenate(mouth) + np.array((x, y)), mix(lips, p.light, 0.1 if beard else 0), outline=0.8)


def cat(scene: Scene) -> None:
    """A sitting cat that looks at the viewer, its tail around its feet."""
    p, rng = scene.palette, scene.rng
    floor = rng.uniform(0.66, 0.76)
    scene.sky(floor, clouds=0)
    scene.fill(box(-0.05, floor, 1.05, 1.05), p.land[1])
    x, side, size = rng.uniform(0.42, 0.58), rng.choice([-1, 1]), rng.uniform(0.92, 1.08)
    scene.fill(ellipse((x, 0.9), (0.42, 0.1)), mix(p.accents[1], p.land[2], 0.35))
    scene.fill(ellipse((x, 0.9), (0.34, 0.07)), mix(p.accents[1], p.light, 0.3), outline=0.5)
    tabby, grey = mix(p.accents[0], p.dark, 0.25), mix(p.accents[2], p.dark, 0.35)
    fur = rng.choice(np.stack([p.dark, mix(p.light, p.paper, 0.2), tabby, grey]))
    dark = fur.mean() < 0.6
    other, bib = mix(fur, p.light, 0.5) if dark else mix(fur, p.dark, 0.45), mix(fur, p.light, 0.6)
    tail = [(0.15, 0.86), (0.42, 0.92), (0.36, 0.6), (rng.uniform(0.25, 0.4), 0.55)]
    scene.line(bezier(*tail) * (side, 1) + (x, 0), 0.055, mix(fur, p.dark, 0.25))
    flank = bezier((0, -0.36), (0.12, -0.3), (0.13, -0.12), (0.22, 0.02), (0.16, 0.14))
    body = np.concatenate([flank, flank[::-1] * (-1, 1)])
    scene.fill(body * size + (x, 0.78), fur, flow=np.pi / 2)
    scene.fill(blob(rng, (x, 0.68), (0.07 * size, 0.12), 0.05), bib, flow=np.pi / 2, outline=0.3)
    for paw in (-1, 1):
        scene.fill(ellipse((x + paw * 0.065, 0.9), (0.058, 0.035)), other)
    head, wide, tall = (x + side * rng.uniform(0, 0.05), 0.36 - 0.02 * (size - 1)), 0.165 * size, 0.135 * size
    for ear in (-1, 1):
        flap = np.array([(ear * 0.15 * size, -0.03), (ear * 0.15 * size, -0.21 * size), (ear * 0.02, -0.1)]) + head
        scene.fill(flap, fur)
        scene.fill(mix(flap, flap.mean(0), 0.42), mix(p.accents[0], p.light, 0.35), outline=0)
    scene.fill(ellipse(head, (wide, tall)), fur)
    for k in (-1, 0, 1):
        stripe = np.array([(k * 0.05, -0.95 * tall), (k * 0.04, -0.55 * tall)]) + head
        scene.line(stripe, 0.02, other, outline=0.5)
    iris = mix(rng.choice(np.stack([p.accents[1], p.light, mix(p.land[2], p.light, 0.6)])), WHITE, 0.15)
    for eye in (-1, 1):
        place = (head[0] + eye * 0.075 * size, head[1])
        scene.fill(ellipse(place, (0.04, 0.034), eye * -0.3), iris)
        scene.fill(ellipse(place, (0.013, 0.03)), BLACK, outline=1)
    scene.fill(ellipse((head[0], head[1] + 0.07), (0.065, 0.042)), mix(fur, p.light, 0.55), outline=0.3)
    scene.fill(np.array([(-0.024, 0.04), (0.024, 0.04), (0, 0.068)]) + head, mix(p.accents[0], p.dark, 0.3))
    for whisker in (-1, 1):
        for dy in (-0.01, 0.03):
            hair = np.array([(whisker * 0.06, 0.07), (whisker * 0.2, 0.06 + dy)]) + head
            scene.line(hair, 0.008, p.light if dark else p.dark, outline=0.6)
