"""Metrics as states that merge: each task counts its own rows, and the sums of counts give the figures.

Classification counts in integers alone (losses and confidences as fixed-point numbers), so its figures are the same
bit for bit however the rows were partitioned and in whichever order the parts were merged. Regression merges means and
squared deviations (Chan, Golub & LeVeque 1979): the same up to the last digits.

Example:
    >>> state = ClassificationState(classes=2)
    >>> state.update(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
    >>> state.merge(ClassificationState(classes=2))
    >>> state.result(["cat", "dog"])["accuracy"]
    0.5
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparkwright.evaluation import ranking

__all__ = ["EPSILON", "FIXED_POINT", "ClassificationState", "RegressionState", "named_areas", "wilson_interval"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CALIBRATION_BINS = 15
"""Equally wide bins of confidence for the calibration error, as in Guo et al. 2017."""

EPSILON = float(np.finfo(np.float64).eps)
"""A probability of 0 costs -log of this, as in scikit-learn."""

FIXED_POINT = 2.0**36
"""Units per 1 in sums of losses and confidences: each is exact to 1e-11."""

_CHUNK_CELLS = 2**20  # probabilities looked at together: bounds memory, and keeps int64 sums of a chunk in range
_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def wilson_interval(correct: int, rows: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson 1927): ``(0.0, 1.0)`` without rows."""
    if rows == 0:
        return 0.0, 1.0
    share, z2 = correct / rows, _Z95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    # Rounding must not leave the share itself, 0 or 1, outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


