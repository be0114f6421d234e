"""What photos go through in training, so that a network sees each one a little different at every epoch.

An `Augmentation` is plain data, a part of a network's `Preprocessing`; scoring passes it by. It acts on the 8 bit
pixels that the preprocessing has cropped, in this order: flips and quarter turns (no pixel changes its value), crop
and rotation (one interpolation), RandAugment, colours, cutout. Mixup comes last, on whole batches. What is drawn comes
from the caller's generator alone: the same photo and the same generator give the same bytes. Needs Pillow and numpy.

Example:
    >>> photo = np.zeros((224, 224, 3), np.uint8)
    >>> PRESETS["photos"].apply(photo, np.random.default_rng(0)).shape
    (224, 224, 3)
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparkwright.errors import InputError, did_you_mean
from sparkwright.networks.rand_augment import HIGHEST, rand_augment

__all__ = ["PRESETS", "Augmentation", "as_augmentation"]

# Field → least and most, as the messages say them.
_RANGES: dict[str, tuple[float, float]] = {
    "flip_horizontal": (0, 1),
    "flip_vertical": (0, 1),
    "rotate": (0, 180),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "hue": (0, 0.5),
    "cutout": (0, 1),
    "mixup": (0, 100),
    "fill": (0, 255),
}
_OF_COLOUR = ("saturation", "hue")  # a grey photo has neither

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601
_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])  # hue is an angle in its last two rows
_RGB = np.linalg.inv(_YIQ)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a photo; all are off by default, see `PRESETS`.

    Args:
        crop: Least and most share of the photo's area that a random crop keeps; it is then resized to the whole
            (Szegedy et al. 2015).
        aspect: Least and most factor by which the crop's aspect may differ from the photo's.
        flip_horizontal: Probability of left and right changing places.
        flip_vertical: Probability of top and bottom changing places.
        quarter_turns: Whether to turn by 0, 90, 180 or 270 degrees, each as probable.
        rotate: Degrees of a rotation to either side, at most.
        brightness: Factors between ``1 - brightness`` and ``1 + brightness``.
        contrast: Likewise the distance of all pixels from the photo's mean grey.
        saturation: Likewise the distance from each pixel's grey.
        hue: Turn of the colours, at most, as a share of the circle; at most 0.5.
        cutout: Side of a square that is covered, as a share of the shorter side; its centre lies anywhere in the photo
            (DeVries and Taylor 2017).
        rand_augment: How many changes RandAugment draws, and their magnitude, 0 … 30 (Cubuk et al. 2020).
        mixup: Photos of a batch are blended by pairs, and so are their losses, with a share of Beta(mixup, mixup)
            (Zhang et al. 2018); 0 is none.
        fill: Grey, 0 … 255, where a rotation, a shear or cutout leaves nothing.

    Raises:
        InputError: An argument is out of its range.
    """

    crop: tuple[float, float] | None = None
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    quarter_turns: bool = False
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    cutout: float = 0.0
    rand_augment: tuple[int, float] | None = None
    mixup: float = 0.0
    fill: int = 127

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise InputError(f"Augmentation: `{name}` must lie between {least} and {most}; got {value!r}.")
        for name in ("crop", "aspect", "rand_augment"):  # lists from JSON
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _pair(name, value))
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise InputError(
                f"Augmentation: `crop` must be the least and most share of the area, above 0 and at most 1; "
                f"got {self.crop!r}."
            )
        if not 0 < self.aspect[0] <= 1 <= self.aspect[1]:
            raise InputError(
                f"Augmentation: `aspect` must hold a factor up to 1 and one from 1 on; got {self.aspect!r}."
            )
        if not isinstance(self.quarter_turns, bool) or not isinstance(self.fill, int):
            raise InputError(
                "Augmentation: `quarter_turns` must be true or false and `fill` a whole number; got "
                f"{self.quarter_turns!r} and {self.fill!r}."
            )
        if self.rand_augment is not None:
            count, magnitude = self.rand_augment
            if not isinstance(count, int) or count < 1 or not 0 <= magnitude <= HIGHEST:
                raise InputError(
                    "Augmentation: `rand_augment` must be how many changes (at least 1) and their magnitude (0 to "
                    f"{HIGHEST}); got {self.rand_augment!r}."
                )

    @property
    def changes_photos(self) -> bool:
        """Whether `apply` can give anything but what it is given."""
        return dataclasses.replace(self, mixup=0.0, fill=127, aspect=(3 / 4, 4 / 3)) != Augmentation()

    def check(self, shape: tuple[int, int, int]) -> None:
        """Refuse what photos of a shape (channels, height, width) do not allow.

        Raises:
            InputError: Colours of grey photos are to change, or photos that are not square to be turned by 90 degrees.
        """
        channels, height, width = shape
        if channels == 1 and (given := [name for name in _OF_COLOUR if getattr(self, name)]):
            raise InputError(
                f"Augmentation: `{given[0]}` changes colours, and the network takes grey photos. Leave it out; "
                "`brightness` and `contrast` are allowed."
            )
        if self.quarter_turns and height != width:
            raise InputError(
                f"Augmentation: `quarter_turns` needs a square input; the network's is {height} x {width} (height x "
                "width). Leave it out; flips and `rotate` are allowed."
            )

    def apply(self, photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return a changed copy of a photo, of the same shape: height x width x 1 or 3 channels."""
        image = self._framed(photo, rng)
        if self.rand_augment is not None:
            image = rand_augment(image, *self.rand_augment, self.fill, rng)
        if self.brightness or self.contrast or self.saturation or self.hue:
            image = self._coloured(image, rng)
        changed = np.array(image, np.uint8).reshape(photo.shape)
        if self.cutout:
            self._cover(changed, rng)
        return changed

    def mixing(self, rows: int, rng: np.random.Generator) -> tuple[float, NDArray[np.int64]]:
        """Return mixup's share of each row of a batch, and the row that the rest comes from."""
        return float(rng.beta(self.mixup, self.mixup)), rng.permutation(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not the defaults, as JSON holds them."""
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s result.

        Raises:
            InputError: A field is unknown or out of its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise InputError(f"Augmentation has no field `{name}`; it has {known}." + did_you_mean(name, known))
        return cls(**data)

    def _framed(self, photo: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
        """Flip, turn, crop and rotate."""
        pixels = photo[:, :, 0] if photo.shape[2] == 1 else photo
        if rng.random() < self.flip_horizontal:
            pixels = pixels[:, ::-1]
        if rng.random() < self.flip_vertical:
            pixels = pixels[::-1]
        if self.quarter_turns:
            pixels = np.rot90(pixels, int(rng.integers(4)))
        image = Image.fromarray(np.ascontiguousarray(pixels))
        if self.crop is None and not self.rotate:
            return image
        box = self._crop_box(image.width, image.height, rng)
        if not self.rotate:
            return image.resize(image.size, Image.Resampling.BILINEAR, box=box)
        # The crop is no larger than the result, so that nothing must be averaged: interpolation is enough.
        inverse = _rotated(box, image.size, rng.uniform(-self.rotate, self.rotate))
        fill = self.fill if image.mode == "L" else (self.fill,) * 3
        return image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=fill)

    def _crop_box(self, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """Draw left, top, right and bottom of the crop: area and logarithm of the aspect are uniform."""
        if self.crop is None:
            return 0, 0, width, height
        area = rng.uniform(*self.crop)
        # More aspect than this would leave the photo at its sides.
        narrowest, widest = max(self.aspect[0], area), min(self.aspect[1], 1 / area)
        aspect = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
        across, down = min(math.sqrt(area * aspect), 1) * width, min(math.sqrt(area / aspect), 1) * height
        left, top = rng.random() * (width - across), rng.random() * (height - down)
        return left, top, min(left + across, width), min(top + down, height)

    def _coloured(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Change hue, saturation, contrast and brightness."""
        bright, contrast, saturation = (
            1 + rng.uniform(-most, most) for most in (self.brightness, self.contrast, self.saturation)
        )
        if self.hue:
            # A turn in the plane of the colours: the grey of each pixel stays as it is.
            angle = 2 * math.pi * rng.uniform(-self.hue, self.hue)
            cos, sin = math.cos(angle), math.sin(angle)
            matrix = _RGB @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ
            image = image.convert("RGB", tuple(np.column_stack([matrix, np.zeros(3)]).ravel().tolist()))
        grey = image.convert("L")
        if self.saturation:
            image = Image.blend(grey.convert(image.mode), image, saturation)
        mean = float(np.dot(grey.histogram(), np.arange(256))) / (image.width * image.height)
        gain, offset = bright * contrast, bright * (1 - contrast) * mean
        table = [min(max(round(gain * value + offset), 0), 255) for value in range(256)]
        return image.point(table * len(image.getbands()))

    def _cover(self, photo: NDArray[np.uint8], rng: np.random.Generator) -> None:
        height, width = photo.shape[:2]
        side = round(self.cutout * min(height, width))
        top, left = (int(rng.integers(length)) - side // 2 for length in (height, width))
        photo[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = self.fill


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(v, int | float) for v in value):
        raise InputError(f"Augmentation: `{name}` must be two numbers; got {value!r}.")
    return value[0], value[1]


def _rotated(
    box: tuple[float, float, float, float], size: tuple[int, int], degrees: float
) -> tuple[float, float, float, float, float, float]:
    """Return the affine map from a place in the result to the one in a photo whose `box` is turned about its centre."""
    (left, top, right, bottom), (width, height) = box, size
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    step_x, step_y = (right - left) / width, (bottom - top) / height
    a, b, d, e = cos * step_x, -sin * step_y, sin * step_x, cos * step_y
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    return a, b, centre_x - (a * width + b * height) / 2, d, e, centre_y - (d * width + e * height) / 2


PRESETS: dict[str, Augmentation] = {
    # Things that have a top: what nearly all networks of photos are trained with.
    "photos": Augmentation(crop=(0.35, 1.0), flip_horizontal=0.5, brightness=0.2, contrast=0.2, saturation=0.2),
    # Seen from above, or through a microscope: no side is up.
    "aerial": Augmentation(
        crop=(0.5, 1.0), flip_horizontal=0.5, quarter_turns=True, brightness=0.15, contrast=0.15, saturation=0.15
    ),
    # Scanned digits and letters: nothing may be mirrored.
    "glyphs": Augmentation(crop=(0.8, 1.0), aspect=(0.9, 1.1), rotate=10.0, fill=0),
}


def as_augmentation(value: Augmentation | Mapping[str, Any] | str) -> Augmentation:
    """Return an `Augmentation` from itself, its dict, or the name of a preset.

    Raises:
        InputError: No such preset, or fields out of their range.
    """
    if isinstance(value, Augmentation):
        return value
    if isinstance(value, str):
        if value not in PRESETS:
            raise InputError(
                f"There is no augmentation {value!r}; the presets are {', '.join(PRESETS)}, or give an Augmentation."
                + did_you_mean(value, PRESETS)
            )
        return PRESETS[value]
    return Augmentation.from_dict(value)
