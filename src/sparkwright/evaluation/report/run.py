"""The sections on how the result came about: learning curves, data, configuration, stages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparkwright.evaluation.report.charts import Series, legend, line_chart
from sparkwright.evaluation.report.markup import (
    SHARES,
    Cell,
    Column,
    counted,
    decimal,
    figure,
    findings,
    metric_name,
    percent,
    seconds,
    section,
    table,
    text,
    whole,
)
from sparkwright.evaluation.report.record import RunRecord
from sparkwright.events import EpochEnded, RunStarted, StageEnded, Stamped, SyncIntervalChosen, TaskTimed

__all__ = ["data_section", "learning_section", "run_section"]

_TALL = 25


def learning_section(events: Sequence[Stamped]) -> str:
    """Return the learning curves: the loss and each metric, of training and validation, and all replicas' losses."""
    epochs = _epochs(events)
    if not epochs:
        return ""
    search, refit = _phases(epochs)
    chosen = next((e for e in reversed(search) if e.best), None)
    best = chosen.epoch if chosen is not None else None
    charts = [_loss_figure(search, refit, best)]
    names = dict.fromkeys(name for e in search for name in (*_training(e), *e.validation) if name != "loss")
    charts += [_metric_figure(name, search, best) for name in names]
    replicas = len(search[0].replica_losses)
    sentences = [
        f"{len(search)} epochs of {search[0].rows:,} rows on {replicas} replica{'s' if replicas != 1 else ''}."
    ]
    if chosen is not None:
        figures = ", ".join(_told(name, value) for name, value in chosen.validation.items())
        sentences.append(f"Epoch {best} is the best on the validation rows{f': {figures}' if figures else ''}.")
    every = next((e.event for e in events if isinstance(e.event, SyncIntervalChosen)), None)
    if every is not None:
        sentences.append(
            f"Replicas combined every {every.every:,} steps: a step was measured to take {1000 * every.step_s:.1f} "
            f"ms, a sync {1000 * every.sync_s:.1f} ms, and syncs were to take {percent(every.wanted)} of the time."
        )
    if refit:
        sentences.append(f"Then it trained anew on training and validation rows for {counted(len(refit), 'epoch')}.")
    return section("learning", "Learning", f'<div class="charts">{"".join(charts)}</div>', note=" ".join(sentences))


def _told(name: str, value: float) -> str:
    return f"{text(metric_name(name))} {percent(value) if name.endswith(SHARES) else decimal(value)}"


def _epochs(events: Sequence[Stamped]) -> list[EpochEnded]:
    """Return the epochs; those of a run that was resumed replace what an earlier attempt said of the same ones."""
    kept: list[EpochEnded] = []
    attempt: list[EpochEnded] = []
    for stamped in events:
        if isinstance(stamped.event, RunStarted):
            kept, attempt = _joined(kept, attempt), []
        elif isinstance(stamped.event, EpochEnded):
            attempt.append(stamped.event)
    return _joined(kept, attempt)


def _joined(kept: list[EpochEnded], attempt: list[EpochEnded]) -> list[EpochEnded]:
    return [epoch for epoch in kept if epoch.epoch < attempt[0].epoch] + attempt if attempt else kept


def _phases(epochs: Sequence[EpochEnded]) -> tuple[list[EpochEnded], list[EpochEnded]]:
    """Split where epochs begin again: the training that chose the epoch, and the one on all rows after it."""
    for place in range(1, len(epochs)):
        if epochs[place].epoch <= epochs[place - 1].epoch:
            return list(epochs[:place]), list(epochs[place:])
    return list(epochs), []


def _training(epoch: EpochEnded) -> dict[str, float]:
    """Return metrics of the training rows, where the event has them."""
    return epoch.to_dict().get("training") or {}


def _loss_figure(search: Sequence[EpochEnded], refit: Sequence[EpochEnded], best: int | None) -> str:
    x = [e.epoch for e in search]
    lines, keys = [], [("train", "training")]
    replicas = len(search[0].replica_losses)
    if replicas > 1:
        keys.append(("replica", "replicas"))
        lines += [
            Series(f"replica {r}", "replica", x, [e.replica_losses[r] for e in search])
            for r in range(replicas)
            if all(len(e.replica_losses) == replicas for e in search)
        ]
    if refit:
        keys.append(("refit", "retrained"))
        lines.append(Series("retrained", "refit", [e.epoch for e in refit], [e.train_loss for e in refit]))
    lines.append(Series("training", "train", x, [e.train_loss for e in search]))
    lines += _validation("loss", search)
    if any("loss" in e.validation for e in search):
        keys.append(("validation", "validation"))
    picture = line_chart(lines, description=_described("Loss", lines), x_label="epoch", mark=_mark(best))
    return figure(picture, f"<b>Loss</b> {legend(keys)}", _numbers(search))