class ClassificationState:
    """Counts from which all classification metrics follow.

    Args:
        classes: How many classes there are, at least 2.
        top_k: A row counts as right "in the top k" if fewer than k classes are ahead of its own. Of classes with equal
            probability the first is ahead, here and in the prediction.

    Memory: about 16 MiB for up to 1,000 classes, whatever the number of rows; in proportion to the classes above that,
    plus one entry for each pair of classes that occurs.
    """

    def __init__(self, classes: int, top_k: int = 5) -> None:
        self.classes = classes
        self.top_k = top_k
        self.rows = 0
        self._top_hits = 0
        self._loss = 0  # fixed point; Python's integers have no largest one
        self._confidence = [0] * CALIBRATION_BINS  # likewise
        self._bin_rows = np.zeros(CALIBRATION_BINS, np.int64)
        self._bin_correct = np.zeros(CALIBRATION_BINS, np.int64)
        self._pairs = np.zeros(0, np.int64)  # true * classes + predicted, ascending
        self._pair_rows = np.zeros(0, np.int64)
        cells = classes * ranking.bin_count(classes)
        self._histogram = np.zeros(cells, np.int64)
        self._positives = np.zeros(cells, np.int64)

    def update(
        self,
        probabilities: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer],
        threshold: float | None = None,
    ) -> None:
        """Count rows.

        Args:
            probabilities: Of shape (rows, classes), finite.
            labels: Class indices, of shape (rows,).
            threshold: Of two classes: the second's least probability to be predicted; None: that of the most probable.
        """
        step = max(1, _CHUNK_CELLS // self.classes)
        for start in range(0, len(labels), step):
            part = np.asarray(labels[start : start + step], np.int64)
            self._count(probabilities[start : start + step], part, threshold)

    def _count(self, probabilities: npt.NDArray[np.floating], labels_n: Ints, threshold: float | None) -> None:
        p_nc = probabilities.astype(np.float64)
        rows_n, class_c = np.arange(len(labels_n)), np.arange(self.classes)
        own_n = p_nc[rows_n, labels_n]
        predicted_n = p_nc.argmax(1) if threshold is None else (p_nc[:, 1] >= np.float32(threshold)).astype(np.int64)
        equal_before_nc = (p_nc == own_n[:, None]) & (class_c < labels_n[:, None])
        ahead_n = ((p_nc > own_n[:, None]) | equal_before_nc).sum(1)
        self.rows += len(labels_n)
        self._top_hits += int((ahead_n < self.top_k).sum())
        self._loss += int(_fixed(-np.log(np.clip(own_n, EPSILON, 1.0))).sum())
        self._calibrate(p_nc[rows_n, predicted_n], predicted_n == labels_n)
        self._add_pairs(*np.unique(labels_n * self.classes + predicted_n, return_counts=True))
        cells_nc = ranking.bins_of(p_nc, self.classes) + class_c * ranking.bin_count(self.classes)
        self._histogram += np.bincount(cells_nc.ravel(), minlength=len(self._histogram))
        np.add.at(self._positives, cells_nc[rows_n, labels_n], 1)

    def _calibrate(self, confidence_n: Floats, correct_n: npt.NDArray[np.bool_]) -> None:
        edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
        bin_n = np.searchsorted(edges[1:-1], confidence_n)  # bins are open below and closed above
        self._bin_rows += np.bincount(bin_n, minlength=CALIBRATION_BINS)
        self._bin_correct += np.bincount(bin_n[correct_n], minlength=CALIBRATION_BINS)
        sums = np.zeros(CALIBRATION_BINS, np.int64)
        np.add.at(sums, bin_n, _fixed(confidence_n))
        self._confidence = [a + int(b) for a, b in zip(self._confidence, sums, strict=True)]

    def _add_pairs(self, pairs: Ints, rows: Ints) -> None:
        self._pairs, place = np.unique(np.concatenate([self._pairs, pairs]), return_inverse=True)
        total = np.zeros(len(self._pairs), np.int64)
        np.add.at(total, place, np.concatenate([self._pair_rows, rows]))
        self._pair_rows = total

    def merge(self, other: "ClassificationState") -> None:
        """Add the rows of another state of as many classes and the same `top_k`."""
        self.rows += other.rows
        self._top_hits += other._top_hits
        self._loss += other._loss
        self._confidence = [a + b for a, b in zip(self._confidence, other._confidence, strict=True)]
        self._bin_rows += other._bin_rows
        self._bin_correct += other._bin_correct
        self._add_pairs(other._pairs, other._pair_rows)
        self._histogram += other._histogram
        self._positives += other._positives

    def to_bytes(self) -> bytes:
        """Return the state as NumPy's ``npz`` without pickles; of the histograms what is not zero."""
        scalars = {
            "classes": self.classes,
            "top_k": self.top_k,
            "rows": self.rows,
            "top_hits": self._top_hits,
            "loss": self._loss,
            "confidence": self._confidence,
        }
        used, positive = np.flatnonzero(self._histogram), np.flatnonzero(self._positives)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            scalars=np.frombuffer(json.dumps(scalars).encode(), np.uint8),
            bins=np.stack([self._bin_rows, self._bin_correct]),
            pairs=np.stack([self._pairs, self._pair_rows]),
            histogram=np.stack([used, self._histogram[used]]),
            positives=np.stack([positive, self._positives[positive]]),
        )
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "ClassificationState":
        """Rebuild a state from `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            scalars = json.loads(arrays["scalars"].tobytes())
            state = ClassificationState(scalars["classes"], scalars["top_k"])
            state.rows, state._top_hits = scalars["rows"], scalars["top_hits"]
            state._loss, state._confidence = scalars["loss"], scalars["confidence"]
            state._bin_rows, state._bin_correct = arrays["bins"].copy()
            state._pairs, state._pair_rows = arrays["pairs"].copy()
            for counts, name in ((state._histogram, "histogram"), (state._positives, "positives")):
                places, values = arrays[name]
                counts[places] = values
        return state

    def result(self, names: Sequence[str], training_rows: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return all metrics as JSON can hold them; what is undefined (without rows, say) is None.

        Args:
            names: The classes' names in their order.
            training_rows: Rows of each class that the model learned from: which class is the majority, for the
                baseline. Without it the evaluated rows say so.

        The keys are those listed in `sparkwright.evaluation.evaluate`. Precision, recall and F1 are 0 where they would
        divide by zero; macro averages are over the classes that occur, as a label or a prediction, and balanced
        accuracy over those that occur as a label: all as in scikit-learn.
        """
        true, predicted = np.divmod(self._pairs, self.classes)
        rows_c = self._per_class(true, self._pair_rows)
        predicted_c = self._per_class(predicted, self._pair_rows)
        hit = true == predicted
        correct_c = self._per_class(true[hit], self._pair_rows[hit])
        correct = int(correct_c.sum())
        precision_c, recall_c = _divide(correct_c, predicted_c), _divide(correct_c, rows_c)
        f1_c = _divide(2 * correct_c, rows_c + predicted_c)
        areas = ranking.areas(self._positives.reshape(self.classes, -1), self._histogram.reshape(self.classes, -1))
        table = {"precision": precision_c, "recall": recall_c, "f1": f1_c}
        occurs_c = (rows_c > 0) | (predicted_c > 0)
        majority = self._majority(names, rows_c, training_rows)
        return {
            "accuracy": _share(correct, self.rows),
            "accuracy_interval": list(wilson_interval(correct, self.rows)),
            "balanced_accuracy": _mean(recall_c[rows_c > 0]),
            "top_k": self.top_k,
            "top_k_accuracy": _share(self._top_hits, self.rows),
            "log_loss": _share(self._loss / FIXED_POINT, self.rows),
            "calibration_error": self._calibration_error(),
            "mcc": _matthews(self.rows, correct, rows_c, predicted_c),
            **self._headline_areas(areas),
            "macro": {name: _mean(values[occurs_c]) for name, values in table.items()},
            "weighted": {name: _share(float(values @ rows_c), self.rows) for name, values in table.items()},
            "baseline": {
                "majority": {"class": names[majority], "accuracy": _share(int(rows_c[majority]), self.rows)},
                "chance": {"accuracy": 1 / self.classes},
            },
            "calibration": self._calibration_table(),
            "per_class": [
                {
                    "class": names[c],
                    "rows": int(rows_c[c]),
                    "predicted": int(predicted_c[c]),
                    "correct": int(correct_c[c]),
                    **{name: float(values[c]) for name, values in table.items()},
                    **{name: _or_none(values[c]) for name, values in named_areas(areas).items()},
                }
                for c in range(self.classes)
            ],
            "confusion": {
                "true": true.tolist(),
                "predicted": predicted.tolist(),
                "rows": self._pair_rows.tolist(),
            },
        }

    def _per_class(self, classes: Ints, rows: Ints) -> Ints:
        total = np.zeros(self.classes, np.int64)
        np.add.at(total, classes, rows)
        return total

    def _majority(self, names: Sequence[str], rows_c: Ints, training_rows: Mapping[str, int] | None) -> int:
        known = rows_c if training_rows is None else np.array([training_rows.get(name, 0) for name in names])
        return int(known.argmax())

    def _headline_areas(self, areas: ranking.Areas) -> dict[str, float | None]:
        """Of two classes the area of the second; of more the mean over the classes where it is defined."""
        chosen = slice(1, 2) if self.classes == 2 else slice(None)
        return {name: _mean(values[chosen][~np.isnan(values[chosen])]) for name, values in named_areas(areas).items()}

    def _calibration_error(self) -> float | None:
        """Return the expected calibration error: mean over rows of |confidence - accuracy| of the row's bin."""
        gaps = [
            abs(sum_ / FIXED_POINT - int(correct))
            for sum_, correct in zip(self._confidence, self._bin_correct, strict=True)
        ]
        return _share(math.fsum(gaps), self.rows)

    def _calibration_table(self) -> dict[str, list[Any]]:
        return {
            "rows": self._bin_rows.tolist(),
            "confidence": [
                _share(sum_ / FIXED_POINT, int(rows))
                for sum_, rows in zip(self._confidence, self._bin_rows, strict=True)
            ],
            "accuracy": [
                _share(int(correct), int(rows)) for correct, rows in zip(self._bin_correct, self._bin_rows, strict=True)
            ],
        }


