"""Which columns of a table a training reads, and whether they can be read: checked before the first job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from sparkwright.errors import ColumnError, InputError, did_you_mean

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

__all__ = [
    "SIDES",
    "Columns",
    "LabelColumn",
    "LabelKind",
    "LabelKinds",
    "Payload",
    "arrow_schema",
    "check_columns",
    "column_problems",
    "is_text",
    "label_kind",
    "label_kinds",
]

SIDES = ("train", "validation", "test")

LabelKind = Literal["text", "int", "float"]

LabelKinds = LabelKind | Mapping[str, LabelKind]
"""What labels are made of; of several outputs: by name."""

LabelColumn = str | Mapping[str, str]
"""Column of the labels; of several outputs: by name. Those that are not named have the column of their own name."""

Payload = Literal["numbers", "bytes"]
"""What a row moves to its worker: float32 numbers, or the bytes of a binary or a text column (UTF-8)."""


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns; those that are None are not there.

    Attributes:
        features: Vectors, arrays of numbers, or numbers: one after the other they are a row's features.
        label: Text or whole numbers; arrays of them for any number of labels a row; numbers for a regression.
        weight: Weights of rows.
        split: The side of each row: one of `SIDES`.
        outputs: Several outputs, in their order: name and column of the labels. `label` is empty then.
    """

    features: tuple[str, ...] = ("features",)
    label: str = "label"
    weight: str | None = None
    split: str | None = None
    outputs: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(
        features: str | Sequence[str],
        label: LabelColumn,
        weight: str | None = None,
        split: str | None = None,
        outputs: Sequence[str] = (),
    ) -> "Columns":
        """Return the columns, of which one name of features may stand alone.

        Args:
            features: As in `Columns`, and likewise the next three.
            label: Of several outputs: name → column; the default of one output stands for columns of their own names.
            weight: Weights of rows.
            split: The side of each row.
            outputs: Names of several outputs.

        Raises:
            InputError: `label` and `outputs` do not fit.
        """
        named = (features,) if isinstance(features, str) else tuple(features)
        if not outputs and isinstance(label, str):
            return Columns(named, label, weight, split)
        return Columns(named, "", weight, split, _columns_of(outputs, label))

    def of_output(self, name: str) -> "Columns":
        """Return the columns as if one of several outputs was the only one."""
        return replace(self, label=dict(self.outputs)[name], outputs=())

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of labels."""
        return tuple(column for _, column in self.outputs) or (self.label,)

    @property
    def names(self) -> list[str]:
        """The columns that are there, each once."""
        named = (*self.features, *self.labels, self.weight, self.split)
        return list(dict.fromkeys(name for name in named if name is not None))


def _columns_of(outputs: Sequence[str], label: LabelColumn) -> tuple[tuple[str, str], ...]:
    """Return name and column of each of several outputs."""
    if not outputs:
        raise InputError(
            f"`label` names columns of several outputs, {label!r}; say what each learns: TrainingConfig(outputs=…)."
        )
    if isinstance(label, str):
        if label not in ("label", *outputs):
            raise InputError(
                f"There are several outputs, {', '.join(outputs)}: `label` must map them to their columns, such as "
                f"{{{outputs[0]!r}: {label!r}, …}}; got {label!r}."
            )
        label = {}
    unknown = [f"There is no output `{name}`.{did_you_mean(name, outputs)}" for name in label if name not in outputs]
    if unknown:
        raise InputError.listing(f"`label` must map the outputs {', '.join(outputs)} to columns", unknown)
    return tuple((name, label.get(name, name)) for name in outputs)


def label_kinds(schema: pa.Schema, columns: Columns) -> LabelKinds:
    """Return what classes are made of, given the columns' types."""
    if columns.outputs:
        return {name: label_kind(schema.field(column).type) for name, column in columns.outputs}
    return label_kind(schema.field(columns.label).type)


def label_kind(type_: pa.DataType) -> LabelKind:
    """Return what classes are made of, given the label column's type."""
    if pa.types.is_nested(type_):  # any number of labels a row
        return label_kind(type_.value_type)
    if pa.types.is_integer(type_):
        return "int"
    return "float" if pa.types.is_floating(type_) or pa.types.is_decimal(type_) else "text"


def arrow_schema(schema: "StructType", columns: Columns) -> pa.Schema:
    """Return the Arrow types of those columns that a Spark table has; vectors count as arrays."""
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.pandas.types import to_arrow_type

    return pa.schema(
        [
            (
                field.name,
                pa.list_(pa.float32()) if isinstance(field.dataType, VectorUDT) else to_arrow_type(field.dataType),
            )
            for field in schema.fields
            if field.name in columns.names
        ]
    )


def check_columns(
    columns: Columns,
    schema: pa.Schema,
    names: Sequence[str],
    task: str | Mapping[str, str],
    payload: Payload = "numbers",
) -> None:
    """Check that the columns are there, and of types that a training takes.

    Raises:
        ColumnError: All that is wrong, as in `column_problems`.
    """
    problems = column_problems(columns, schema, names, task, payload)
    if problems:
        raise ColumnError.listing("The table cannot be trained on", problems)


