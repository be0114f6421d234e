"""How much faster do heads train together than one by one? And where does the time of a step go?

    python benchmarks/shared_pass.py FEATURES [--heads 16] [--runs 5] [--epochs 3 10 50]

One process without Spark on one thread; linear heads 768 → 100 on the features of Caltech photos (FEATURES holds
``caltech.npz`` with x, y and test), batches of 128, AdamW, a fifth of the rows validates. Every head has a rate and a
label smoothing of its own; dropout too, or (`same`) all the same. Seconds are of the processor, a head's share of them;
runs of both ways take turns, and the medians are compared. What Spark adds to a trial that has a task to itself is
measured by the case `shared` of ``benchmarks/tuning.py``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from sparkwright.models import library_versions
from sparkwright.networks.dropout import Dropout, draw_bits, integers_of, noise_of
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import train_rows
from sparkwright.training.rows.columns import Columns
from sparkwright.training.rows.encoding import Encoding
from sparkwright.training.rows.population import examine
from sparkwright.training.rows.store import Store
from sparkwright.training.transports.in_process import InProcess
from sparkwright.tuning.head_passes import _product
from sparkwright.tuning.shared_pass import train_together

CONFIG = TrainingConfig(replicas=1, batch_size=128, patience=None, calibrate=False)
ALONE = 4  # heads of a run one by one: the others would take as long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--epochs", type=int, nargs="*", default=[3, 10, 50])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "shared_pass.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = rows(given.features)
    report: dict[str, Any] = {"versions": library_versions(), "heads": given.heads, "parts_us": parts(), "trials": []}
    print(json.dumps(report["parts_us"], indent=2))
    for epochs in given.epochs:
        for same in (True, False):
            row = compare(heads(given.heads, epochs, same=same), data, given.runs)
            report["trials"].append({"epochs": epochs, "dropout": "same" if same else "own", **row})
            print(json.dumps(report["trials"][-1]), flush=True)
            given.out.write_text(json.dumps(report, indent=2) + "\n")


def rows(folder: Path) -> tuple[Any, Any]:
    """Return what the rows are together, and the rows."""
    data = np.load(folder / "caltech.npz")
    x, y = data["x"][~data["test"]], data["y"][~data["test"]]
    side = np.where(np.random.default_rng(0).permutation(len(y)) % 5 == 0, "validation", "train")
    columns = Columns(("x",), "y", None, "split")
    store = Store(range(1), 1 << 40, Path("/nowhere"))
    table = pa.table({"x": x.tolist(), "y": y, "split": side})
    for batch in Encoding(columns, CONFIG.task, CONFIG.seed, (0,))(iter(table.to_batches())):
        store.add(batch)
    return examine(store.census, CONFIG, columns, "int"), store.finish(x.shape[1])


def heads(count: int, epochs: int, *, same: bool) -> list[TrainingConfig]:
    """Return trials as a search would draw them."""
    rng = np.random.default_rng(1)
    return [
        CONFIG.replace(
            epochs=epochs,
            learning_rate=float(10 ** rng.uniform(-3.5, -1.5)),
            label_smoothing=float(rng.uniform(0, 0.2)),
            dropout=0.3 if same else float(rng.uniform(0.05, 0.7)),
        )
        for _ in range(count)
    ]


def compare(configs: list[TrainingConfig], data: tuple[Any, Any], runs: int) -> dict[str, Any]:
    """Return processor seconds of a head in either way, and how far their results are apart."""
    alone, together, apart = list[float](), list[float](), 0.0
    for _ in range(runs):
        begun = time.process_time()
        one = [train_rows(config, *data, InProcess(1)) for config in configs[:ALONE]]
        alone.append((time.process_time() - begun) / len(one))
        begun = time.process_time()
        many = train_together(configs, *data)
        together.append((time.process_time() - begun) / len(configs))
        for a, b in zip(one, many, strict=False):
            history = zip(a.history, b.outcome.history, strict=True)  # type: ignore[union-attr]
            apart = max(apart, *(abs(x.validation["loss"] - y.validation["loss"]) for x, y in history))
    ratios = [a / b for a, b in zip(alone, together, strict=True)]
    return {
        "alone_s": [round(seconds, 4) for seconds in alone],
        "together_s": [round(seconds, 4) for seconds in together],
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "validation_losses_apart": apart,
    }


def parts() -> dict[str, float]:
    """Return microseconds of what a step of a head alone consists of, and of what a shared pass has instead."""
    x, w, y = torch.randn(128, 768), torch.randn(100, 768), torch.randint(100, (128,))
    g, all_x, rows_B, ones_B = (
        torch.randn(128, 100),
        torch.randn(2000, 768),
        torch.randint(2000, (128,)),
        torch.ones(128),
    )
    bits, layer = draw_bits(integers_of(x.numel())), Dropout(0.3)
    logits, ones_B = torch.randn(128, 100, requires_grad=True), torch.ones(128)

    def loss() -> None:
        torch.autograd.grad((F.cross_entropy(logits, y, reduction="none") * ones_B).mean(), logits)

    timed: dict[str, Callable[[], object]] = {
        "gather": lambda: all_x.index_select(0, rows_B),
        "standardise": lambda: (x - x[0]) * x[1],
        "dropout, torch's": lambda: F.dropout(x, 0.3),
        "dropout": lambda: layer(x),
        "dropout, drawn already": lambda: x * noise_of(bits, x.shape, 0.3),
        "forward": lambda: F.linear(x, w),
        "forward, oneDNN": lambda: _product(x, w),
        "weights' gradient": lambda: g.t() @ x,
        "weights' gradient, oneDNN": lambda: _product(g.t().contiguous(), x.t()),
        "loss and its gradient": loss,
    }
    return {name: round(1e6 * min(map(partial(seconds_of, do), range(200))), 1) for name, do in timed.items()}


def seconds_of(do: Callable[[], object], _: int) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
