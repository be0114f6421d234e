"""A finished run, and photos that its model can label."""

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="package")
def photos(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two of the digits in class folders."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("5", "6"):
        shutil.copytree(digits / name, folder / name)
    return folder


@pytest.fixture
def done(transferred: Any) -> Path:
    """A finished run's folder."""
    return transferred.run