def column_problems(
    columns: Columns,
    schema: pa.Schema,
    names: Sequence[str],
    task: str | Mapping[str, str],
    payload: Payload | None = "numbers",
) -> list[str]:
    """Return what is wrong with a table's columns.

    Args:
        columns: Those that are wanted.
        schema: Types of those that are there.
        names: All columns of the table.
        task: ``"classification"``, ``"multilabel"`` or ``"regression"``; of several outputs: by name.
        payload: What the columns of features must hold; None: nobody knows yet.
    """
    problems = [
        f"Column `{name}` not found in {list(names)}.{did_you_mean(name, names)}{_several(columns, name)}"
        for name in columns.names
        if name not in names
    ]
    if not columns.features:
        problems.append("No column of features is named.")
    for name in columns.features:
        if name in (*columns.labels, columns.split):
            problems.append(f"Column `{name}` is among the features, and {_role(name, columns)}.")
        elif columns.features.count(name) > 1:
            problems.append(f"Column `{name}` is among the features more than once.")
    there = {field.name: field.type for field in schema}
    if payload == "bytes" and len(columns.features) > 1:
        problems.append(
            f"The network reads one column; {len(columns.features)} are named. To learn from photos and numbers "
            "together, make features of the photos first (`Featurizer`), and train a head on the features and the "
            "other columns: MLPClassifier(featuresCols=[…])."
        )
        payload = None
    return list(dict.fromkeys(problems + _type_problems(columns, there, task, payload)))


def _several(columns: Columns, name: str) -> str:
    return " Features may also be several columns of numbers: name them all." if columns.features == (name,) else ""


def _role(name: str, columns: Columns) -> str:
    return "is the label: a model that sees the answer learns nothing else" if name in columns.labels else "names sides"


def _type_problems(
    columns: Columns, there: dict[str, pa.DataType], task: str | Mapping[str, str], payload: Payload | None
) -> list[str]:
    problems = [f"Column `{name}` holds nothing but nulls." for name, type_ in there.items() if pa.types.is_null(type_)]
    there = {name: type_ for name, type_ in there.items() if not pa.types.is_null(type_)}
    for name in columns.features if payload else ():
        type_ = there.get(name)
        if type_ is not None and payload == "bytes":
            if not (_is_binary(type_) or is_text(type_)):
                problems.append(f"Column `{name}` must hold files' bytes, their paths, or text; it holds {type_}.")
        elif type_ is not None and not _holds_numbers(type_):
            problems.append(
                f"Column `{name}` must hold vectors, arrays of numbers, or numbers; it holds {type_}. {_way(type_)}"
            )
    tasks = [(columns.label, task)] if isinstance(task, str) else [(c, task[name]) for name, c in columns.outputs]
    for name, own in tasks:
        if name in there:
            problems += _label_problems(name, there[name], own)
    weight, split = there.get(columns.weight or ""), there.get(columns.split or "")
    if weight is not None and not _is_number(weight):
        problems.append(f"Column `{columns.weight}` must hold numbers; it holds {weight}.")
    if split is not None and not is_text(split):
        problems.append(f"Column `{columns.split}` must hold one of {', '.join(SIDES)}; it holds {split}.")
    return problems


def _label_problems(name: str, type_: pa.DataType, task: str) -> list[str]:
    if task == "regression":
        fits, wanted = _is_number(type_), "numbers for a regression"
    elif task == "multilabel":
        fits, wanted = _is_list(type_) and _is_label(type_.value_type), "arrays of text or whole numbers"
    else:
        fits, wanted = _is_label(type_) and not pa.types.is_null(type_), "text or whole numbers"
    several = ' For any number of labels a row take the task "multilabel".' if _is_list(type_) else ""
    return [] if fits else [f"Column `{name}` must hold {wanted}; it holds {type_}.{several}"]


def _way(type_: pa.DataType) -> str:
    """Say how such a column becomes numbers."""
    if is_text(type_):
        return (
            "Text of numbers: read the file with a schema, or cast the column. Text of categories: make columns of it "
            "with pandas' get_dummies, or with Spark's StringIndexer and OneHotEncoder."
        )
    if pa.types.is_temporal(type_):
        return "Make numbers of times: the year, the weekday, the seconds since an event."
    return "`Featurizer` makes features of photos: name their column here."


def _holds_numbers(type_: pa.DataType) -> bool:
    if _is_list(type_):
        return _is_number(type_.value_type)
    return _is_number(type_) or bool(pa.types.is_boolean(type_))


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def _is_label(type_: pa.DataType) -> bool:
    return _is_number(type_) or is_text(type_) or bool(pa.types.is_boolean(type_) or pa.types.is_null(type_))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _is_binary(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_))


def is_text(type_: pa.DataType) -> bool:
    """Whether a column holds text."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))
