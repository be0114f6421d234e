import json

import numpy as np
import pytest

from sparkwright.networks.catalogue import CATALOGUE, load_network
from sparkwright.networks.mlp import mlp
from sparkwright.networks.summary import Summary
from sparkwright.networks.torch_network import Part, TorchNetwork


@pytest.fixture(scope="module")
def vgg() -> Summary:
    entry = CATALOGUE["vgg16"]
    return TorchNetwork._skeleton("vgg16", Part(entry.build, entry.options), None).summary()


def test_vgg16_has_the_published_totals(vgg: Summary) -> None:
    assert vgg.parameters == vgg.trainable_parameters == 138_357_544
    # By hand: a convolution of k x k from c to d channels on h x w costs k*k*c*d*h*w, a linear layer inputs*outputs.
    sides_and_channels = [(224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128)]
    sides_and_channels += [
        (56, 128, 256),
        (56, 256, 256),
        (56, 256, 256),
        (28, 256, 512),
        (28, 512, 512),
        (28, 512, 512),
    ]
    sides_and_channels += [(14, 512, 512)] * 3
    by_hand = sum(9 * c * d * side * side for side, c, d in sides_and_channels)
    by_hand += 512 * 7 * 7 * 4096 + 4096 * 4096 + 4096 * 1000
    assert vgg.multiply_adds == by_hand == 15_470_264_320


def test_text_shows_what_a_user_reads(vgg: Summary) -> None:
    text = str(vgg)
    assert "parameters      138,357,544" in text
    assert "multiply-adds   15.47 G" in text
    line = next(line for line in text.splitlines() if line.startswith("classifier.0 (Linear)"))
    assert line.split() == [
        "classifier.0", "(Linear)", "25088", "→", "4096", "1x4096",
        "102,764,544", "weight:4096x25088", "bias:4096", "flatten",
    ]  # fmt: skip


def test_json_and_table_hold_the_same_rows(vgg: Summary) -> None:
    data = json.loads(json.dumps(vgg.to_dict()))
    table = vgg.to_pandas()
    assert len(data["layers"]) == len(table) == len(vgg.rows) == 40
    assert data["layers"][0]["parameter_shapes"] == {"weight": [64, 3, 3, 3], "bias": [64]}
    assert table["parameters"].sum() == data["parameters"]
    assert data["activation_bytes"] == 4 * sum(np.prod(shape) for shape in table["output_shape"])


def test_inputs_of_a_residual_block_are_both_ways() -> None:
    rows = load_network("resnet18", weights="random").cut("layer2").summary().rows
    sums = [row.inputs for row in rows if row.type == "ReLU" and len(row.inputs) == 2]
    assert sums[2] == ("layer2.0.bn2", "layer2.0.downsample.1")
    assert rows[0].inputs == ("input",)


def test_frozen_layers_are_marked() -> None:
    summary = mlp(4, 3, [8]).freeze("act1").summary()
    assert (summary.frozen_parameters, summary.trainable_parameters) == (40, 27)
    assert "40 frozen" in str(summary)


def test_standardisation_has_no_parameters() -> None:
    summary = mlp(4, 3, mean=np.zeros(4)).summary()
    assert [(row.name, row.type, row.parameters) for row in summary.rows] == [
        ("standardise", "Standardise", 0),
        ("output", "Linear", 15),
    ]
