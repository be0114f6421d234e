"""The list of rows that have no result, beside the output: what to mend, and to run again."""

from typing import TYPE_CHECKING

from sparkwright.session import worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["write_failed"]

_NAMES = ("path", "key", "sha256")


def write_failed(rows: "DataFrame", uri: str, *names: str, error_column: str = "error") -> None:
    """Write the rows that have an error as Parquet: their names, ``kind`` and ``message``. The driver sees none.

    Args:
        rows: Written already; reading them again computes nothing.
        uri: Folder to write.
        names: Columns that name a row, beside ``path``, ``key`` and ``sha256``; those that are not there are left out.
        error_column: Null, or ``struct<kind,message>``.
    """
    kept = [name for name in dict.fromkeys((*_NAMES, *names)) if name in rows.columns]
    failed = rows.where(rows[error_column].isNotNull())
    with worker_errors():
        failed.select(*kept, f"{error_column}.kind", f"{error_column}.message").write.parquet(uri)
