"""Several outputs from one pass over a network: column → layer, or → what is made of the scores."""

from collections.abc import Mapping, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

from sparkwright.errors import InputError
from sparkwright.models import LINKS, Label
from sparkwright.networks.network import Network
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.outputs import Features, Output, Section, make_output

__all__ = ["KINDS", "layers_graph", "several_outputs", "to_outputs"]

SCORES = "logits"
"""The last layer's output, whatever the layer is called."""

KINDS = ("label", "probability", "probabilities", "top")
"""What is made of a classifier's scores; of a regression's: ``value``."""

_KINDS_OF = {"classification": KINDS, "multilabel": ("label", "probabilities", "top"), "regression": ("value",)}

# Exporting and hashing a network takes seconds for large ones; networks never change.
_graphs: "WeakKeyDictionary[Network, dict[tuple[str, ...], tuple[Graph, dict[str, tuple[int, int]]]]]" = (
    WeakKeyDictionary()
)


def to_outputs(value: Any) -> dict[str, str]:
    """Check what a stage's Param `outputs` was given.

    Raises:
        TypeError: no mapping from columns to layers or kinds, both strings.
    """
    if isinstance(value, Mapping) and value and all(isinstance(text, str) for pair in value.items() for text in pair):
        return dict(value)
    raise TypeError(
        f'outputs must map columns to layers or kinds, such as {{"embedding": "pool", "kind": "label"}}; got {value!r}.'
    )


def layers_graph(network: Network, layers: Sequence[str]) -> tuple[Graph, dict[str, tuple[int, int]]]:
    """Return the graph that gives these layers, and where each lies in a flattened row of its output.

    A network that is in use is exported once.

    Raises:
        NameUnknownError: no such layer.
    """
    known = _graphs.setdefault(network, {})
    wanted = tuple(layers)
    if wanted not in known:
        known[wanted] = Graph.of_layers(network, wanted)
    return known[wanted]


def several_outputs(
    network: Network,
    outputs: Mapping[str, str],
    *,
    task: str | None = None,
    classes: Sequence[Label] = (),
    link: str | None = None,
    thresholds: Sequence[float] = (),
    k: int = 5,
) -> tuple[Graph, list[Output]]:
    """Return what the engine needs to fill several columns from one pass.

    Args:
        network: The whole network, whose last layer gives the scores.
        outputs: Column → a layer's name (``array<float>``, flattened), ``logits`` (the last layer), or a kind: `KINDS`
            for a classifier, ``value`` for a regression. A kind goes before a layer of that name.
        task: Of a model; None for a network whose output is neither classes nor values: layers alone.
        classes: Labels in the order of the scores.
        link: How scores become probabilities or values; None: as is usual for the task.
        thresholds: Least probabilities to be predicted, as a model has them.
        k: How many labels ``top`` holds.

    Raises:
        NameUnknownError: no such layer or kind.
        InputError: a kind is wanted twice.
    """
    kinds = _KINDS_OF.get(task or "", ())
    of_scores = {column: kind for column, kind in outputs.items() if kind in kinds}
    twice = sorted({kind for kind in of_scores.values() if list(of_scores.values()).count(kind) > 1})
    if twice:
        raise InputError(f"outputs names {', '.join(twice)} more than once. Give each one column: {dict(outputs)}.")
    layers = {
        column: network.layer if name == SCORES and SCORES not in network.layers else name
        for column, name in outputs.items()
        if column not in of_scores
    }
    wanted = list(dict.fromkeys([*layers.values(), *([network.layer] if of_scores else [])]))
    graph, places = layers_graph(network, wanted)
    made: list[Output] = []
    for column, layer in layers.items():
        features = Features(column, FeatureKey.of(network.cut(layer)).metadata())
        made.append(Section(features, *places[layer]))
    if of_scores:
        start, stop = places[network.layer]
        columns = {kind: column for column, kind in of_scores.items()}
        answer = make_output(
            cast(str, task),
            classes,
            link or LINKS[cast(str, task)],
            thresholds,
            targets=stop - start,
            prediction=columns.get("label") or columns.get("value"),
            probability=columns.get("probability"),
            probabilities=columns.get("probabilities"),
            top_labels=columns.get("top"),
            k=k,
        )
        made.append(Section(answer, start, stop))
    return graph, made
