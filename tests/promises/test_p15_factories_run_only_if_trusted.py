"""P15: a model that names a function does not run it, unless the user has said that it may."""

import json
from pathlib import Path

import pytest

from sparkwright.errors import ModelError
from sparkwright.models import Model
from sparkwright.networks import factory
from sparkwright.networks.mlp import mlp


@pytest.fixture
def altered(tmp_path: Path) -> tuple[Path, Path]:
    """A model whose manifest was made to call a function, and the file that this function would make."""
    folder, made = tmp_path / "model", tmp_path / "made"
    Model(None, mlp(3, 2), "classification", ("a", "b")).save(str(folder))
    manifest = json.loads((folder / "model.json").read_text())
    options = {"factory": "os:mkdir", "arguments": {"path": str(made)}, "inputs": [3]}
    manifest["head"]["parts"] = [{"build": "factory", "options": options, "layer": None, "child": ""}]
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder, made


def test_a_function_that_a_model_names_is_not_called(altered: tuple[Path, Path]) -> None:
    folder, made = altered
    with pytest.raises(ModelError, match=r"built by `os:mkdir`, a function that is not part of the model"):
        Model.load(str(folder))
    assert not made.exists()


def test_it_is_called_where_the_user_trusts_it(altered: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = altered
    monkeypatch.setattr(factory, "_trusted", {"os:mkdir"})
    with pytest.raises(ValueError, match=r"`os:mkdir` must give a torch\.nn\.Module; it gave a NoneType"):
        Model.load(str(folder))
    assert made.exists()
