"""How each layer learns: looked at every some hundred steps, in one replica, and told as events.

What is measured of a layer with weights (matrices and kernels; biases and BatchNorm's two vectors are left out):

- *update ratio*: how long the step's change of the weights is beside the weights; about 0.001 in a training that goes
  well;
- *gradient norm*: of the batch's loss, before clipping;
- *dead units*: the share of units (channels of a convolution) whose activation is the same for all that the batch has;
- *spread*: the standard deviation of the layer's outputs, before the activation.

Looking changes nothing: weights and random numbers stay those of a training that is not looked at.
"""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparkwright.events import Emit, LayersMeasured, Warned

__all__ = ["Health", "advice"]

_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Softplus,
)  # fmt: skip
_SAME = 1e-6  # what a unit's outputs may differ by and still count as the same
_ENOUGH = 16  # outputs of a unit, below which it is too early to call it dead

_EARLY = (25, 50, 100)  # steps that are looked at too: many a fine-tuning has no more than a few hundred

_DEAD = 0.9  # share of a layer's units that is worth a warning
_STILL = 1e-10  # gradient norm of a layer that does not learn
_HIGH, _LOW = 1e-2, 1e-5  # update ratios that may be why a training does not get on
_STUCK = 0.95  # of the first epoch's loss: above it a training does not get on
_EPOCHS = 3  # before that is judged
_TOLD = 5  # layers named in a warning

_NOTHING = contextlib.nullcontext()

Layer = dict[str, Any]
"""Name and figures of a layer, as `sparkwright.events.LayersMeasured` has them."""


