"""From an image's bytes to a network's input: one implementation for training and serving.

A `Preprocessing` is plain data that a network carries and a model saves. It needs Pillow and numpy alone. What it does,
in this order: decode to 8 bit RGB (or grey), turn as EXIF says, resize, crop the centre, (in training alone: augment),
order the channels, ``(x * scale - mean) / std``.

Example:
    >>> from PIL import Image
    >>> PRESETS["imagenet"].apply(Image.new("RGB", (640, 480))).shape
    (3, 224, 224)
"""

import dataclasses
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sparkwright.errors import ContentError, InputError, did_you_mean
from sparkwright.networks.audio import AudioPreprocessing
from sparkwright.networks.augmentation import Augmentation, as_augmentation
from sparkwright.networks.series import SeriesPreprocessing
from sparkwright.networks.text import TextPreprocessing

__all__ = ["PRESETS", "AnyPreprocessing", "ImageError", "Preprocessing", "as_preprocessing"]

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_CHANNELS = {"rgb": 3, "bgr": 3, "grey": 1}
_RESIZES = ("short", "exact", "none")
_ORIENTATION = 0x0112  # EXIF tag


class ImageError(ContentError):
    """One image that cannot be used.

    `kind` groups such errors: empty, unreadable, too large, unsupported, wrong size.
    """


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input.

    Args:
        size: Height and width of the input, in pixels.
        resize: ``short`` makes the short side `short_side` long and keeps the aspect; ``exact`` makes the image `size`
            and changes the aspect; ``none`` leaves it: of a larger image all but the centre is lost, and a smaller one
            is an error. The centre is cropped to `size` afterwards.
        short_side: For ``short``: the length in pixels, at least the larger of `size`; by default that.
        interpolation: ``bilinear``, ``bicubic`` (both antialiased: a pixel averages all that it covers) or ``nearest``.
        channels: ``rgb``, ``bgr`` or ``grey`` (ITU-R 601-2 luma).
        scale: What the values 0 … 255 are multiplied by first.
        mean: Subtracted after `scale`; one value a channel.
        std: Divided by after `mean`; one value a channel.
        max_pixels: Larger images are an error, found in their header before anything is decoded.
        reducing_gap: A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, several times as fast, but to at least
            this many times what the resize needs (at least 1; Pillow's term). At 2 the decoder's own averaging hides
            behind the resize's. None decodes every photo whole.
        augmentation: What photos go through in training, after the crop; an `Augmentation`, its dict, or the name of a
            preset. Scoring passes it by.

    Raises:
        InputError: An argument is out of its range.
    """

    size: tuple[int, int]
    resize: Literal["short", "exact", "none"] = "short"
    short_side: int | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    channels: Literal["rgb", "bgr", "grey"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    max_pixels: int = 178_000_000
    reducing_gap: float | None = 2.0
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        for name, known in (("resize", _RESIZES), ("interpolation", _INTERPOLATIONS), ("channels", _CHANNELS)):
            value = getattr(self, name)
            if value not in known:
                raise InputError(
                    f"Preprocessing: `{name}` must be one of {', '.join(known)}; got {value!r}."
                    + did_you_mean(str(value), known)
                )
        for name in ("size", "mean", "std"):  # lists from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.size) != 2 or not all(isinstance(n, int) and n > 0 for n in self.size):
            raise InputError(f"Preprocessing: `size` must be (height, width) in pixels; got {self.size!r}.")
        if self.resize == "short" and self.short_side is None:
            object.__setattr__(self, "short_side", max(self.size))
        if self.resize == "short" and self.short_side is not None and self.short_side < max(self.size):
            raise InputError(
                f"Preprocessing: `short_side` must be at least the crop's larger side, {max(self.size)}; "
                f"got {self.short_side}."
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != _CHANNELS[self.channels] or not all(math.isfinite(v) for v in values):
                raise InputError(
                    f"Preprocessing: `{name}` must hold {_CHANNELS[self.channels]} finite number(s) for channels "
                    f"{self.channels!r}; got {values!r}."
                )
        if not all(self.std) or not math.isfinite(self.scale) or self.max_pixels < 1:
            raise InputError(
                "Preprocessing: `std` must not hold 0, `scale` must be finite and `max_pixels` positive; "
                f"got std={self.std!r}, scale={self.scale!r}, max_pixels={self.max_pixels!r}."
            )
        if self.reducing_gap is not None and not self.reducing_gap >= 1:
            raise InputError(
                f"Preprocessing: `reducing_gap` must be at least 1, or None to decode whole; got {self.reducing_gap!r}."
            )
        if self.augmentation is not None:
            object.__setattr__(self, "augmentation", as_augmentation(self.augmentation))
            self.augmentation.check(self.shape)

    @property
    def plain(self) -> Self:
        """The same without augmentation: what scoring does, and what features depend on."""
        return dataclasses.replace(self, augmentation=None)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the result."""
        return (_CHANNELS[self.channels], *self.size)

    def apply(
        self, content: bytes | Image.Image | str | os.PathLike[str], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Decode and preprocess one image.

        Runs anywhere; the costly parts release Python's lock, so that threads decode in parallel.

        Args:
            content: The file's bytes, an opened image, or a path.
            out: Where to write the result, float32 of `shape`; by default a new array.

        Returns:
            float32, channels x height x width.

        Raises:
            ImageError: The image is empty, unreadable, too large, of an unsupported kind, or (without resize) smaller
                than `size`.
        """
        return self.fit(self.decode(content), np.empty(self.shape, np.float32) if out is None else out)

    def fit(self, image: Image.Image, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resize, crop and scale what `decode` returned; the second half of `apply`.

        Raises:
            ImageError: The image is smaller than `size`, without resize.
        """
        return self.normalise(np.asarray(self._crop(image)), out)

    def crop(self, content: bytes | Image.Image | str | os.PathLike[str]) -> NDArray[np.uint8]:
        """Decode, resize and crop: all of `apply` that comes before `normalise`.

        Returns:
            uint8, height x width x channels (red, green, blue, or one).

        Raises:
            ImageError: As `apply`.
        """
        return self.cut(self.decode(content))

    def cut(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop what `decode` returned; the second half of `crop`.

        Raises:
            ImageError: The image is smaller than `size`, without resize.
        """
        pixels: NDArray[np.uint8] = np.asarray(self._crop(image))
        return pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]

    def loses_edges(self, image: Image.Image) -> bool:
        """Whether an image that `decode` returned is larger than the input and nothing resizes it."""
        return self.resize == "none" and image.size != self.size[::-1]

    def normalise(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Order the channels of cropped pixels and scale them.

        Args:
            pixels: Height x width, x channels unless there is one.
            out: Where to write the result, float32 of `shape`; may be a view of any layout.
        """
        for channel, (factor, offset) in enumerate(self._affine):
            source = pixels if pixels.ndim == 2 else pixels[:, :, 2 - channel if self.channels == "bgr" else channel]
            np.multiply(source, factor, out=out[channel])
            out[channel] += offset
        return out

    def decode(self, content: bytes | Image.Image | str | os.PathLike[str]) -> Image.Image:
        """Decode to an upright image of mode RGB, or L for grey channels; the first half of `apply`."""
        grey = self.channels == "grey"
        try:
            image = _open(content)
            if image.width * image.height > self.max_pixels:
                raise ImageError(
                    "too large",
                    f"An image of {image.width} x {image.height} pixels is above the limit of {self.max_pixels:,} "
                    "(`max_pixels` of the preprocessing).",
                )
            if self.reducing_gap is not None and self.resize != "none" and image.format == "JPEG":
                image.draft(None, self._draft_size(image.width, image.height, self.reducing_gap))
            image.load()
            return _to_mode(_upright(image), "L" if grey else "RGB")
        except ImageError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError("too large", f"The image is too large: {error}") from error
        except MemoryError as error:
            raise ImageError("too large", "The image does not fit into memory.") from error
        except FileNotFoundError as error:
            raise ImageError("unreadable", f"There is no file {error.filename}.") from error
        except UnidentifiedImageError as error:  # its own message holds an address: no two would be equal
            raise ImageError("unreadable", "The image cannot be decoded: it is of no known format.") from error
        except Exception as error:  # Pillow's plugins raise almost anything on damaged files
            raise ImageError("unreadable", f"The image cannot be decoded: {error or type(error).__name__}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them; without `augmentation` if there is none."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        augmentation = fields.pop("augmentation")
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        return found | ({"augmentation": augmentation.to_dict()} if augmentation else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s result.

        Raises:
            InputError: A field is unknown, missing, or out of its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise InputError(f"Preprocessing has no field `{name}`; it has {known}." + did_you_mean(name, known))
        if "size" not in data:
            raise InputError("Preprocessing needs the field `size`: [height, width] in pixels.")
        return cls(**data)

    @cached_property
    def _affine(self) -> list[tuple[np.float32, np.float32]]:
        """Factor and offset of each channel: ``(x * scale - mean) / std`` in one multiplication and one addition."""
        return [
            (np.float32(self.scale / std), np.float32(-mean / std))
            for mean, std in zip(self.mean, self.std, strict=True)
        ]

    def _draft_size(self, width: int, height: int, gap: float) -> tuple[int, int]:
        """Smallest size that the JPEG decoder may reduce the image to."""
        if self.resize == "short":
            ratio = (self.short_side or 1) / min(width, height)
            return math.ceil(width * ratio * gap), math.ceil(height * ratio * gap)
        side = math.ceil(max(self.size) * gap)  # EXIF may turn the image
        return side, side

    def _crop(self, image: Image.Image) -> Image.Image:
        """Resize and crop in one pass: pixels outside the crop are never computed."""
        height, width = self.size
        if self.resize == "none":
            if image.width < width or image.height < height:
                raise ImageError(
                    "wrong size",
                    f"An image of {image.width} x {image.height} pixels is smaller than the input, {width} x {height}, "
                    "and the preprocessing does not resize.",
                )
            left, top = _centre(image.width, width), _centre(image.height, height)
            whole = (left, top) == (0, 0) and image.size == (width, height)
            return image if whole else image.crop((left, top, left + width, top + height))
        filter_ = _INTERPOLATIONS[self.interpolation]
        if self.resize == "exact":
            return image.resize((width, height), filter_)
        # The lengths after the resize, as torchvision rounds them; the crop's box in the source's coordinates.
        short = self.short_side or 1
        if image.width <= image.height:
            full = (short, int(short * image.height / image.width))
        else:
            full = (int(short * image.width / image.height), short)
        step_x, step_y = image.width / full[0], image.height / full[1]
        left, top = _centre(full[0], width), _centre(full[1], height)
        box = (left * step_x, top * step_y, (left + width) * step_x, (top + height) * step_y)
        box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
        return image.resize((width, height), filter_, box=box)


def _centre(length: int, crop: int) -> int:
    return round((length - crop) / 2)


def _open(content: bytes | Image.Image | str | os.PathLike[str]) -> Image.Image:
    if isinstance(content, Image.Image):
        return content
    if isinstance(content, str | os.PathLike):
        content = Path(content).read_bytes()
    if not content:
        raise ImageError("empty", "The image has no bytes.")
    return Image.open(io.BytesIO(content))


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation says; reading EXIF is costly, so only where there may be one."""
    if image.format == "JPEG" and "exif" not in image.info:
        return image
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _to_mode(image: Image.Image, mode: Literal["RGB", "L"]) -> Image.Image:
    """Bring any mode to 8 bit RGB or L; transparent parts become white, 16 bit are scaled to 8."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ImageError("unsupported", "Greyscale images with more than 16 bits a pixel are not supported.")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError("unsupported", "Images of floating-point values are not supported: their range is unknown.")
    elif "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBA", "RGBa"):
        if image.mode in ("La", "RGBa"):  # premultiplied; these convert to their plain mode only
            image = image.convert(image.mode.upper())
        layers = image.convert("RGBA")
        image = Image.new("RGB", image.size, (255, 255, 255))
        image.paste(layers, mask=layers.getchannel("A"))
    return image if image.mode == mode else image.convert(mode)


PRESETS: dict[str, Preprocessing] = {
    # torchvision's networks: https://docs.pytorch.org/vision/stable/models.html
    "imagenet": Preprocessing((224, 224), short_side=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    # TensorFlow's and Keras's MobileNets and Inceptions: -1 … 1
    "inception": Preprocessing((224, 224), short_side=256, scale=1 / 127.5, mean=(1.0, 1.0, 1.0)),
    # Caffe's networks: BGR minus ImageNet's mean colour
    "caffe": Preprocessing((227, 227), short_side=256, channels="bgr", scale=1.0, mean=(104.0, 117.0, 123.0)),
}


AnyPreprocessing = Preprocessing | TextPreprocessing | AudioPreprocessing | SeriesPreprocessing
"""What a network may carry: how images, texts, sounds or series become its input."""

_KINDS: dict[str, type[TextPreprocessing | AudioPreprocessing | SeriesPreprocessing]] = {
    "text": TextPreprocessing,
    "audio": AudioPreprocessing,
    "series": SeriesPreprocessing,
}  # images' have no kind: they were the first


def as_preprocessing(value: AnyPreprocessing | Mapping[str, Any] | str) -> AnyPreprocessing:
    """Return a preprocessing from itself, its dict, or the name of a preset.

    Raises:
        InputError: No such preset, or fields out of their range.
    """
    if isinstance(value, AnyPreprocessing):
        return value
    if isinstance(value, str):
        if value not in PRESETS:
            raise InputError(
                f"There is no preprocessing {value!r}; the presets are {', '.join(PRESETS)}, or give a Preprocessing."
                + did_you_mean(value, PRESETS)
            )
        return PRESETS[value]
    if "kind" not in value:
        return Preprocessing.from_dict(value)
    if value["kind"] not in _KINDS:
        raise InputError(
            f"A preprocessing's `kind` must be one of {', '.join(_KINDS)}, or left out for images; got "
            f"{value['kind']!r}. A newer version may have written it."
        )
    sequence: AnyPreprocessing = _KINDS[value["kind"]].from_dict(value)
    return sequence
