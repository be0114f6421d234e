"""RandAugment: some changes drawn out of fourteen, all of one magnitude (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719).

The changes and the ranges of their magnitudes are those of the paper's code, as torchvision has them too.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["CHANGES", "HIGHEST", "rand_augment"]

HIGHEST = 30
"""The strongest magnitude."""

Change = Callable[[Image.Image, float, int], Image.Image]
"""From a photo (mode RGB or L), a strength (-1 … 1) and the grey to fill with, to the changed photo."""


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float], fill: int) -> Image.Image:
    colour = fill if image.mode == "L" else (fill,) * 3
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=colour)


def _shear_x(image: Image.Image, strength: float, fill: int) -> Image.Image:
    return _affine(image, (1, 0.3 * strength, -0.15 * strength * image.height, 0, 1, 0), fill)


def _shear_y(image: Image.Image, strength: float, fill: int) -> Image.Image:
    return _affine(image, (1, 0, 0, 0.3 * strength, 1, -0.15 * strength * image.width), fill)


def _translate_x(image: Image.Image, strength: float, fill: int) -> Image.Image:
    return _affine(image, (1, 0, round(150 / 331 * strength * image.width), 0, 1, 0), fill)


def _translate_y(image: Image.Image, strength: float, fill: int) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, round(150 / 331 * strength * image.height)), fill)


def _rotate(image: Image.Image, strength: float, fill: int) -> Image.Image:
    cos, sin = math.cos(math.pi / 6 * strength), math.sin(math.pi / 6 * strength)
    x, y = image.width / 2, image.height / 2
    return _affine(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y), fill)


# In the order of the paper. A strength below 0 mirrors the change; where that has no meaning its size counts.
CHANGES: dict[str, Change] = {
    "identity": lambda image, _, __: image,
    "auto_contrast": lambda image, _, __: ImageOps.autocontrast(image),
    "equalize": lambda image, _, __: ImageOps.equalize(image),
    "rotate": _rotate,
    "solarize": lambda image, strength, _: ImageOps.solarize(image, round(256 * (1 - abs(strength)))),
    "color": lambda image, strength, _: ImageEnhance.Color(image).enhance(1 + 0.9 * strength),
    "posterize": lambda image, strength, _: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    "contrast": lambda image, strength, _: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength),
    "brightness": lambda image, strength, _: ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength),
    "sharpness": lambda image, strength, _: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
_ALL = tuple(CHANGES.values())


def rand_augment(image: Image.Image, count: int, magnitude: float, fill: int, rng: np.random.Generator) -> Image.Image:
    """Return a photo after `count` changes, each drawn anew.

    Args:
        image: Of mode RGB or L.
        count: How many changes follow one another.
        magnitude: 0 … `HIGHEST`.
        fill: Grey where a change leaves nothing.
        rng: Draws the changes and their directions.
    """
    for _ in range(count):
        change = _ALL[rng.integers(len(_ALL))]
        image = change(image, magnitude / HIGHEST * rng.choice((-1, 1)), fill)
    return image
