"""P15, of weights: a published file is read as tensors; code that it holds does not run."""

import os
from pathlib import Path

import pytest
import torch

from sparkwright.errors import ModelError
from sparkwright.networks.weights import read_weights


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_code_in_a_weights_file_does_not_run(tmp_path):
    file, marker = tmp_path / "net.pth", tmp_path / "the code ran"
    torch.save({"a": torch.zeros(1), "b": Attack(marker)}, file)
    with pytest.raises(ModelError, match="cannot be read without running code"):
        read_weights(file)
    assert not marker.exists()