def _metric_figure(name: str, search: Sequence[EpochEnded], best: int | None) -> str:
    share = name.endswith(SHARES)
    trained = [(e.epoch, _training(e)[name]) for e in search if name in _training(e)]
    lines = [Series("training", "train", *zip(*trained, strict=True))] if trained else []
    lines += _validation(name, search)
    title = metric_name(name)
    title = title if "." in name else title[0].upper() + title[1:]  # an output's name stays as it is
    picture = line_chart(lines, description=_described(title, lines), x_label="epoch", percent=share, mark=_mark(best))
    return figure(picture, f"<b>{text(title)}</b> {legend([(line.style, line.name) for line in lines])}")


def _validation(name: str, search: Sequence[EpochEnded]) -> list[Series]:
    points = [(e.epoch, e.validation[name]) for e in search if name in e.validation]
    return [Series("validation", "validation", *zip(*points, strict=True))] if points else []


def _mark(best: int | None) -> tuple[float, str] | None:
    return None if best is None else (best, f"best: {best}")


def _described(title: str, lines: Sequence[Series]) -> str:
    parts = [f"{line.name} {line.y[0]:.4g} → {line.y[-1]:.4g}" for line in lines if line.style != "replica"]
    return f"{title} by epoch, first → last: {', '.join(parts)}"


def _numbers(search: Sequence[EpochEnded]) -> str:
    names = list(dict.fromkeys(name for e in search for name in e.validation))
    sent = any(e.sent_bytes for e in search)
    columns = [
        Column("Epoch"),
        Column("Training loss"),
        *(Column(f"Validation {metric_name(name)}") for name in names),
        Column("Learning rate"),
        Column("Time"),
        Column("Spent on syncs"),
        *([Column("Sent"), Column("Saved by compression")] if sent else []),
    ]
    rows = [
        [
            str(e.epoch),
            f"{e.train_loss:.4f}",
            *(f"{e.validation[name]:.4f}" if name in e.validation else "" for name in names),
            f"{e.learning_rate:.3g}",
            seconds(e.seconds),
            percent(e.sync_share),
            *([_mebibytes(e.sent_bytes), _mebibytes(e.saved_bytes)] if sent else []),
        ]
        for e in search
    ]
    return table(columns, rows, caption="Epochs", tall=len(rows) > _TALL)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def data_section(data: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]]) -> str:
    """Return rows per split and class, errors, duplicates, files left out."""
    if not data:
        return ""
    parts = []
    counts: Mapping[str, Mapping[str, int]] = data.get("rows") or {}
    if counts:
        totals = {side: sum(rows.values()) for side, rows in counts.items()}
        every = sum(totals.values())
        shares = ", ".join(
            f"{n:,} {text(side)} ({percent(n / every if every else None, 0)})" for side, n in totals.items()
        )
        classes = sorted({name for rows in counts.values() for name in rows})
        parts.append(f"<p>{every:,} rows of {len(classes):,} classes: {shares}.</p>")
        parts.append(_class_table(counts, classes))
    parts.append(_problems(data, sides))
    return section("data", "Data", *parts)


