import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from sparkwright.errors import InputError, ModelError
from sparkwright.models import Model
from sparkwright.networks import factory
from sparkwright.networks.factory import from_factory
from sparkwright.networks.mlp import mlp
from sparkwright.networks.network import from_spec
from sparkwright.networks.preprocessing import Preprocessing

MODULE = """
import torch
from collections import OrderedDict
from torch import nn


class Gated(nn.Module):
    # Two ways through it, a tensor that is in no state, and a shape that depends on the input.
    def __init__(self, width, outputs=3):
        super().__init__()
        self.left = nn.Linear(width, 8)
        self.norm = nn.BatchNorm1d(8)
        self.right = nn.Linear(width, 8)
        self.output = nn.Linear(8, outputs)
        self.register_buffer("steps", torch.arange(8.0), persistent=False)

    def forward(self, x):
        return self.output(torch.relu(self.norm(self.left(x))) * torch.sigmoid(self.right(x)) + self.steps)


class Both(nn.Module):
    # Several inputs by name, several outputs by name.
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.output = nn.Linear(2 * 4 + 3, 2)

    def forward(self, image, numbers):
        seen = torch.relu(self.conv(image)).flatten(1)
        return {"logits": self.output(torch.cat([seen, numbers], 1)), "maps": seen}


def stack(width):
    return nn.Sequential(OrderedDict(first=nn.Linear(width, 5), act=nn.ReLU(), output=nn.Linear(5, 2)))


def text():
    return "a network"


def silent():
    return nn.ReLU()


LIMIT = 3
"""


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(factory, "_trusted", set())


def gated(seed: int = 0):
    return from_factory("made_nets:Gated", (6,), {"width": 6}, seed=seed)


def rows(width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, width)).astype(np.float32)


def test_any_module_becomes_a_network_of_one_layer() -> None:
    network = gated()
    assert network.layers == ("module",)
    assert (network.input_shape, network.output_shape) == ((6,), (3,))
    with torch.no_grad():
        expected = network.module.get_submodule("module")(torch.from_numpy(rows()))
    assert np.array_equal(network.forward(rows()), expected.numpy())
    assert np.array_equal(gated().weights()["module.left.weight"], network.weights()["module.left.weight"])
    assert not np.array_equal(gated(seed=1).weights()["module.left.weight"], network.weights()["module.left.weight"])


def test_a_sequential_keeps_its_layers() -> None:
    network = from_factory("made_nets:stack", [6], {"width": 6})
    assert network.layers == ("first", "act", "output")
    assert network.cut("act").output_shape == (5,)
    assert network.cut("act").with_head(mlp(5, 4)).output_shape == (4,)


def test_a_network_is_rebuilt_from_the_factorys_name() -> None:
    network = gated(seed=7).freeze("module.norm")
    spec = json.loads(json.dumps(network.to_spec()))
    again = from_spec(spec, network.weights())
    assert again.fingerprint() == network.fingerprint()
    assert again.frozen == network.frozen
    assert np.array_equal(again.forward(rows()), network.forward(rows()))


def test_a_model_holds_the_name_and_is_built_only_if_that_is_trusted(tmp_path: Path) -> None:
    network = gated()
    Model(None, network, "classification", ("a", "b", "c")).save(str(tmp_path / "model"))
    factory._trusted.clear()
    with pytest.raises(ModelError, match=r"built by `made_nets:Gated`.*sparkwright\.trust\('made_nets:Gated'\)"):
        Model.load(str(tmp_path / "model"))
    factory.trust("made_nets:Gated")
    loaded = Model.load(str(tmp_path / "model"))
    assert np.array_equal(loaded.full.forward(rows()), network.forward(rows()))


