"""From a sound to a network's input: one implementation for training and serving.

An `AudioPreprocessing` is plain data that a network carries and a model saves. It needs numpy and the standard library
alone. What it does, in this order: read a WAV file, mean of its channels, bring it to the sample rate, short-time
Fourier transform, energies in bands of the mel scale, logarithm, mean 0 and deviation 1 over the clip (if asked).

Example:
    >>> preprocessing = AudioPreprocessing(sample_rate=8000, bands=40, max_length=200)
    >>> preprocessing.spectrogram(np.sin(np.arange(8000) / 5)).shape
    (98, 40)
"""

import dataclasses
import io
import math
import os
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sparkwright.errors import ContentError, InputError, did_you_mean
from sparkwright.networks.ragged import (
    Longer,
    SequencePreprocessing,
    check_limits,
    known_fields,
    settle_length,
)

__all__ = ["AudioPreprocessing", "read_wav"]

_NORMALISATIONS = ("clip", "none")
_MOST_SECONDS = 3600.0  # a longer file is refused by its header, before it is decoded


@dataclass(frozen=True)
class AudioPreprocessing(SequencePreprocessing):
    """How a sound becomes a network's input: a log-mel spectrogram, a step a frame.

    Args:
        sample_rate: In hertz; sounds of another rate are brought to it.
        bands: Of the mel scale.
        window_ms: Length of a frame in milliseconds, under a Hann window.
        hop_ms: From one frame's beginning to the next one's, in milliseconds.
        low_hz: Where the lowest band begins.
        high_hz: Where the highest band ends; by default at half the sample rate.
        floor: Energies below it count as it, so that silence has a logarithm.
        normalise: ``clip``: mean 0 and deviation 1 over all of a clip's values, so that loudness does not matter; or
            ``none``.
        max_length: Most frames of a sound.
        longer: What becomes of a sound with more: ``error``, its row cannot be used; or ``cut``, the rest is left out.

    Raises:
        InputError: An argument is out of its range.
    """

    sample_rate: int = 16_000
    bands: int = 64
    window_ms: float = 25.0
    hop_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float | None = None
    floor: float = 1e-6
    normalise: Literal["clip", "none"] = "clip"
    max_length: int = 1000
    longer: Longer = "error"

    def __post_init__(self) -> None:
        what = "AudioPreprocessing"
        check_limits(what, self.max_length, self.longer)
        if self.high_hz is None:
            object.__setattr__(self, "high_hz", self.sample_rate / 2)
        if self.normalise not in _NORMALISATIONS:
            raise InputError(
                f"{what}: `normalise` must be one of {', '.join(_NORMALISATIONS)}; got {self.normalise!r}."
                + did_you_mean(str(self.normalise), _NORMALISATIONS)
            )
        if self.sample_rate < 1 or self.bands < 1 or not self.floor > 0:
            raise InputError(
                f"{what}: `sample_rate`, `bands` and `floor` must be positive; got {self.sample_rate!r}, "
                f"{self.bands!r}, {self.floor!r}."
            )
        if self._window < 2 or self._hop < 1:
            raise InputError(
                f"{what}: a frame must have two samples at least and the next one begin one later; {self.window_ms} ms "
                f"and {self.hop_ms} ms at {self.sample_rate} Hz are {self._window} and {self._hop} samples."
            )
        high_hz = self.high_hz or 0.0
        if not 0 <= self.low_hz < high_hz <= self.sample_rate / 2:
            raise InputError(
                f"{what}: `low_hz` and `high_hz` must rise between 0 and half the sample rate, "
                f"{self.sample_rate / 2:g} Hz; got {self.low_hz!r} and {self.high_hz!r}."
            )
        empty = int((self._filters.sum(0) == 0).sum())
        if empty:
            raise InputError(
                f"{what}: {empty} of {self.bands} bands lie between the frequencies of a frame of {self.window_ms} ms. "
                "Take fewer bands or a longer window."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Frames of the longest input, and bands."""
        return (self.max_length, self.bands)

    def read(self, content: bytes | str | os.PathLike[str]) -> NDArray[np.float32]:
        """Return the spectrogram of one sound: a WAV file's bytes, or its path.

        Raises:
            ContentError: The file is empty, unreadable or of an unsupported kind; or it has more than `max_length`
                frames and may not be cut.
        """
        if isinstance(content, str | os.PathLike):
            try:
                content = Path(content).read_bytes()
            except OSError as error:
                raise ContentError("unreadable", f"The file cannot be read: {error}") from error
        rate, samples = read_wav(content)
        return self.spectrogram(samples, rate)

    def spectrogram(self, samples: NDArray[Any], rate: int | None = None) -> NDArray[np.float32]:
        """Return the log-mel spectrogram of samples between -1 and 1, float32 of shape (frames, bands).

        The last frame is filled up with silence.

        Args:
            samples: Of shape (samples,).
            rate: In hertz, if it is not `sample_rate`.

        Raises:
            ContentError: There are no samples, or too many; or they are not finite.
        """
        settle_length(len(samples), len(samples), "error", "samples")
        samples = samples.astype(np.float64)
        if not np.isfinite(samples).all():
            raise ContentError("not finite", "The sound holds NaN or infinity.")
        rate = rate or self.sample_rate
        # What would be cut away is never computed; two seconds more, since resampling looks ahead.
        most = (self.max_length + 1) * self._hop / self.sample_rate + 2
        samples = _resampled(samples[: math.ceil(most * rate)], rate, self.sample_rate)
        count = 1 + max(0, math.ceil((len(samples) - self._window) / self._hop))
        count = settle_length(count, self.max_length, self.longer, "frames")
        samples = np.pad(samples, (0, max(0, (count - 1) * self._hop + self._window - len(samples))))
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._window)[:: self._hop][:count]
        energy = np.abs(np.fft.rfft(frames * self._hann, axis=1)) ** 2
        values = np.log(np.maximum(energy @ self._filters, self.floor))
        if self.normalise == "clip":
            values -= values.mean()
            values /= max(float(values.std()), 1e-3)  # silence stays 0
        result: NDArray[np.float32] = values.astype(np.float32)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {"kind": "audio", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s result.

        Raises:
            InputError: A field is unknown or out of its range.
        """
        given = known_fields(cls, data)
        return cls(**given)

    @property
    def _window(self) -> int:
        return round(self.window_ms * self.sample_rate / 1000)

    @property
    def _hop(self) -> int:
        return round(self.hop_ms * self.sample_rate / 1000)

    @cached_property
    def _hann(self) -> NDArray[np.float64]:
        # Periodic, as torch.hann_window is.
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._window) / self._window)

    @cached_property
    def _filters(self) -> NDArray[np.float64]:
        """Triangles of the mel scale, of shape (frequencies, bands), as torchaudio's and HTK's: 2595 log(1 + f/700)."""
        low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (self.low_hz, self.high_hz or 0.0))
        corners = 700 * (10 ** (np.linspace(low, high, self.bands + 2) / 2595) - 1)
        frequencies = np.fft.rfftfreq(self._window, 1 / self.sample_rate)[:, None]
        rising = (frequencies - corners[:-2]) / np.diff(corners[:-1])
        falling = (corners[2:] - frequencies) / np.diff(corners[1:])
        filters: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
        return filters