def _class_table(counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> str:
    most = max((sum(rows.get(name, 0) for rows in counts.values()) for name in classes), default=1)
    rows = []
    for name in classes:
        each = [side.get(name, 0) for side in counts.values()]
        rows.append([name, *(Cell(whole(n), n) for n in each), Cell(whole(sum(each)), sum(each), bar=sum(each) / most)])
    columns = [
        Column("Class", numeric=False),
        *(Column(side.capitalize()) for side in counts),
        Column("All"),
    ]
    return table(columns, rows, caption="Rows per class and split", sorted_by=0, tall=len(rows) > _TALL)


def _problems(data: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what was wrong with the data, as a list; a line also where nothing was."""
    lines = []
    errors = data.get("errors") or {}
    if errors.get("count"):
        kinds = ", ".join(f"{n:,} {text(kind)}" for kind, n in errors.get("kinds", {}).items())
        examples = _examples(map(_error_line, errors.get("examples", ())))
        lines.append(f"<b>Failed rows: {errors['count']:,}</b> ({kinds}).{examples}")
    else:
        lines.append("Every row could be read.")
    duplicates = data.get("duplicates")
    if duplicates and duplicates.get("count"):
        across = duplicates.get("across_sides", 0)
        warning = (
            f", <b>on different sides of the split: {across:,}</b>, so that the figures flatter."
            if across
            else ", none on different sides of the split."
        )
        groups = (" = ".join(text(path) for path in group) for group in duplicates.get("examples", ()))
        lines.append(f"Copies of another row: {duplicates['count']:,}{warning}{_examples(groups)}")
    elif duplicates is not None:
        lines.append("No two rows hold the same bytes.")
    unmatched = data.get("unmatched") or {}
    if unmatched.get("count"):
        lines.append(
            f"<b>Files that match no label rule, left out: {unmatched['count']:,}.</b>"
            f"{_examples(map(text, unmatched.get('examples', ())))}"
        )
    if data.get("ignored"):
        lines.append(f"Files that are no photos, ignored: {data['ignored']:,}.")
    for name, side in sides.items():
        unknown = side.get("unknown_labels") or {}
        if unknown.get("rows"):
            lines.append(
                f"<b>Rows ({text(name)}) whose label the model does not know: {unknown['rows']:,}.</b>"
                f"{_examples(map(text, unknown['examples']))}"
            )
    return f'<ul class="findings">{"".join(f"<li>{line}</li>" for line in lines)}</ul>'


def _error_line(example: Mapping[str, Any]) -> str:
    path, kind, message = (text(example.get(key, "")) for key in ("path", "kind", "message"))
    return f"<code>{path}</code> {kind}: {message}"


def _examples(lines: Iterator[str]) -> str:
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f"<details><summary>Examples</summary><ul>{items}</ul></details>" if items else ""


def run_section(record: RunRecord) -> str:
    """Return stages with their seconds, warnings, configuration, versions and the command that repeats the run."""
    command = f'<h3>Command</h3><pre tabindex="0"><code>{text(record.command)}</code></pre>' if record.command else ""
    settings = [[key, _shown(value)] for key, value in _flat(record.config)]
    columns = [Column("Name", numeric=False), Column("Value", numeric=False)]
    configuration = table(columns, settings, caption="Configuration", tall=len(settings) > _TALL) if settings else ""
    versions = table(columns, list(record.versions.items()), caption="Versions") if record.versions else ""
    return section(
        "run",
        "The run",
        findings(record.events),
        command,
        f'<div class="pair">{_stage_table(record)}{_step_table(record.events)}{versions}</div>',
        configuration,
    )


def _stage_table(record: RunRecord) -> str:
    ended = {s.event.stage: s.event for s in record.events if isinstance(s.event, StageEnded)}
    spent = dict(record.metrics.get("seconds") or {stage: event.seconds for stage, event in ended.items()})
    total = spent.pop("total", None) or sum(spent.values())
    if not spent:
        return ""
    rows = []
    for stage, taken in spent.items():
        event = ended.get(stage)
        done = event.rows if event and stage != "refit" else 0  # whose rows pass once an epoch
        rate = f"{decimal(done / taken, 1)}/s" if done and taken else ""
        rows.append(
            [stage, Cell(seconds(taken), bar=min(1, taken / total) if total else 0), whole(done) if done else "", rate]
        )
    rows.append(["all", seconds(total), "", ""])
    columns = [Column("Stage", numeric=False), Column("Time"), Column("Rows"), Column("Rate")]
    counted = any(row[2] for row in rows)
    return table(columns[: 4 if counted else 2], [row[: 4 if counted else 2] for row in rows], caption="Time per stage")


def _step_table(events: Sequence[Stamped]) -> str:
    """Return where a photo's time went in the stage that made the features."""
    last = {(s.event.stage, s.event.task): s.event for s in events if isinstance(s.event, TaskTimed)}
    tasks = [event for (stage, _), event in last.items() if stage == "features"]
    rows = sum(task.rows for task in tasks)
    spent: dict[str, float] = {}
    for task in tasks:
        for step, taken in task.seconds.items():
            spent[step] = spent.get(step, 0.0) + taken
    every = sum(spent.values())
    if not rows or not every:
        return ""
    lines = [
        [step, Cell(f"{1000 * taken / rows:.2f} ms", bar=taken / every), percent(taken / every, 1)]
        for step, taken in spent.items()
    ]
    columns = [Column("Step", numeric=False), Column("A photo"), Column("Share")]
    return table(columns, lines, caption="Where a photo's time goes")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return value or "–"  # noqa: RUF001
    if isinstance(value, Sequence):
        shown = ", ".join(map(str, value[:20]))
        return shown + (f", … ({len(value)})" if len(value) > 20 else "") or "–"  # noqa: RUF001
    return str(value)
