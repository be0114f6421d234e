"""Which strategy when: how good is a model after so many syncs, and so many bytes?

    python benchmarks/strategies.py --mnist FOLDER [--features NAME=FOLDER ...] [--seeds 2] [--rows 50000] [--quick]

Trains with all-reduce, averaging and the outer optimiser, with 1, 4, 16 and 64 steps between syncs, compressed or not,
all else equal, in this process's children: the transport has no part in the weights. After the last epoch the
validation rows are measured; nothing is chosen by them (no early stopping, no best epoch, settings as below for all),
and test rows are left alone. Rows: MNIST's training photos, the last 10,000 of which validate (`FOLDER` holds the
``.gz`` files); features from `sparkwright featurize` or `transfer`: columns ``features``, ``label``, ``split``.

Bytes are those of a replica a worker: R - 1 messages up the tree and R - 1 from rank 0, of the length that the codec
gives them. The results go to ``results/strategies.json``, charts to ``docs/images/strategies-*.svg``, and both, as
tables and pictures, to the end of ``docs/how-to/strategies.md``.
"""

import argparse
import dataclasses
import functools
import gzip
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sparkwright.evaluation.report.charts import Series, line_chart
from sparkwright.models import library_versions
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.flat import flatten
from sparkwright.training.replica.optimizers import make_optimizer
from sparkwright.training.strategies import make_strategy
from sparkwright.training.subject import build_head

