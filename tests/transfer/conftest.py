"""A finished run on handwritten digits, made once for the tests of this folder."""

from pathlib import Path

import pytest

from sparkwright.data.digits import write_digits
from sparkwright.transfer import TransferResult, transfer


@pytest.fixture(scope="package")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of the digits 5 to 9 in class folders, and one file that is none."""
    folder = tmp_path_factory.mktemp("digits") / "photos of digits"
    write_digits(folder, digits=range(5, 10))
    (folder / "7" / "broken é.png").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="package")
def run(spark: object, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> TransferResult:
    """The main job on `digits`."""
    return transfer(spark, str(digits), "digits_cnn", str(tmp_path_factory.mktemp("runs") / "run"))
