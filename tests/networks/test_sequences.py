"""Networks of sequences: what lies behind a sequence's end changes nothing, in torch and in ONNX Runtime."""

import numpy as np
import pytest
import torch

from sparkwright import Model, load_network
from sparkwright.errors import ContentError, InputError
from sparkwright.networks.audio import AudioPreprocessing
from sparkwright.networks.joined import export_layers
from sparkwright.networks.network import from_spec
from sparkwright.networks.ragged import pad, trim
from sparkwright.networks.sequences import Recurrent, Steps
from sparkwright.networks.text import TextPreprocessing
from sparkwright.networks.torch_network import Taps, TorchNetwork
from sparkwright.scoring.forward.memory import activation_bytes
from sparkwright.scoring.forward.runtime import OnnxSession
from sparkwright.scoring.predictor import Predictor

LENGTHS = (1, 7, 12, 3)

BUILDS = {
    "lstm of words": ("recurrent", {"vocabulary": 30, "hidden": (6,)}),
    "gru both ways, two layers": ("recurrent", {"channels": 5, "cell": "gru", "pooling": "last", "hidden": (8, 6)}),
    "lstm one way": ("recurrent", {"channels": 5, "bidirectional": False, "pooling": "last", "hidden": (8,)}),
    "gru, mean": ("recurrent", {"vocabulary": 30, "cell": "gru", "pooling": "mean", "hidden": (4,)}),
    "cnn of words": ("cnn1d", {"vocabulary": 30, "widths": (8,), "kernels": (1, 2, 5)}),
    "cnn that halves": (
        "cnn1d",
        {"channels": 5, "widths": (8, 6), "kernels": (3,), "norm": True, "halve": True, "pooling": "mean_max"},
    ),
}


def make(name, **options):
    build, own = BUILDS[name]
    network = TorchNetwork.build("sequences", build, {**own, "max_length": 20, "outputs": 3, **options})
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 30, n) if "vocabulary" in own else rng.normal(size=(n, 5)) for n in LENGTHS]
    return network, rows


@pytest.mark.parametrize("name", BUILDS)
def test_output_of_a_sequence_does_not_depend_on_what_it_is_batched_with(name):
    network, rows = make(name)
    alone = np.concatenate([network.forward(pad([row])) for row in rows])
    np.testing.assert_allclose(network.forward(pad(rows)), alone, atol=1e-6)


@pytest.mark.parametrize("name", BUILDS)
def test_onnx_runtime_gives_torchs_output_for_any_number_of_steps(name):
    network, rows = make(name)
    session = OnnxSession(network.to_onnx())
    for some in (rows, rows[:1], [rows[1], rows[1]]):
        np.testing.assert_allclose(session(pad(some)), network.forward(pad(some)), atol=1e-6)
    cut = network.cut("pool")
    np.testing.assert_allclose(OnnxSession(cut.to_onnx())(pad(rows)), cut.forward(pad(rows)), atol=1e-6)


@pytest.mark.parametrize("name", BUILDS)
def test_gradients_know_nothing_of_the_padding(name):
    network, rows = make(name, dropout=0.0)
    gradients = []
    for padding in (0, 8):
        module = network.to_module()
        if not name.startswith("cnn that"):  # which learns otherwise in training mode, from the batch as a whole
            module.train()
        x = np.pad(pad(rows), ((0, 0), (0, padding), *((0, 0),) * (pad(rows).ndim - 2)), constant_values=np.nan)
        module(torch.from_numpy(x)).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.ravel() for parameter in module.parameters()]))
    assert torch.isfinite(gradients[0]).all()
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_batch_norm_learns_from_the_sequences_own_steps():
    network, rows = make("cnn that halves")
    norms = []
    for padding in (0, 8):
        module = network.to_module().train()
        module(torch.from_numpy(np.pad(pad(rows), ((0, 0), (0, padding), (0, 0)), constant_values=np.nan)))
        norms.append(module.block1.bn.running_mean)
    torch.testing.assert_close(*norms)
    module(torch.from_numpy(pad([rows[0]])))  # one step alone has no deviation
    torch.testing.assert_close(norms[1], module.block1.bn.running_mean)


def test_truncated_back_propagation_stops_after_so_many_steps():
    torch.manual_seed(0)
    layer = Recurrent(2, 3, "lstm", bidirectional=False, truncate=4).train()
    x = torch.randn(1, 10, 2, requires_grad=True)
    there = torch.ones(1, 10, dtype=torch.bool)
    output = layer(Steps(x, there)).x_BTC
    output[0, -1].sum().backward()
    reached = x.grad[0].abs().sum(1) > 0
    assert reached.tolist() == [False] * 8 + [True] * 2  # the last stretch begins at step 8
    torch.testing.assert_close(output, layer.eval()(Steps(x, there)).x_BTC)


def test_catalogue_takes_sizes_from_the_preprocessing():
    text = TextPreprocessing(("a", "b"), max_length=9)
    assert load_network("lstm", weights="random", preprocessing=text).input_shape == (9,)
    audio = AudioPreprocessing(sample_rate=8000, bands=30, max_length=50)
    network = load_network("audio_cnn", weights="random", preprocessing=audio, outputs=4)
    assert (network.input_shape, network.output_shape, network.preprocessing) == ((50, 30), (4,), audio)
    assert load_network("text_cnn", weights="random").input_shape == (512,)


