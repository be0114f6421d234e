"""What the finished run that all tests share has given."""

import json
from typing import Any

import pytest

from sparkwright.models import Model
from sparkwright.transfer import TransferResult


@pytest.fixture(scope="package")
def run(transferred: Any) -> TransferResult:
    """The main job on `digits`."""
    metrics = json.loads((transferred.run / "metrics.json").read_text())
    return TransferResult(f"file://{transferred.run}", Model.load(str(transferred.run / "model")), metrics)