INTERVALS = (1, 4, 16, 64)
STRATEGIES = ("averaging", "outer")
COMPRESSIONS = (None, "int8", "topk", "threshold")
SHARED: dict[str, Any] = {"patience": None, "calibrate": False, "standardise": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "mnist": {
        "hidden": (200, 200),
        "optimizer": "adam",
        "learning_rate": 0.002,
        "weight_decay": 0.0,
        "dropout": 0.0,
        "batch_size": 64,
        "replicas": 8,
        "epochs": 4,
    },
    "features": {"batch_size": 8, "replicas": 4, "epochs": 20},  # else the defaults for heads
}
DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- From here on made by benchmarks/strategies.py. -->\n"
RESULTS = Path(__file__).parent / "results" / "strategies.json"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: the rows' name and source, what is compared, the seed."""

    name: str
    source: str
    settings: tuple[tuple[str, Any], ...]
    seed: int
    rows: int
    quick: bool

    @property
    def config(self) -> TrainingConfig:
        own = SETTINGS.get(self.name, SETTINGS["features"]) | dict(self.settings) | {"seed": self.seed}
        return TrainingConfig(**SHARED | own | ({"epochs": 1} if self.quick else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", help="folder of MNIST's .gz files")
    parser.add_argument("--features", nargs="*", default=[], help="named folders of features: caltech=run/features")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=50_000, help="of MNIST to train on, at most")
    parser.add_argument("--quick", action="store_true", help="one epoch of 2,000 rows: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    arguments = parser.parse_args()
    sources = dict(pair.split("=", 1) for pair in arguments.features)
    sources |= {"mnist": arguments.mnist} if arguments.mnist else {}
    trials = [
        Trial(name, path, tuple(settings.items()), seed, 2000 if arguments.quick else arguments.rows, arguments.quick)
        for name, path in sources.items()
        for settings in compared()
        for seed in range(arguments.seeds)
    ]
    started = time.perf_counter()
    rows = summarised(run_all(trials))
    report = {
        "settings": SETTINGS,
        "seeds": arguments.seeds,
        "rows": arguments.rows,
        "quick": arguments.quick,
        "seconds": round(time.perf_counter() - started, 1),
        "versions": library_versions(),
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "results": rows,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    write_docs(arguments.docs, rows)


def compared() -> list[dict[str, Any]]:
    """Return the settings that are compared."""
    found: list[dict[str, Any]] = [{"strategy": "all_reduce", "compression": codec} for codec in COMPRESSIONS]
    found += [
        {"strategy": strategy, "sync_every": every, "compression": codec}
        for strategy in STRATEGIES
        for codec in COMPRESSIONS
        for every in INTERVALS
    ]
    return found


def run_all(trials: Sequence[Trial]) -> list[tuple[Trial, dict[str, Any]]]:
    """Train all, as many at a time as there are cores, each with one thread."""
    done = []
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run, trial): trial for trial in trials}
        for future in as_completed(futures):
            done.append((futures[future], future.result()))
            trial, found = done[-1]
            print(f"{len(done)}/{len(trials)} {trial.name} {dict(trial.settings)} {found}", flush=True)
    return done


def run(trial: Trial) -> dict[str, Any]:
    """Train once; return what the validation rows say after the last epoch, and what was sent."""
    table, config = rows_of(trial.source, trial.rows), trial.config
    started = time.perf_counter()
    result = fit_table(table, config, split="split")
    last = result.history[-1]
    steps = math.ceil(last.rows / config.replicas / config.batch_size)  # about: shards are of almost one size
    strategy = make_strategy(config)
    syncs = config.epochs * len(list(strategy.intervals(steps)))
    return {
        "error": 1 - last.validation["accuracy"],
        "loss": last.validation["loss"],
        "train_loss": last.train_loss,
        "syncs": syncs,
        "mib": syncs * sync_bytes(config, table) / 2**20,
        "seconds": time.perf_counter() - started,
    }


def sync_bytes(config: TrainingConfig, table: pa.Table) -> int:
    """Return the bytes of one sync with a replica a worker."""
    outputs = len(pc.unique(table["label"]))
    module = build_head(config, len(table["features"][0]), outputs).to_module()
    flat, strategy = flatten(module, make_optimizer(config).slots), make_strategy(config)
    sent = flat.gradient_N if config.strategy == "all_reduce" else flat.state_SN
    sent = strategy.codec.room(flat.weights_N if strategy.codec.feedback else sent)
    return 2 * (config.replicas - 1) * sent.nbytes


@functools.cache
def rows_of(source: str, most: int) -> pa.Table:
    """Return features, label and split of all rows but the test rows; of MNIST at most so many to train on."""
    path = Path(source)
    if (path / "train-images-idx3-ubyte.gz").exists():
        images = np.frombuffer(gzip.decompress((path / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
        labels = np.frombuffer(gzip.decompress((path / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
        pixels = pa.array(images.astype(np.float32) / 255)
        place = np.arange(len(labels))
        split = np.where(place < min(most, 50_000), "train", np.where(place < 50_000, "test", "validation"))
        columns = {"features": pa.FixedSizeListArray.from_arrays(pixels, 784), "label": labels.astype(np.int64)}
        table = pa.table({**columns, "split": split})
    else:
        table = pq.read_table(next(path.glob("data-*"), path), columns=["features", "label", "split"])
        table = table.filter(pc.is_valid(table["features"]))  # of what could not be read
    return table.filter(pc.not_equal(table["split"], "test"))


def summarised(done: Sequence[tuple[Trial, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return means and deviations over the seeds."""
    found: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for trial, result in done:
        found.setdefault((trial.name, trial.settings), []).append(result)
    rows = []
    for (name, settings), results in sorted(found.items(), key=str):
        row = {"rows": name, **dict(settings)}
        for figure in results[0]:
            values = [result[figure] for result in results]
            row[figure] = statistics.mean(values)
            if figure == "error" and len(values) > 1:
                row["deviation"] = statistics.stdev(values)
        rows.append(row)
    return rows


def write_docs(docs: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the charts, and the part of the page that the results make."""
    parts = []
    (docs / "images").mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(row["rows"] for row in rows):
        own = [row for row in rows if row["rows"] == name]
        for x, label in (("syncs", "syncs"), ("mib", "MiB sent by all replicas")):
            (docs / "images" / f"strategies-{name}-{x}.svg").write_text(picture(own, x, label))
            parts.append(f"![Error on {name} by {label}](../images/strategies-{name}-{x}.svg)\n")
        parts.append(f"{markdown(own)}\n")
    page = docs / "how-to" / "strategies.md"
    before = page.read_text(encoding="utf-8").partition(MARK)[0] if page.exists() else ""
    page.parent.mkdir(exist_ok=True)
    page.write_text(before + MARK + "\n" + "\n".join(parts), encoding="utf-8")


COLOURS = {"all_reduce": "#586574", "averaging": "#2563c9", "outer": "#c2510c"}
DASHES = {"none": "", "int8": "6 3", "topk": "2 4", "threshold": "8 3 2 3"}


def picture(rows: Sequence[dict[str, Any]], x: str, label: str) -> str:
    """Return a chart of the error, as a file that needs no style sheet."""
    lines = []
    for strategy in COLOURS:
        for codec in COMPRESSIONS:
            own = [row for row in rows if (row["strategy"], row["compression"]) == (strategy, codec)]
            own.sort(key=lambda row: row[x])
            style = f"{strategy} {codec or 'none'}"
            name = strategy.replace("_", "-") + (f", {codec}" if codec else "")
            lines.append(Series(name, style, [row[x] for row in own], [row["error"] for row in own]))
    described = "; ".join(f"{line.name}: {', '.join(f'{100 * y:.2f} %' for y in line.y)}" for line in lines)
    chart = line_chart(lines, description=f"Error by {label}: {described}", x_label=label, percent=True, log_x=True)
    style = "text{font:12px sans-serif;fill:#586574}.grid{stroke:#dfe4ea}.line{fill:none;stroke-width:1.8}"
    style += "".join(f".{name}{{stroke:{colour};color:{colour}}}" for name, colour in COLOURS.items())
    style += ".dot{fill:currentColor;stroke:none}"
    style += "".join(f".line.{name}{{stroke-dasharray:{dashes}}}" for name, dashes in DASHES.items() if dashes)
    keys = [(name.replace("_", "-"), name, "none") for name in COLOURS] + [(name, "", name) for name in DASHES]
    parts = []
    for place, (name, strategy, codec) in enumerate(keys):
        left, top = 60 + place % 4 * 115, 318 + place // 4 * 18
        drawn = f'class="line {strategy} {codec}"' + ("" if strategy else ' stroke="#586574"')
        title = "all of it" if name == "none" else name
        parts.append(f'<path {drawn} d="M{left} {top}h26"/><text x="{left + 32}" y="{top + 4}">{title}</text>')
    start = chart.index(">") + 1
    head = chart[:start].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="520" height="350" ')
    head = head.replace("0 0 520 300", "0 0 520 350")
    back = '<rect width="520" height="350" fill="#fff"/>'
    return f"{head}<style>{style}</style>{back}{chart[start:].removesuffix('</svg>')}{''.join(parts)}</svg>\n"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table: a line a strategy and compression, a column an interval; error, deviation over seeds, MiB."""
    lines = [
        "| strategy | sent | " + " | ".join(f"every {k}" for k in INTERVALS) + " |",
        "|---|---|" + "---|" * len(INTERVALS),
    ]
    for strategy in ("all_reduce", *STRATEGIES):
        for codec in COMPRESSIONS:
            cells = []
            for every in INTERVALS:
                own = [
                    row
                    for row in rows
                    if (row["strategy"], row["compression"], row.get("sync_every", 1)) == (strategy, codec, every)
                ]
                spread = f" ± {100 * own[0]['deviation']:.2f}" if own and "deviation" in own[0] else ""
                cells.append(f"{100 * own[0]['error']:.2f}{spread} % ({size(own[0]['mib'])})" if own else "")
            name = strategy.replace("_", "-")
            lines.append(f"| {name} | {codec or 'all of it'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def size(mib: float) -> str:
    return f"{mib:,.0f} MiB" if mib >= 10 else f"{mib:.2g} MiB"


if __name__ == "__main__":
    main()