def test_summary_counts_what_torch_counts():
    network, _ = make("gru both ways, two layers")
    summary = network.summary()
    assert summary.parameters == sum(p.numel() for p in network.module.parameters())
    # Three gates of 8 over 5 values and 8 of the state, at each of 20 steps.
    assert next(row for row in summary.rows if row.name == "rnn1.ahead").multiply_adds == 20 * 3 * 8 * (5 + 8)
    block = make("cnn that halves")[0].summary().rows[1]
    assert (block.name, block.multiply_adds) == ("block1.convs.0", 20 * 8 * 5 * 3)


def test_memory_is_that_of_the_longest_sequence():
    network, _ = make("lstm of words")
    short, long = (activation_bytes(network.to_onnx(), (steps,)) for steps in (10, 1000))
    assert long > 50 * short


def test_options_that_make_no_network_are_refused():
    with pytest.raises(InputError, match=r"needs either `vocabulary`.*or `channels`"):
        TorchNetwork.build("x", "recurrent", {})
    with pytest.raises(InputError, match=r"`cell` must be one of lstm, gru; got 'lst'. Did you mean `lstm`"):
        TorchNetwork.build("x", "recurrent", {"vocabulary": 3, "cell": "lst"})
    with pytest.raises(InputError, match=r"`pooling` must be one of mean, max, mean_max; got 'last'"):
        TorchNetwork.build("x", "cnn1d", {"vocabulary": 3, "pooling": "last"})
    with pytest.raises(InputError, match=r"`hidden` and `truncate` must be at least 1"):
        TorchNetwork.build("x", "recurrent", {"vocabulary": 3, "hidden": []})
    with pytest.raises(InputError, match=r"`widths` and `kernels` must be at least 1"):
        TorchNetwork.build("x", "cnn1d", {"vocabulary": 3, "kernels": [0]})


def test_a_cut_before_the_pooling_is_refused():
    network, _ = make("lstm of words")
    with pytest.raises(InputError, match=r"cut at `rnn1` gives sequences. Cut it at `pool` or behind it"):
        _ = network.cut("rnn1").output_shape
    with pytest.raises(InputError, match=r"must be cut at `pool` or behind it"):
        network.cut("rnn1").to_onnx()


def test_preprocessing_of_other_sizes_is_refused():
    network, _ = make("lstm of words")
    with pytest.raises(InputError, match=r"takes inputs of shape \(20,\); .*makes \(9,\). Give both the same `max_len"):
        network.with_preprocessing(TextPreprocessing(("a",), max_length=9))
    with pytest.raises(InputError, match=r"Augmentation changes photos, and .* has TextPreprocessing"):
        load_network("lstm", weights="random", preprocessing=TextPreprocessing(("a",))).with_augmentation({})


def test_trim_keeps_the_longest_row_and_one_step_of_nothing():
    x = pad([np.ones(2), np.ones(5)])
    wide = np.pad(x, ((0, 0), (0, 4)), constant_values=np.nan)
    np.testing.assert_array_equal(trim(wide), x)
    assert trim(np.full((2, 3), np.nan, np.float32)).shape == (2, 1)


def test_a_model_of_text_is_saved_and_answers_without_torch_as_with_it(tmp_path):
    text = TextPreprocessing.fit(["good film", "bad film"], least=1, max_length=6)
    network = load_network("gru", weights="random", preprocessing=text, classes=["bad", "good"])
    Model.of_network(network).save(str(tmp_path / "model"))
    loaded = Model.load(str(tmp_path / "model")).network
    assert loaded.preprocessing == text
    assert loaded.fingerprint() == network.fingerprint()
    assert from_spec(network.to_spec(), network.weights()).preprocessing == text
    answers = Predictor.load(str(tmp_path / "model")).predict(["good film", "", "bad " * 7, "some other film"])
    assert [answer.error and answer.error.kind for answer in answers] == [None, "empty", "too long", None]
    scores = network.forward(np.stack([text.apply("good film")]))
    assert answers[0].probability == pytest.approx(float(np.exp(scores).max() / np.exp(scores).sum()), abs=1e-5)


def test_an_empty_row_is_an_error_of_its_own():
    with pytest.raises(ContentError, match=r"The row has no words"):
        TextPreprocessing(("a",)).read("")


def test_several_layers_leave_the_network_in_one_pass():
    network, rows = make("gru, mean")
    data, places = export_layers(network, ["pool", "output"])
    outputs = OnnxSession(data)(pad(rows))
    np.testing.assert_allclose(outputs[:, slice(*places["pool"])], network.cut("pool").forward(pad(rows)), atol=1e-6)
    np.testing.assert_allclose(outputs[:, slice(*places["output"])], network.forward(pad(rows)), atol=1e-6)
    with torch.no_grad():
        both = Taps(network, ["pool", "output"])(torch.from_numpy(pad(rows))).numpy()
    np.testing.assert_allclose(both, outputs, atol=1e-6)
    with pytest.raises(InputError, match="rnn1: these layers give sequences"):
        Taps(network, ["rnn1"])(torch.from_numpy(pad(rows)))