def read_wav(content: bytes) -> tuple[int, NDArray[np.float64]]:
    """Return the sample rate of a WAV file, and its samples between -1 and 1: the mean of its channels.

    Raises:
        ContentError: The file is empty, unreadable, longer than an hour, or not of whole numbers (PCM).
    """
    if not content:
        raise ContentError("empty", "The sound has no bytes.")
    try:
        with wave.open(io.BytesIO(content)) as file:
            rate, channels, width, frames = (
                file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes()
            )  # fmt: skip
            if rate < 1 or frames / rate > _MOST_SECONDS:
                raise ContentError("too long", f"A sound of {frames:,} samples at {rate:,} Hz is longer than an hour.")
            data = file.readframes(frames)
    except wave.Error as error:
        kind = "unsupported" if "format" in str(error) else "unreadable"
        raise ContentError(kind, f"The sound is no WAV file of whole numbers (PCM): {error}.") from error
    except EOFError as error:
        raise ContentError("unreadable", "The WAV file was cut short.") from error
    data = data[: len(data) // (width * channels) * width * channels]  # a file that was cut short
    if width == 1:
        samples = (np.frombuffer(data, np.uint8).astype(np.float64) - 128) / 128
    elif width == 3:  # no type of numpy's has three bytes
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = wide.view("<i4")[:, 0] / 2.0**31
    else:
        samples = np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)
    return rate, samples.reshape(-1, channels).mean(1)


def _resampled(samples: NDArray[np.float64], rate: int, wanted: int) -> NDArray[np.float64]:
    """Bring samples to another rate by cutting or filling up their spectrum; exact for what both rates can hold."""
    if rate == wanted:
        return samples
    count = max(1, round(len(samples) * wanted / rate))
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, np.complex128)
    both = min(len(kept), len(spectrum))
    kept[:both] = spectrum[:both]
    result: NDArray[np.float64] = np.fft.irfft(kept, count) * (count / len(samples))
    return result