@pytest.mark.parametrize("name", ["made_nets", "made_nets:Gated", "other, made_nets"])
def test_the_environment_says_whom_to_trust(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, weights = gated().to_spec(), gated().weights()
    factory._trusted.clear()
    monkeypatch.setenv("SPARKWRIGHT_FACTORIES", name)
    assert from_spec(spec, weights).output_shape == (3,)


def test_onnx_gives_what_the_module_gives() -> None:
    network = gated()
    session = ort.InferenceSession(network.to_onnx(), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(["output"], {"input": rows()})[0], network.forward(rows()), atol=1e-5)


def test_several_inputs_are_one_vector_and_one_output_is_chosen() -> None:
    shapes = {"image": (1, 4, 4), "numbers": (3,)}
    network = from_factory("made_nets:Both", shapes, output="logits")
    assert (network.input_shape, network.output_shape) == ((19,), (2,))
    assert factory.inputs_of(network) == shapes
    x = torch.from_numpy(rows(19))
    module = network.module.get_submodule("module.inner")
    with torch.no_grad():
        expected = module(image=x[:, :16].reshape(4, 1, 4, 4), numbers=x[:, 16:])["logits"]
    assert np.array_equal(network.forward(rows(19)), expected.numpy())
    again = from_spec(json.loads(json.dumps(network.to_spec())), network.weights())
    assert np.array_equal(again.forward(rows(19)), expected.numpy())
    assert factory.inputs_of(again) == shapes
    assert again.fingerprint() == network.fingerprint()
    assert factory.inputs_of(gated()) == {}
    session = ort.InferenceSession(network.to_onnx(), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(["output"], {"input": rows(19)})[0], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("output", "wrapped"),
    [(1, lambda x: (None, x)), ("logits", lambda x: {"logits": x}), ("logits", lambda x: SimpleNamespace(logits=x))],
)
def test_the_output_is_a_key_an_attribute_or_an_index(output: str | int, wrapped: Callable[[object], object]) -> None:
    class Several(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return wrapped(x)

    x = torch.from_numpy(rows())
    assert torch.equal(factory.Adapted(Several(), {}, output)(x), x)


def test_an_output_that_must_be_chosen_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"image=\(1, 4, 4\), numbers=\(3,\): TypeError: it gives a dict.*`output`"):
        from_factory("made_nets:Both", {"image": (1, 4, 4), "numbers": (3,)})


def test_a_photo_as_one_of_several_inputs_is_told_the_way_by_features() -> None:
    shapes = {"image": (1, 4, 4), "numbers": (3,)}
    with pytest.raises(
        InputError, match=r"`made_nets:Both` has 2: image, numbers\. .* make features of the photos first"
    ):
        from_factory("made_nets:Both", shapes, output="logits", preprocessing=Preprocessing((4, 4)))


def test_the_summary_shows_what_an_input_meets() -> None:
    summary = gated().freeze("module.left").summary()
    assert [row.name for row in summary.rows] == ["module.left", "module.norm", "module.right", "module.output"]
    assert summary.parameters == 2 * (6 * 8 + 8) + 2 * 8 + 8 * 3 + 3
    assert summary.frozen_parameters == 6 * 8 + 8


def test_modules_inside_are_frozen_in_the_order_of_their_registration() -> None:
    network = gated()
    frozen = network.freeze("module.norm")
    assert frozen.frozen == {"module.left", "module.norm"}
    assert frozen.unfreeze("module.norm").frozen == {"module.left"}
    assert network.freeze().unfreeze("module.right").frozen == {"module.left", "module.norm"}
    assert network.freeze().unfreeze("module").frozen == frozenset()
    module = frozen.to_module().train()
    assert not module.get_submodule("module.norm").training
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == [
        "module.left.weight",
        "module.left.bias",
        "module.norm.weight",
        "module.norm.bias",
    ]
    assert isinstance(module.get_submodule("module"), nn.Module)


def test_a_function_in_place_of_its_name_and_arguments_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(InputError, match=r"must be named as `package\.module:function`; got <function gated.*pickle"):
        from_factory(gated, (6,))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"arguments of the factory `made_nets:Gated` travel.*torch\.float32"):
        from_factory("made_nets:Gated", (6,), {"dtype": torch.float32})
    with pytest.raises(InputError, match=r"got \{'sizes': array"):
        from_factory("made_nets:Gated", (6,), {"sizes": np.ones(2)})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("made_nets", {}, r"named as `package\.module:function`; got 'made_nets'"),
        ("no_such_nets:Gated", {}, r"`no_such_nets:Gated` cannot be imported: ModuleNotFoundError.*addArtifact"),
        ("made_nets:Gatde", {}, r"has no `Gatde`\. Did you mean `Gated`\?"),
        ("made_nets:LIMIT", {}, r"must be a function or a class; it is a int"),
        ("made_nets:Gated", {"widht": 6}, r"`made_nets:Gated` failed with \(widht=6\): TypeError: .*widht"),
        ("made_nets:text", {}, r"must give a torch\.nn\.Module; it gave a str"),
        ("made_nets:silent", {}, r"has no parameters, so there is nothing to train"),
        ("made_nets:Gated", {"width": 7}, r"does not take inputs of shape \(6,\): RuntimeError: mat1 and mat2"),
    ],
)
def test_factories_that_cannot_be_used_are_explained(name: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_factory(name, (6,), arguments)
