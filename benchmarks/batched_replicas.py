"""Would replicas of one process train faster if their layers were computed together, and to the same bits?

    python benchmarks/batched_replicas.py

Steps (forward, loss, backward) of R multi-layer perceptrons, each on a batch of its own, on one thread: one after the
other, and together by batched matrix products.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

CASES = (((784, 200, 200, 10), 128), ((768, 101), 128), ((100, 256, 10), 64), ((64, 64, 5), 32), ((13, 32, 3), 32))
STEPS = 60


def median_ms(step: Callable[[], None]) -> float:
    taken = []
    for _ in range(STEPS):
        started = time.perf_counter()
        step()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def compare(sizes: tuple[int, ...], batch: int, replicas: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = list(pairwise(sizes))
    weights = [torch.randn(replicas, to, of, generator=generator).div_(of**0.5).requires_grad_() for of, to in shapes]
    biases = [torch.zeros(replicas, 1, to, requires_grad=True) for _, to in shapes]
    x = torch.randn(replicas, batch, sizes[0], generator=generator)
    y = torch.randint(sizes[-1], (replicas, batch), generator=generator)
    own = [[w[r].detach().clone().requires_grad_() for w in weights] for r in range(replicas)]
    own_biases = [[b[r, 0].detach().clone().requires_grad_() for b in biases] for r in range(replicas)]

    def one_by_one() -> None:
        for r in range(replicas):
            h: Tensor = x[r]
            for number, (w, b) in enumerate(zip(own[r], own_biases[r], strict=True)):
                h = linear(h.relu() if number else h, w, b)
            cross_entropy(h, y[r]).backward()

    def together() -> None:
        h = x
        for number, (w, b) in enumerate(zip(weights, biases, strict=True)):
            h = torch.baddbmm(b, h.relu() if number else h, w.transpose(1, 2))
        (cross_entropy(h.flatten(0, 1), y.flatten()) * replicas).backward()

    one_by_one()
    together()
    pairs = [(own[r][k].grad, weights[k].grad[r]) for r in range(replicas) for k in range(len(weights))]
    equal = all(torch.equal(a, b) for a, b in pairs)
    apart, joined = median_ms(one_by_one), median_ms(together)
    print(
        f"{sizes} x {batch}, {replicas} replicas: {apart:.2f} and {joined:.2f} ms, {apart / joined:.2f}; equal {equal}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for sizes, batch in CASES:
        for replicas in (2, 4, 8):
            compare(sizes, batch, replicas)
