"""Changes of photos: what is drawn, how often, within which bounds, and that nothing else decides it."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sparkwright.errors import InputError
from sparkwright.networks.augmentation import PRESETS, Augmentation, as_augmentation
from sparkwright.networks.mlp import mlp
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.networks.rand_augment import CHANGES, HIGHEST, rand_augment

SIDE = 64
EVERYTHING = Augmentation(
    crop=(0.3, 1), flip_horizontal=0.5, flip_vertical=0.5, quarter_turns=True, rotate=20, brightness=0.3, contrast=0.3,
    saturation=0.3, hue=0.1, cutout=0.3, rand_augment=(2, 9), mixup=0.2,
)  # fmt: skip


def ramps() -> NDArray[np.uint8]:
    """A photo whose red tells the column and whose green tells the row: four values a pixel."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([4 * x, 4 * y, 0 * x], 2).astype(np.uint8)


def noise(channels: int = 3, height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, channels), np.uint8)


def draws(augmentation: Augmentation, photo: NDArray[np.uint8], count: int = 1000) -> list[NDArray[np.uint8]]:
    return [augmentation.apply(photo, np.random.default_rng((7, number))) for number in range(count)]


def test_nothing_is_changed_by_default() -> None:
    photo = noise()
    assert np.array_equal(Augmentation().apply(photo, np.random.default_rng(0)), photo)
    assert not Augmentation(mixup=0.2).changes_photos
    assert EVERYTHING.changes_photos


