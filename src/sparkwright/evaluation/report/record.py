"""What a report is made from."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from PIL import Image, ImageOps

from sparkwright.evaluation.report.tuning.record import SearchRecord
from sparkwright.events import Stamped

__all__ = ["RunRecord", "Thumbnail", "make_thumbnail"]


@dataclass(frozen=True)
class Thumbnail:
    """A photo that the model was sure of, and wrong about.

    Attributes:
        path: Where the photo lies.
        label: Its true class.
        predicted: The class that the model gave it.
        probability: How sure the model was, 0…1.
        jpeg: A small version of the photo (`make_thumbnail`), or nothing where it could not be read.
    """

    path: str
    label: str
    predicted: str
    probability: float
    jpeg: bytes = field(default=b"", repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {**dataclasses.asdict(self), "jpeg": base64.b64encode(self.jpeg).decode()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a thumbnail from `to_dict`."""
        return cls(**{**data, "jpeg": base64.b64decode(data.get("jpeg", ""))})


def make_thumbnail(content: bytes, side: int = 160) -> bytes:
    """Return a photo's bytes as a JPEG of at most `side` pixels a side, empty if they are no photo."""
    try:
        with Image.open(io.BytesIO(content)) as photo:
            photo.draft("RGB", (2 * side, 2 * side))  # lets a JPEG be decoded at a fraction of its size
            small = ImageOps.exif_transpose(photo).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()


@dataclass(frozen=True)
class RunRecord:
    """A run, as its folder holds it.

    Attributes:
        title: What the page is called: the run's folder, say.
        config: What was asked for (``config.json``); nested mappings are shown as ``a.b``.
        metrics: What came out (``metrics.json``); every key may be missing::

            "validation", "test"   `Evaluation.to_dict()` of a side; what has no "task" is not shown
            "seconds"              {stage: seconds}
            "data"                 the data summary:
                "rows"        {side: {class: rows}}, sides "train", "validation", "test"
                "errors"      {"count", "kinds": {kind: n}, "examples": [{"path", "kind", "message"}]}
                "duplicates"  {"count", "across_sides", "examples": [[path, path…]…]}: the same bytes more than once
                "unmatched"   {"count", "examples": [path]}: files that no rule gave a label
                "ignored"     files that are no photos

        events: What happened (``events.jsonl``): learning curves, layers, augmented photos, stages and warnings.
        versions: Of Python's packages.
        command: The shell command that repeats the run.
        thumbnails: Photos most confidently wrong, the surest first.
        search: The search for hyperparameters that the run did, if it did one.
        created: When the run ended: ISO 8601, or any text.
    """

    title: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Stamped] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    thumbnails: Sequence[Thumbnail] = ()
    search: SearchRecord | None = None
    created: str = ""
