"""The section on how the layers of a training learn."""

import math
import statistics
from collections.abc import Sequence

from sparkwright.evaluation.report.axes import short
from sparkwright.evaluation.report.charts import Series, legend, line_chart
from sparkwright.evaluation.report.markup import Cell, Column, figure, findings, percent, section, table
from sparkwright.events import LayersMeasured, Stamped

__all__ = ["layers_section"]

_TALL = 25


def layers_section(events: Sequence[Stamped]) -> str:
    """Return warnings, each layer's update ratio over the steps, and a table of its figures; nothing without looks."""
    told = [stamped.event for stamped in events if isinstance(stamped.event, LayersMeasured) and stamped.event.layers]
    told = [look for look in told if look.phase == "selection"] or told  # a refit counts its steps anew
    # A training that went on from a checkpoint tells some steps again.
    looks = dict(sorted({look.step: look for look in told}.items()))
    if not looks:
        return ""
    note = (
        f"One replica was looked at {len(looks)} time{'s' if len(looks) != 1 else ''}. In a training that goes well a "
        "step changes a layer's weights by about 0.001 of their length. A unit is dead where its activation is the "
        "same for all rows of a batch."
    )
    body = _ratio_figure(looks) + _table(list(looks.values()))
    body = f'<div class="wide-right">{body}</div>' if len(looks) > 1 else body
    return section("layers", "Layers", findings(events, "layers"), body, note=note)


def _ratio_figure(looks: dict[int, LayersMeasured]) -> str:
    if len(looks) < 2:  # a line needs two ends
        return ""
    steps = list(looks)
    names = dict.fromkeys(layer["name"] for look in looks.values() for layer in look.layers)
    ratios = {name: [_of(look, name, "update_ratio") for look in looks.values()] for name in names}
    lines = [Series(name, "replica", steps, values) for name, values in ratios.items()]
    middle = [statistics.median(layer["update_ratio"] for layer in look.layers) for look in looks.values()]
    lines.append(Series("median layer", "train", steps, middle))
    described = f"Update ratio by step, median layer, first → last: {middle[0]:.2g} → {middle[-1]:.2g}"
    keys = legend([("train", "median layer"), ("replica", "layers")])
    picture = line_chart(lines, description=described, x_label="step")
    return figure(picture, f"<b>Change of a step beside the weights</b> {keys}") if picture else ""


def _of(look: LayersMeasured, name: str, what: str) -> float:
    """Return a layer's figure; NaN where a look has none."""
    value = next((layer.get(what) for layer in look.layers if layer["name"] == name), None)
    return float("nan") if value is None else float(value)


def _short(value: float) -> str:
    return short(float(f"{value:.2g}")) if 0 < abs(value) < 1e-4 else f"{value:.2g}"


def _table(looks: Sequence[LayersMeasured]) -> str:
    columns = [
        Column("Layer", numeric=False),
        Column("Update ratio", hint="Length of a step's change beside that of the weights; median of the looks"),
        Column("Gradient, first", hint="Euclidean norm of its gradient at the first look"),
        Column("last", hint="Euclidean norm of its gradient at the last look"),
        Column("Spread", hint="Standard deviation of the layer's outputs before the activation, at the last look"),
        Column("Dead", hint="Share of units that give the same for all rows of a batch, at the last look"),
    ]
    rows = []
    for layer in looks[-1].layers:
        name = layer["name"]
        ratios = [_of(look, name, "update_ratio") for look in looks]  # NaN before the layer began to train
        ratio = statistics.median(ratio for ratio in ratios if not math.isnan(ratio))
        first = next(look for look, ratio in zip(looks, ratios, strict=True) if not math.isnan(ratio))
        dead, spread = layer.get("dead"), layer.get("spread")
        rows.append(
            [
                name or "the network",
                _short(ratio),
                _short(_of(first, name, "gradient_norm")),
                _short(layer["gradient_norm"]),
                "" if spread is None else _short(spread),
                "" if dead is None else Cell(percent(dead), bar=dead),
            ]
        )
    shown = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    rows = [[row[place] for place in shown] for row in rows]
    return table([columns[place] for place in shown], rows, caption="Layers", tall=len(rows) > _TALL)