class RegressionState:
    """Counts from which the regression metrics follow."""

    def __init__(self) -> None:
        # Rows, mean of labels, squared deviations from it, absolute errors, squared errors, errors.
        self._sums = np.zeros(6)

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return int(self._sums[0])

    def update(self, predictions: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> None:
        """Count rows: both arrays of shape (rows,), finite."""
        if len(labels):
            y, error = labels.astype(np.float64), predictions.astype(np.float64) - labels
            mean = y.mean()
            self._add(
                np.array([len(y), mean, ((y - mean) ** 2).sum(), np.abs(error).sum(), (error**2).sum(), error.sum()])
            )

    def merge(self, other: "RegressionState") -> None:
        """Add the rows of another state."""
        if other.rows:
            self._add(other._sums)

    def _add(self, other: Floats) -> None:
        rows, step = self._sums[0] + other[0], other[1] - self._sums[1]
        deviations = step**2 * self._sums[0] * other[0] / rows  # Chan, Golub & LeVeque, eq. 2.1
        mean = self._sums[1] + step * other[0] / rows
        self._sums = self._sums + other
        self._sums[1] = mean
        self._sums[2] += deviations

    def to_bytes(self) -> bytes:
        """Return the state as six float64."""
        return self._sums.tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> "RegressionState":
        """Rebuild a state from `to_bytes`."""
        state = RegressionState()
        state._sums = np.frombuffer(data, np.float64).copy()
        return state

    def result(self, training_mean: float | None = None) -> dict[str, Any]:
        """Return all metrics as JSON can hold them.

        Args:
            training_mean: Mean label of the rows that the model learned from: what the baseline predicts for every
                row. Without it, the mean of the evaluated rows.
        """
        rows, mean, deviations, absolute, squared, error = (float(value) for value in self._sums)
        if rows == 0:
            return {"mae": None, "rmse": None, "r2": None, "bias": None, "baseline": {"mean": {"rmse": None}}}
        guess = mean if training_mean is None else training_mean
        return {
            "mae": absolute / rows,
            "rmse": math.sqrt(squared / rows),
            "r2": 1 - squared / deviations if deviations > 0 else None,
            "bias": error / rows,
            "baseline": {"mean": {"prediction": guess, "rmse": math.sqrt(deviations / rows + (mean - guess) ** 2)}},
        }


def _fixed(values: Floats) -> Ints:
    return np.rint(values * FIXED_POINT).astype(np.int64)


def _divide(a: Ints, b: Ints) -> Floats:
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)


def _share(part: float, rows: int) -> float | None:
    return part / rows if rows else None


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def named_areas(areas: ranking.Areas) -> dict[str, Floats]:
    """Return the areas of each class, and their bounds, by their names in a result."""
    return {
        "roc_area": areas.roc,
        "roc_area_bound": areas.roc_bound,
        "pr_area": areas.pr,
        "pr_area_bound": areas.pr_bound,
    }


def _matthews(rows: int, correct: int, rows_c: Ints, predicted_c: Ints) -> float | None:
    """Return Matthews' correlation for many classes (Gorodkin 2004); 0 where it would divide by zero."""
    if rows == 0:
        return None
    spread = (rows**2 - int(rows_c @ rows_c)) * (rows**2 - int(predicted_c @ predicted_c))
    return (correct * rows - int(rows_c @ predicted_c)) / math.sqrt(spread) if spread else 0.0
