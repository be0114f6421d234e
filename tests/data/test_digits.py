import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from sparkwright.data.digits import SCALE, write_digits
from sparkwright.errors import InputError


def test_the_digits_are_real_grey_pictures_in_class_folders(tmp_path):
    assert write_digits(tmp_path) == 1797
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [str(digit) for digit in range(10)]
    bunch = load_digits()
    for number in (0, 42, 1796):
        with Image.open(tmp_path / str(bunch.target[number]) / f"{number:04d}.png") as image:
            assert (image.mode, image.size) == ("L", (8 * SCALE, 8 * SCALE))
            grey = np.asarray(image)[::SCALE, ::SCALE]
        assert np.array_equal(np.round(grey * (16 / 255)), bunch.images[number])


def test_some_digits_are_written_and_twice_the_same(tmp_path):
    assert write_digits(tmp_path / "one", [3, 7]) == write_digits(tmp_path / "two", (7, 3)) == 362
    one = {file.relative_to(tmp_path / "one"): file.read_bytes() for file in (tmp_path / "one").rglob("*.png")}
    two = {file.relative_to(tmp_path / "two"): file.read_bytes() for file in (tmp_path / "two").rglob("*.png")}
    assert one == two
    assert len(one) == 362


def test_a_digit_beyond_nine_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"some of 0 to 9, not \[3, 10\]"):
        write_digits(tmp_path, [3, 10])
