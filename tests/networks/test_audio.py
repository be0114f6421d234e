"""Sounds as a network's input: WAV files, spectrograms, messages."""

import io
import json
import wave
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparkwright.errors import ContentError, InputError
from sparkwright.networks.audio import AudioPreprocessing, read_wav
from sparkwright.networks.preprocessing import as_preprocessing

PREPROCESSING = AudioPreprocessing(sample_rate=8000, bands=20, max_length=200)


def wav(samples, rate=8000, width=2, channels=1):
    """Return a WAV file of samples between -1 and 1."""
    data = np.round(np.asarray(samples) * (2 ** (8 * width - 1) - 1)).astype("<i4")
    raw = (
        (data + 128).astype(np.uint8).tobytes()
        if width == 1
        else data.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((channels, width, rate, 0, "NONE", ""))
        out.writeframes(raw)
    return file.getvalue()


def tone(hertz, rate=8000, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def test_spectrogram_equals_torchs_stft():
    samples = np.random.default_rng(0).normal(size=4000) / 4
    preprocessing = replace(PREPROCESSING, normalise="none")
    window = torch.hann_window(200, dtype=torch.float64)
    spectrum = torch.stft(torch.tensor(samples), 200, 80, window=window, center=False, return_complex=True)
    energy = spectrum.abs().square().T.numpy() @ preprocessing._filters
    found = preprocessing.spectrogram(samples)
    np.testing.assert_allclose(found[: len(energy)], np.log(np.maximum(energy, 1e-6)), atol=1e-5)


def test_a_tone_is_loudest_in_its_band():
    loudest = [PREPROCESSING.read(wav(tone(hertz))).mean(0).argmax() for hertz in (200, 800, 2500)]
    assert loudest == sorted(set(loudest))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_width_are_read(width):
    rate, samples = read_wav(wav(tone(440), width=width))
    assert rate == 8000
    np.testing.assert_allclose(samples, tone(440), atol=2 / 2 ** (8 * width - 1))


def test_channels_become_their_mean():
    _, samples = read_wav(wav(np.stack([tone(440), -tone(440)], 1).ravel(), channels=2))
    np.testing.assert_allclose(samples, 0, atol=1e-4)


def test_other_sample_rates_are_resampled():
    here, there = (PREPROCESSING.read(wav(tone(440, rate), rate)) for rate in (8000, 22050))
    assert abs(len(here) - len(there)) <= 1
    assert np.corrcoef(here[5:40].ravel(), there[5:40].ravel())[0, 1] > 0.99


def test_loudness_makes_no_difference():
    quiet, loud = (PREPROCESSING.spectrogram(factor * tone(440)) for factor in (0.1, 1.0))
    assert np.corrcoef(quiet.ravel(), loud.ravel())[0, 1] > 0.95
    assert abs(float(loud.mean())) < 1e-5


def test_short_sounds_have_one_frame_and_silence_is_finite():
    assert PREPROCESSING.spectrogram(np.zeros(3)).shape == (1, 20)
    assert np.isfinite(PREPROCESSING.spectrogram(np.zeros(800))).all()


def test_apply_fills_up_with_nan():
    x = PREPROCESSING.apply(wav(tone(440)))
    frames = len(PREPROCESSING.read(wav(tone(440))))
    assert x.shape == (200, 20)
    assert np.isfinite(x[:frames]).all()
    assert np.isnan(x[frames:]).all()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "empty", "The sound has no bytes"),
        (wav([]), "empty", "The row has no samples"),
        (b"RIFF....", "unreadable", "cut short|no WAV file"),
        (b"no sound at all, but some text", "unreadable", "no WAV file of whole numbers"),
        (wav(np.zeros(100_000)), "too long", "more than 200 frames. Raise `max_length`"),
        ("/no/such/file.wav", "unreadable", "The file cannot be read"),
    ],
)
def test_sound_that_cannot_be_used_says_why(content, kind, message):
    with pytest.raises(ContentError, match=message) as caught:
        PREPROCESSING.read(content)
    assert caught.value.kind == kind


def test_formats_without_whole_numbers_are_unsupported():
    floats = bytearray(wav(tone(440)))
    floats[20:22] = (3).to_bytes(2, "little")  # IEEE float
    with pytest.raises(ContentError, match=r"PCM.*unknown format") as caught:
        PREPROCESSING.read(bytes(floats))
    assert caught.value.kind == "unsupported"


def test_longer_sounds_are_cut_if_asked():
    assert replace(PREPROCESSING, longer="cut").read(wav(np.zeros(100_000))).shape == (200, 20)


def test_a_preprocessing_of_sound_survives_json():
    assert as_preprocessing(json.loads(json.dumps(PREPROCESSING.to_dict()))) == PREPROCESSING


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bands": 0}, "`sample_rate`, `bands` and `floor` must be positive"),
        ({"high_hz": 5000.0}, "must rise between 0 and half the sample rate, 4000 Hz; got 20.0 and 5000.0"),
        ({"normalise": "row"}, "`normalise` must be one of clip, none; got 'row'"),
        ({"window_ms": 0.1}, "a frame must have two samples at least"),
        ({"bands": 100}, "bands lie between the frequencies of a frame of 25.0 ms"),
        ({"max_length": True}, "`max_length` must be a whole number"),
    ],
)
def test_options_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(PREPROCESSING, **change)
