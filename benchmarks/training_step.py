"""How long does a step take that trains a whole network, by precision, layout in memory and optimiser?

    python benchmarks/training_step.py [--network mobilenet_v1_0.75] [--batch 16] [--steps 10] [--threads 1]
        [--device cpu]

Each way takes the same steps on the same random photos, all layers of the network trained, through the very replica
that a training on a cluster uses; the first step warms up. "Plain torch" is a loop of torch's own layers, loss and
optimiser with nothing around it. Told are the median step with the quartiles, in seconds of the clock and of the
processor (which other programs on the machine disturb less), and photos a second of the clock. Nothing is written.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from sparkwright.models import library_versions
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.mlp import mlp
from sparkwright.training.config import TrainingConfig
from sparkwright.training.loop import cpu_threads
from sparkwright.training.replica.allocation import freed_memory_kept
from sparkwright.training.replica.replica import Replica, Shard
from sparkwright.training.rows.kept import Kept
from sparkwright.training.rows.readers import NumberReader
from sparkwright.training.tasks import Classification

CLASSES = 21
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "channels last": {"channels_last": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, channels last": {"precision": "bfloat16", "channels_last": True},
    "LAMB": {"optimizer": "lamb"},
    "mean of the weights": {"weight_average": "ema"},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="mobilenet_v1_0.75")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    body = load_network(options.network, weights="random")
    body = body.cut(body.feature_layer)
    network = body.with_head(mlp(int(np.prod(body.output_shape)), CLASSES, (), "relu", 0.0, 0))
    rows = options.batch * (1 + options.steps)
    rng = np.random.default_rng(0)
    x_NF = rng.random((rows, int(np.prod(network.input_shape))), np.float32)
    y_N = torch.from_numpy(rng.integers(CLASSES, size=rows))
    found = {"plain torch": plain(network.to_module(), x_NF.reshape(rows, *network.input_shape), y_N, options)}
    shard = Shard(
        Kept(x_NF), y_N, torch.ones(rows), np.arange(rows), np.arange(rows), NumberReader(network.input_shape)
    )
    for name, settings in WAYS.items():
        config = TrainingConfig(
            replicas=1, batch_size=options.batch, threads=options.threads, device=options.device,
            health_every=None, **{"optimizer": "sgd", "learning_rate": 0.001, **settings},
        )  # fmt: skip
        replica = Replica(0, network.to_module(), shard, Classification(np.ones(CLASSES, np.float32), 0), config)
        replica.start_epoch(1, 1 + options.steps)
        with freed_memory_kept():  # as a training does
            found[name] = timed(lambda at, own=replica: own.train(range(at, at + 1), at + 1, [0.001]), options)
        print(f"{name}: {found[name]}", flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    machine["instructions"] = torch.backends.cpu.get_cpu_capability()
    print(json.dumps({"options": vars(options), "steps": found, "machine": machine, "versions": library_versions()}))


def plain(module: nn.Module, x: np.ndarray, y_N: torch.Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Time a loop of torch alone."""
    module.to(options.device).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.001, momentum=0.9, nesterov=True)

    def step(at: int) -> None:
        rows = slice(at * options.batch, (at + 1) * options.batch)
        x_B, y_B = torch.from_numpy(x[rows].copy()).to(options.device), y_N[rows].to(options.device)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(x_B), y_B)
        loss.backward()
        optimizer.step()
        loss.item()

    found = timed(step, options)
    print(f"plain torch: {found}", flush=True)
    return found


def timed(step: Callable[[int], None], options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of steps, after one that warms up."""
    clock, processor = list[float](), list[float]()
    with cpu_threads(options.threads):
        for at in range(1 + options.steps):
            before = time.perf_counter(), time.process_time()
            step(at)
            clock.append(time.perf_counter() - before[0])
            processor.append(time.process_time() - before[1])
    quartiles = {name: np.quantile(s[1:], (0.25, 0.5, 0.75)) for name, s in (("s", clock), ("cpu_s", processor))}
    told = {name: [round(float(value), 4) for value in values] for name, values in quartiles.items()}
    return told | {"photos_per_s": round(options.batch / statistics.median(clock[1:]), 2)}


if __name__ == "__main__":
    main()
