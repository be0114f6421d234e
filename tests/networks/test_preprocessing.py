import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sparkwright.errors import InputError
from sparkwright.networks.preprocessing import PRESETS, ImageError, Preprocessing, as_preprocessing

PLAIN = Preprocessing((4, 4), resize="none", scale=1.0)  # RGB values as they are


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def one_colour(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (4, 4), colour)


def gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 256, y % 256, (x + y) % 256], 2).astype(np.uint8))


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (encode(one_colour("RGB", (10, 20, 30))), (10, 20, 30)),
        (encode(one_colour("L", 77)), (77, 77, 77)),
        (encode(one_colour("1", 1)), (255, 255, 255)),
        (encode(one_colour("RGBA", (10, 20, 30, 255))), (10, 20, 30)),
        (encode(one_colour("RGBA", (10, 20, 30, 0))), (255, 255, 255)),
        (encode(one_colour("RGBA", (0, 0, 0, 128))), (127, 127, 127)),
        (encode(one_colour("LA", (40, 255))), (40, 40, 40)),
        (encode(one_colour("P", 0).convert("P")), (0, 0, 0)),
        (encode(one_colour("L", 5), transparency=5), (255, 255, 255)),
        (encode(Image.fromarray(np.full((4, 4), 257 * 99, np.uint16))), (99, 99, 99)),
        (encode(Image.fromarray(np.full((4, 4), 300, np.int32)), "TIFF"), (1, 1, 1)),
        (encode(one_colour("CMYK", (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
        (encode(one_colour("RGB", (10, 20, 30)), "BMP"), (10, 20, 30)),
        (encode(one_colour("RGB", (255, 0, 0)), "GIF"), (255, 0, 0)),
        (encode(one_colour("RGB", (10, 20, 30)), "WEBP", lossless=True), (10, 20, 30)),
    ],
    ids=[
        "rgb", "grey", "1 bit", "opaque alpha", "transparent", "half transparent", "grey alpha", "palette",
        "transparent grey", "16 bit", "32 bit grey within 16", "cmyk", "bmp", "gif", "webp",
    ],
)  # fmt: skip
def test_every_mode_becomes_8_bit_rgb(content: bytes, colour: tuple[int, int, int]) -> None:
    assert PLAIN.apply(content)[:, 1, 1] == pytest.approx(colour, abs=1)


def test_cmyk_jpeg_becomes_rgb() -> None:
    content = encode(one_colour("CMYK", (255, 0, 0, 0)), "JPEG", quality=95)
    assert PLAIN.apply(content)[:, 1, 1] == pytest.approx((0, 255, 255), abs=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((4, 4, 3), np.uint8)
    upright[0, 0], upright[0, 3] = (255, 0, 0), (0, 255, 0)
    # What a camera that is held so stores; EXIF says how to undo it.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(PLAIN.apply(content), upright.transpose(2, 0, 1).astype(np.float32))


def test_grey_network_gets_one_channel() -> None:
    grey = Preprocessing((4, 4), resize="none", channels="grey", scale=1.0, mean=(0.0,), std=(1.0,))
    assert grey.shape == (1, 4, 4)
    assert grey.apply(encode(one_colour("L", 77)))[0, 0, 0] == 77
    assert grey.apply(one_colour("RGB", (255, 0, 0)))[0, 0, 0] == 76  # ITU-R 601-2: 0.299 red


def test_bgr_scale_mean_and_std_are_applied_in_this_order() -> None:
    p = Preprocessing((1, 1), "none", channels="bgr", scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    result = p.apply(Image.new("RGB", (1, 1), (10, 20, 30)))
    assert result[:, 0, 0].tolist() == [(15 - 1) / 2, (10 - 2) / 4, (5 - 3) / 8]


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (256, 256), (300, 257), (225, 1000)])
def test_fused_resize_and_crop_equal_the_two_steps(size: tuple[int, int]) -> None:
    image = gradient(*size)
    short = 256
    width, height = size
    full = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    resized = image.resize(full, Image.Resampling.BILINEAR)
    left, top = round((full[0] - 224) / 2), round((full[1] - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.int16)
    p = Preprocessing((224, 224), short_side=256, scale=1.0)
    assert np.abs(p.apply(image).transpose(1, 2, 0) - expected).max() <= 1


def test_exact_resize_changes_the_aspect() -> None:
    p = Preprocessing((8, 16), resize="exact", scale=1.0)
    assert p.apply(gradient(64, 64)).shape == (3, 8, 16)


def test_large_jpeg_decoded_at_reduced_size_differs_little() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    image = Image.fromarray(noise).resize((2400, 1600), Image.Resampling.BICUBIC)
    content = encode(image, "JPEG", quality=95)
    p = Preprocessing((224, 224), short_side=256, scale=1.0)
    whole = p.apply(Image.open(io.BytesIO(content)).convert("RGB"))
    assert p.decode(content).size == (1200, 800)
    assert np.abs(p.apply(content) - whole).mean() < 1


def test_jpeg_decoded_whole_where_the_preprocessing_says_so() -> None:
    content = encode(gradient(2400, 1600), "JPEG", quality=95)
    p = Preprocessing((224, 224), short_side=256, scale=1.0, reducing_gap=None)
    assert p.decode(content).size == (2400, 1600)
    assert Preprocessing.from_dict(p.to_dict()) == p
    closer = Preprocessing((224, 224), short_side=256, reducing_gap=1)
    assert closer.decode(content).size == (600, 400)


def test_reducing_gap_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="`reducing_gap` must be at least 1, or None"):
        Preprocessing((224, 224), reducing_gap=0.5)


def test_result_is_written_into_the_given_array() -> None:
    batch = np.zeros((2, 3, 4, 4), np.float32)
    result = PLAIN.apply(one_colour("RGB", (1, 2, 3)), out=batch[1])
    assert np.shares_memory(result, batch)
    assert batch[1, :, 0, 0].tolist() == [1, 2, 3]
    assert not batch[0].any()


def test_path_bytes_and_opened_image_give_the_same(tmp_path: Path) -> None:
    content = encode(gradient(4, 4))
    (tmp_path / "ä ö'%.png").write_bytes(content)
    results = [PLAIN.apply(source) for source in (content, tmp_path / "ä ö'%.png", Image.open(io.BytesIO(content)))]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def huge_header() -> bytes:
    """A PNG that says 30,000 x 30,000 in its header; the pixels are missing, so decoding it would fail otherwise."""
    buffer = io.BytesIO()
    PngImagePlugin.putchunk(buffer, b"IHDR", (30000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0]))
    PngImagePlugin.putchunk(buffer, b"IDAT", b"x\x9c")
    return b"\x89PNG\r\n\x1a\n" + buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "empty", "no bytes"),
        (b"this is text, not a picture", "unreadable", "cannot be decoded"),
        (encode(gradient(64, 64), "JPEG")[:700], "unreadable", "cannot be decoded"),
        (encode(gradient(64, 64))[:100], "unreadable", "cannot be decoded"),
        (huge_header(), "too large", "too large|above the limit"),
        (encode(one_colour("RGB", 0).resize((3, 3))), "wrong size", "3 x 3 pixels is smaller than the input, 4 x 4"),
        (encode(one_colour("F", 0.5), "TIFF"), "unsupported", "floating-point"),
        (encode(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), "unsupported", "more than 16 bits"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "huge", "small", "float", "32 bit"],
)
def test_bad_image_gives_its_kind_and_message(content: bytes, kind: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        PLAIN.apply(content)
    assert caught.value.kind == kind


def test_limit_of_pixels_is_checked_before_decoding() -> None:
    with pytest.raises(ImageError, match=r"64 x 64 pixels is above the limit of 4,000") as caught:
        Preprocessing((4, 4), max_pixels=4000).apply(encode(gradient(64, 64)))
    assert caught.value.kind == "too large"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"There is no file .*nowhere\.png"):
        PLAIN.apply(tmp_path / "nowhere.png")


def test_image_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageError("empty", "no bytes")))
    assert (error.kind, str(error)) == ("empty", "no bytes")


@pytest.mark.parametrize("preprocessing", [*PRESETS.values(), PLAIN])
def test_dict_round_trip_is_equal(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": [4, 4], "chanels": "rgb"}, r"no field `chanels`.*Did you mean `channels`\?"),
        ({"channels": "rgb"}, "needs the field `size`"),
        ({"size": [4, 4], "channels": "gray"}, r"`channels` must be one of rgb, bgr, grey; got 'gray'.*`grey`"),
        ({"size": [4]}, r"`size` must be \(height, width\)"),
        ({"size": [4, 4], "mean": [1.0]}, r"`mean` must hold 3 finite number"),
        ({"size": [4, 4], "std": [1.0, 0.0, 1.0]}, "`std` must not hold 0"),
        ({"size": [224, 224], "short_side": 200}, "`short_side` must be at least the crop's larger side, 224"),
    ],
)
def test_wrong_field_is_explained(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing.from_dict(fields)


def test_unknown_preset_is_explained() -> None:
    with pytest.raises(InputError, match=r"no preprocessing 'imagnet'.*Did you mean `imagenet`\?"):
        as_preprocessing("imagnet")