class Health:
    """Looks at the layers of a replica.

    Args:
        module: The replica's layers; frozen ones are left out.
        every: Steps from look to look; the first few looks come sooner.
        rate: The schedule's highest rate: where the rate is far below it, small updates are no bad sign.
        phase: ``"selection"``, or ``"refit"``, which is not warned of.
        emit: What takes the events.
    """

    def __init__(self, module: nn.Module, every: int, rate: float, phase: str, emit: Emit) -> None:
        self._module, self._every, self._rate, self._phase, self._emit = module, every, rate, phase, emit
        self._seen: dict[str, dict[str, Tensor]] = {}  # what the forward pass has shown of each layer
        self._suspected: set[tuple[str, str]] = set()  # layer and what is wrong, at the last look
        self._warned: set[tuple[str, str]] = set()
        self._ratio = 0.0  # median of the last look's

    def _layers(self) -> dict[str, list[nn.Parameter]]:
        """Return the weights of each layer that trains now; more may later."""
        return {
            name: weights
            for name, layer in self._module.named_modules()
            if (weights := [p for p in layer.parameters(recurse=False) if p.requires_grad and p.dim() >= 2])
        }

    def _due(self, step: int) -> bool:
        return step % self._every == 0 or (step < self._every and step in _EARLY)

    def forward(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Return what a step's forward pass runs in."""
        return self._watching() if self._due(step) else _NOTHING

    def update(self, rate: float, step: int, epoch: int) -> contextlib.AbstractContextManager[None]:
        """Return what a step's update runs in; the gradient is there before it."""
        return self._comparing(rate, step, epoch) if self._due(step) else _NOTHING

    def epoch_ended(self, epoch: int, first_loss: float, loss: float) -> None:
        """Take an epoch's loss beside the first one's; warn of a training that gets nowhere if the rate may be why."""
        why = advice(first_loss, loss, epoch, self._ratio, self._rate)
        if why and self._phase == "selection" and ("", "stuck") not in self._warned:
            self._warned.add(("", "stuck"))
            self._emit(Warned(why, about="layers"))

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        self._seen.clear()
        last: list[str] = []  # the layer with weights that was met last

        def met(name: str) -> Callable[..., None]:
            def note(layer: nn.Module, _inputs: Any, output: Any) -> None:
                values = output[0] if isinstance(output, tuple) else output
                if isinstance(values, Tensor) and values.is_floating_point():
                    last[:] = [name, "last" if isinstance(layer, nn.Linear) else "second"]
                    self._seen[name] = {"spread": values.detach().float().std(correction=0)}

            return note

        def activated(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            if last and "dead" not in self._seen[last[0]] and (dead := _dead_share(output, last[1])) is not None:
                self._seen[last[0]]["dead"] = dead

        hooks, watched = [], self._layers()
        for name, layer in self._module.named_modules():
            if name in watched:
                hooks.append(layer.register_forward_hook(met(name)))
            elif isinstance(layer, _ACTIVATIONS):
                hooks.append(layer.register_forward_hook(activated))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextlib.contextmanager
    def _comparing(self, rate: float, step: int, epoch: int) -> Iterator[None]:
        watched = self._layers()
        before = {name: [p.detach().clone() for p in weights] for name, weights in watched.items()}
        gradients = {
            name: _norm([p.grad if p.grad is not None else torch.zeros(1) for p in weights])
            for name, weights in watched.items()
        }
        yield
        layers: list[Layer] = []
        for name, weights in watched.items():
            change = _norm([new.detach() - old for new, old in zip(weights, before[name], strict=True)])
            seen = {what: float(value) for what, value in self._seen.get(name, {}).items()}
            layers.append(
                {
                    "name": name,
                    "update_ratio": float(change / _norm(before[name]).clamp_min(1e-12)),
                    "gradient_norm": float(gradients[name]),
                    "dead": seen.get("dead"),
                    "spread": seen.get("spread"),
                }
            )
        self._seen.clear()
        self._emit(LayersMeasured(self._phase, epoch, step, layers))
        self._judge(layers, rate)

    def _judge(self, layers: Sequence[Layer], rate: float) -> None:
        """Warn, once, of what two looks in a row have shown."""
        if rate < 0.1 * self._rate or not layers or self._phase != "selection":
            return
        self._ratio = statistics.median(layer["update_ratio"] for layer in layers)
        found = {(layer["name"], "dead") for layer in layers if (layer["dead"] or 0) > _DEAD}
        found |= {(layer["name"], "still") for layer in layers if layer["gradient_norm"] < _STILL}
        new = (found & self._suspected) - self._warned
        self._suspected = found
        self._warned |= new
        for what, words in _WORDS.items():
            names = [layer["name"] for layer in layers if (layer["name"], what) in new]
            if names:
                more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
                listed = ", ".join(f"`{name}`" for name in names[:_TOLD])
                self._emit(Warned(words.format(layers=listed + more), about="layers"))


_WORDS = {
    "dead": (
        "More than nine tenths of the units are dead, the same for all rows of a batch, in {layers}. Lower "
        "`learningRate`, lengthen `warmup`, or take another activation (leaky_relu, gelu) or BatchNorm before it."
    ),
    "still": (
        "Not learning: {layers}, because no gradient comes through. Look for dead units behind it, and whether the "
        "output depends on it at all."
    ),
}


def advice(first_loss: float, loss: float, epoch: int, ratio: float, rate: float) -> str:
    """Return what to do about a training whose loss does not fall; empty if it does, or if the rate is not why.

    Args:
        first_loss: Mean loss of the first epoch.
        loss: Of this epoch.
        epoch: Its number, from 1.
        ratio: The median layer's update ratio; 0 if unknown.
        rate: The schedule's highest rate.
    """
    if epoch < _EPOCHS or loss < _STUCK * first_loss or not ratio or _LOW <= ratio <= _HIGH:
        return ""
    begin = (
        f"The loss does not fall: {first_loss:.4g} in the first epoch, {loss:.4g} in epoch {epoch}. A step changes the "
        f"weights of the median layer by {ratio:.2g} of their length, where about 0.001 is usual"
    )
    if ratio > _HIGH:
        return f"{begin}: the rate is probably too high. Lower `learningRate` (now {rate:g}), or lengthen `warmup`."
    return f"{begin}: the rate is probably too low. Raise `learningRate` (now {rate:g})."


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the length of some tensors as one vector."""
    lengths = torch.stack([torch.linalg.vector_norm(tensor.detach().float()) for tensor in tensors])
    length: Tensor = torch.linalg.vector_norm(lengths)
    return length


def _dead_share(output: Tensor, unit: str) -> Tensor | None:
    """Return the share of units that give the same for the whole batch; None if the batch shows too little."""
    dim = (output.dim() - 1) if unit == "last" else 1
    if output.dim() < 2 or output.numel() < _ENOUGH * output.shape[dim]:
        return None
    others = [place for place in range(output.dim()) if place != dim]
    values = output.detach()
    same: Tensor = values.amax(others) - values.amin(others) <= _SAME
    return same.float().mean()