def test_the_generator_alone_decides() -> None:
    photo, kept = noise(), noise()
    first, again, other = (EVERYTHING.apply(photo, np.random.default_rng((3, n))) for n in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(photo, kept)  # the photo is kept for the next epoch


@pytest.mark.parametrize("shape", [(3, 48, 80), (1, 33, 33), (1, 1, 1)])
def test_every_shape_is_kept(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    every = Augmentation(
        crop=(0.1, 1), rotate=45, brightness=1, contrast=1, cutout=0.5, rand_augment=(3, HIGHEST), flip_vertical=0.5
    )
    for changed in draws(every, noise(channels, height, width), 30):
        assert changed.shape == (height, width, channels)
        assert changed.dtype == np.uint8


def test_flips_come_as_often_as_asked() -> None:
    photo = ramps()
    found = draws(Augmentation(flip_horizontal=0.5, flip_vertical=0.2), photo)
    assert np.mean([one[0, 0, 0] > one[0, -1, 0] for one in found]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([one[0, 0, 1] > one[-1, 0, 1] for one in found]) == pytest.approx(0.2, abs=0.04)
    assert all(np.array_equal(np.sort(one, axis=None), np.sort(photo, axis=None)) for one in found[:20])


def test_quarter_turns_are_equally_probable_and_lose_nothing() -> None:
    photo = noise()
    turned = [np.rot90(photo, turn).tobytes() for turn in range(4)]
    count = np.bincount([turned.index(one.tobytes()) for one in draws(Augmentation(quarter_turns=True), photo)])
    assert count == pytest.approx([250] * 4, abs=50)


def test_crops_keep_the_share_and_the_aspect_that_are_asked_for() -> None:
    found = draws(Augmentation(crop=(0.25, 0.81), aspect=(0.8, 1.25)), ramps())
    boxes = np.array([seen(one) for one in found])
    across, down = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    area, aspect = across * down, across / down
    assert (area.min(), area.max()) == pytest.approx((0.25, 0.81), abs=0.03)
    assert area.mean() == pytest.approx(0.53, abs=0.02)
    assert np.quantile(aspect, [0, 0.5, 1]) == pytest.approx([0.8, 1, 1.25], abs=0.05)
    assert boxes.min() > -0.02
    assert boxes.max() < 1.02
    assert (boxes[:, 0].min(), boxes[:, 1].max()) == pytest.approx((0, 1), abs=0.02)  # no side is spared


def seen(photo: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of what a crop of `ramps` shows, as shares of its side."""
    found = []
    for values in (photo[:, :, 0].mean(0), photo[:, :, 1].mean(1)):
        slope, first = np.polyfit(np.arange(8, SIDE - 8), values[8:-8], 1)
        found += [(first - slope / 2 + 2) / (4 * SIDE), (first + slope * (SIDE - 0.5) + 2) / (4 * SIDE)]
    return tuple(found)  # type: ignore[return-value]


def test_rotations_are_uniform_within_their_bounds_and_filled_with_grey() -> None:
    photo = ramps()
    angles = []
    for one in draws(Augmentation(rotate=30, fill=9), photo):
        middle = one[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4, 0].astype(float)
        angles.append(np.degrees(np.arctan2(*(-np.mean(np.diff(middle, axis=axis)) for axis in (0, 1)))))
    sizes = (np.array(angles) + 180) % 360
    sizes = np.where(sizes > 180, sizes - 360, sizes)
    assert np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([-30, -15, 0, 15, 30], abs=2.5)
    turned = Augmentation(rotate=30, fill=9).apply(photo, np.random.default_rng(1))
    assert (turned[0, 0] == 9).all() or (turned[0, -1] == 9).all()


def test_rotation_by_nothing_changes_no_pixel() -> None:
    photo = noise()
    barely = Augmentation(rotate=1e-9).apply(photo, np.random.default_rng(0))
    assert np.abs(barely.astype(int) - photo).max() <= 1  # Pillow cuts fractions off


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_multiplies(channels: int) -> None:
    photo = np.full((8, 8, channels), 100, np.uint8)
    values = [int(one[0, 0, 0]) for one in draws(Augmentation(brightness=0.4), photo)]
    assert np.quantile(values, [0, 0.5, 1]) == pytest.approx([60, 100, 140], abs=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_moves_all_from_the_mean_grey(channels: int) -> None:
    photo = np.full((8, 8, channels), 80, np.uint8)
    photo[:4] = 120
    for one in draws(Augmentation(contrast=0.5), photo, 200):
        assert one.mean() == pytest.approx(100, abs=0.6)
        assert 20 <= int(one[0, 0, 0]) - int(one[-1, 0, 0]) <= 60


def test_saturation_and_hue_keep_the_grey_of_a_pixel() -> None:
    photo = np.broadcast_to(np.array([120, 100, 90], np.uint8), (8, 8, 3))
    luma = photo[0, 0] @ [0.299, 0.587, 0.114]
    found = np.array([one[0, 0] for one in draws(Augmentation(saturation=0.9, hue=0.5), photo)])
    assert found @ [0.299, 0.587, 0.114] == pytest.approx(luma, abs=2)  # two changes, each rounded
    assert (found.argmax(1)[:, None] == [0, 1, 2]).any(0).all()  # each colour has been the strongest
    grey = draws(Augmentation(saturation=0.9, hue=0.5), np.full((8, 8, 3), 77, np.uint8), 20)
    assert all((one == 77).all() for one in grey)


def test_cutout_covers_a_square_anywhere() -> None:
    found = np.array([(one[:, :, 0] == 255) for one in draws(Augmentation(cutout=0.25, fill=255), ramps())])
    covered = found.sum((1, 2))
    assert covered.max() == (SIDE // 4) ** 2
    assert covered.min() >= (SIDE // 8) ** 2  # the centre lies in the photo
    assert found.any(0).all()


def test_every_change_of_rand_augment_comes_and_grows_with_the_magnitude() -> None:
    photo = Image.fromarray(np.concatenate([ramps()[:, :32], noise()[:, 32:] // 3 + 60], 1))
    for name, change in CHANGES.items():
        by_strength = [
            np.abs(np.asarray(change(photo, s, 0), float) - np.asarray(photo, float)).mean() for s in (0, 0.3, 1)
        ]
        if name not in ("identity", "auto_contrast", "equalize"):  # these have no magnitude
            assert by_strength[0] <= 0.01, name
            assert by_strength[1] < by_strength[2], name
        assert change(photo, -1.0, 0).size == photo.size
        assert change(photo.convert("L"), 1.0, 0).mode == "L"
    kinds = {rand_augment(photo, 1, 15, 0, np.random.default_rng(n)).tobytes() for n in range(300)}
    assert len(kinds) >= 20  # fourteen, most of them in two directions


def test_mixup_pairs_the_rows_of_a_batch() -> None:
    mixup = Augmentation(mixup=0.4)
    found = [mixup.mixing(16, np.random.default_rng((1, step))) for step in range(1000)]
    shares = np.array([share for share, _ in found])
    assert all(sorted(partner) == list(range(16)) for _, partner in found)
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(0.25 / 1.8, abs=0.015)  # of Beta(a, a): 1 / (4 (2a + 1))


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING, *PRESETS.values()])
def test_to_dict_and_back_through_json(augmentation: Augmentation) -> None:
    assert as_augmentation(json.loads(json.dumps(augmentation.to_dict()))) == augmentation
    preprocessing = Preprocessing((32, 32), augmentation=augmentation)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flip_horizontal": 2}, "Augmentation: `flip_horizontal` must lie between 0 and 1; got 2."),
        ({"hue": 0.7}, "`hue` must lie between 0 and 0.5; got 0.7."),
        ({"crop": (0.9, 0.2)}, "`crop` must be the least and most share of the area"),
        ({"crop": 0.5}, "`crop` must be two numbers; got 0.5."),
        ({"aspect": (2, 3)}, "`aspect` must hold a factor up to 1 and one from 1 on"),
        ({"rand_augment": (0, 5)}, "`rand_augment` must be how many changes"),
        ({"rand_augment": (2, 31)}, "magnitude (0 to 30); got (2, 31)"),
        ({"quarter_turns": 1}, "`quarter_turns` must be true or false"),
        ({"flip_horizontl": 0.5}, "Augmentation has no field `flip_horizontl`"),
    ],
)
def test_what_is_out_of_range_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        as_augmentation(given)
    assert message in str(caught.value)


def test_an_unknown_preset_is_named_with_the_closest() -> None:
    with pytest.raises(InputError, match=r"There is no augmentation 'photo'; the presets are .* Did you mean `photos`"):
        as_augmentation("photo")


def test_what_the_rows_do_not_allow_is_refused() -> None:
    with pytest.raises(InputError, match=r"`hue` changes colours, and the network takes grey photos. Leave it out"):
        Preprocessing((8, 8), channels="grey", mean=(0,), std=(1,), augmentation=Augmentation(hue=0.1))
    with pytest.raises(InputError, match="`quarter_turns` needs a square input; the network's is 8 x 9"):
        Preprocessing((8, 9), augmentation=Augmentation(quarter_turns=True))
    with pytest.raises(InputError, match=r"network `mlp` does not read photos: it has no preprocessing. Leave the"):
        mlp(4, 2).with_augmentation("photos")


def test_scoring_and_the_features_key_pass_augmentation_by() -> None:
    from sparkwright.networks.catalogue import load_network

    network = load_network("digits_cnn")
    augmented = network.with_augmentation("glyphs")
    assert network.preprocessing is not None
    assert augmented.preprocessing is not None
    assert augmented.preprocessing.augmentation == PRESETS["glyphs"]
    assert augmented.preprocessing.plain == network.preprocessing
    assert augmented.fingerprint() == network.fingerprint()
    photo = Image.fromarray(noise())
    assert np.array_equal(augmented.preprocessing.apply(photo), network.preprocessing.apply(photo))


def test_crop_and_normalise_are_the_two_halves_of_apply() -> None:
    photo = Image.fromarray(noise(3, 90, 70))
    for preprocessing in (
        Preprocessing((48, 48), channels="bgr", mean=(0.1, 0.2, 0.3)),
        Preprocessing((48, 40), channels="grey", mean=(0.1,), std=(2,)),
    ):
        pixels = preprocessing.crop(photo)
        assert pixels.shape == (*preprocessing.size, preprocessing.shape[0])
        made = preprocessing.normalise(pixels, np.empty(preprocessing.shape, np.float32))
        assert np.array_equal(made, preprocessing.apply(photo))
