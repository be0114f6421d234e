"""Metrics of any number of labels a row, as a state that merges: integers alone, so that no order of merging counts."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparkwright.evaluation import ranking
from sparkwright.evaluation.metrics import EPSILON, FIXED_POINT, named_areas

__all__ = ["MultiLabelState"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_CHUNK_CELLS = 2**20  # probabilities looked at together: bounds memory


class MultiLabelState:
    """Counts from which all metrics of several labels a row follow.

    Args:
        labels: How many labels there are.

    Memory: about 16 MiB for up to 1,000 labels, whatever the number of rows; in proportion to the labels above that.
    """

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.rows = 0
        self._exact = 0
        self._loss = 0  # fixed point; Python's integers have no largest one
        self._counts = np.zeros((3, labels), np.int64)  # rows that have a label, are predicted to, and both
        cells = labels * ranking.bin_count(labels)
        self._histogram = np.zeros(cells, np.int64)
        self._positives = np.zeros(cells, np.int64)

    def update(
        self,
        probabilities: npt.NDArray[np.floating],
        has: npt.NDArray[np.bool_],
        thresholds: Sequence[float] = (),
    ) -> None:
        """Count rows.

        Args:
            probabilities: Of shape (rows, labels), finite.
            has: Whether a row has a label, of that shape.
            thresholds: Each label's least probability to be predicted; none: one half.
        """
        least_k = np.array(thresholds or [0.5] * self.labels, np.float32)
        step = max(1, _CHUNK_CELLS // self.labels)
        for start in range(0, len(has), step):
            self._count(probabilities[start : start + step], has[start : start + step], least_k)

    def _count(
        self, p_nk: npt.NDArray[np.floating], has_nk: npt.NDArray[np.bool_], least_k: npt.NDArray[np.float32]
    ) -> None:
        predicted_nk = p_nk >= least_k
        self.rows += len(has_nk)
        self._exact += int((predicted_nk == has_nk).all(1).sum())
        self._counts += np.stack([has_nk.sum(0), predicted_nk.sum(0), (has_nk & predicted_nk).sum(0)])
        own_nk = np.where(has_nk, p_nk, 1 - p_nk).astype(np.float64)
        losses_n = -np.log(np.clip(own_nk, EPSILON, 1.0)).mean(1)
        self._loss += int(np.rint(losses_n * FIXED_POINT).astype(np.int64).sum())
        cells_nk = ranking.bins_of(p_nk, self.labels) + np.arange(self.labels) * ranking.bin_count(self.labels)
        self._histogram += np.bincount(cells_nk.ravel(), minlength=len(self._histogram))
        self._positives += np.bincount(cells_nk[has_nk], minlength=len(self._positives))

    def merge(self, other: "MultiLabelState") -> None:
        """Add the rows of another state of as many labels."""
        self.rows += other.rows
        self._exact += other._exact
        self._loss += other._loss
        self._counts += other._counts
        self._histogram += other._histogram
        self._positives += other._positives

    def to_bytes(self) -> bytes:
        """Return the state as NumPy's ``npz`` without pickles; of the histograms what is not zero."""
        scalars = {"labels": self.labels, "rows": self.rows, "exact": self._exact, "loss": self._loss}
        used, positive = np.flatnonzero(self._histogram), np.flatnonzero(self._positives)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            scalars=np.frombuffer(json.dumps(scalars).encode(), np.uint8),
            counts=self._counts,
            histogram=np.stack([used, self._histogram[used]]),
            positives=np.stack([positive, self._positives[positive]]),
        )
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "MultiLabelState":
        """Rebuild a state from `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            scalars = json.loads(arrays["scalars"].tobytes())
            state = MultiLabelState(scalars["labels"])
            state.rows, state._exact, state._loss = scalars["rows"], scalars["exact"], scalars["loss"]
            state._counts = arrays["counts"].copy()
            for counts, name in ((state._histogram, "histogram"), (state._positives, "positives")):
                places, values = arrays[name]
                counts[places] = values
        return state

    def result(self, names: Sequence[str]) -> dict[str, Any]:
        """Return all metrics as JSON can hold them; what is undefined (without rows, say) is None.

        The keys are those listed in `sparkwright.evaluation.evaluate`. Averages are as in scikit-learn; macro averages
        are over the labels that occur, in a row or a prediction.
        """
        having_k, predicted_k, hit_k = self._counts
        table = _scores(having_k, predicted_k, hit_k)
        areas = ranking.areas(self._positives.reshape(self.labels, -1), self._histogram.reshape(self.labels, -1))
        occurs_k, wrong = (having_k > 0) | (predicted_k > 0), int((having_k + predicted_k - 2 * hit_k).sum())
        having, decisions = int(having_k.sum()), self.rows * self.labels
        micro = _scores(*(counts.sum(keepdims=True) for counts in self._counts))
        return {
            "subset_accuracy": _share(self._exact, self.rows),
            "hamming_loss": _share(wrong, decisions),
            "log_loss": _share(self._loss / FIXED_POINT, self.rows),
            **{name: _mean(values[~np.isnan(values)]) for name, values in named_areas(areas).items()},
            "micro": {name: float(values[0]) if decisions else None for name, values in micro.items()},
            "macro": {name: _mean(values[occurs_k]) for name, values in table.items()},
            "weighted": {name: _share(float(values @ having_k), having) for name, values in table.items()},
            "labels_per_row": {
                "true": _share(having, self.rows),
                "predicted": _share(int(predicted_k.sum()), self.rows),
            },
            "baseline": {"none": {"hamming_loss": _share(having, decisions)}},
            "per_class": [
                {
                    "class": names[k],
                    "rows": int(having_k[k]),
                    "predicted": int(predicted_k[k]),
                    "correct": int(hit_k[k]),
                    **{name: float(values[k]) for name, values in table.items()},
                    **{
                        name: None if np.isnan(values[k]) else float(values[k])
                        for name, values in named_areas(areas).items()
                    },
                }
                for k in range(self.labels)
            ],
        }


def _scores(having: Ints, predicted: Ints, hit: Ints) -> dict[str, Floats]:
    """Return precision, recall and F1; 0 where they would divide by zero."""

    def divided(a: Ints, b: Ints) -> Floats:
        return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)

    return {
        "precision": divided(hit, predicted),
        "recall": divided(hit, having),
        "f1": divided(2 * hit, having + predicted),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
