"""The numbers of a report as CSV: single ones, summaries, comparisons, and what they belong to."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from captum_extract_aggregate.evaluation.comparing import ComparisonTable
from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import methods_at_layers
from captum_extract_aggregate.evaluation.reporting.tables import Table
from captum_extract_aggregate.evaluation.statistics import Summary
from captum_extract_aggregate.evaluation.store import ImageRow, Results, Row, TargetRow


def write_rows(results: Results, label: str, path: Path) -> Path:
    """Writes the single numbers of one measure."""
    return Table(Row._fields, _raw(results, label)).write_csv(path)


def _raw(results: Results, label: str) -> Iterator[Row]:
    """Yields one detail at a time, since all of them may not fit into memory; methods in the plan's order."""
    order = {place: i for i, place in enumerate(methods_at_layers(results))}
    for detail in [detail for name, detail in results.measures() if name == label]:
        rows = results.rows(label, detail)
        rows.sort(
            key=lambda r: (
                r.image,
                r.target,
                order.get(MethodAtLayer(r.method, r.layer), len(order)),
                r.method,
                r.layer,
            )
        )
        yield from rows


def write_tables(
    results: Results, summaries: Sequence[Summary], compared: Sequence[ComparisonTable], folder: Path
) -> list[Path]:
    """Writes all summaries, comparisons, images and explained classes, and returns the files."""
    fields = [f.name for f in dataclasses.fields(Summary)]
    targets = [
        (t.image, t.target, t.score, int(t.present), int(t.difficult), t.classes, t.role)
        for t in results.targets().values()
    ]
    return [
        Table(fields, ([getattr(s, name) for name in fields] for s in summaries)).write_csv(folder / "summary.csv"),
        _comparisons(compared).write_csv(folder / "comparisons.csv"),
        Table(ImageRow._fields, results.images()).write_csv(folder / "images.csv"),
        Table(TargetRow._fields, targets).write_csv(folder / "targets.csv"),
    ]


def _comparisons(compared: Sequence[ComparisonTable]) -> Table:
    records = [
        {"measure": t.measure, "detail": t.detail, "layer": t.layer, "better": t.better, **c.record()}
        for t in compared
        for c in t.comparisons
    ]
    header = list(records[0]) if records else ["measure", "detail", "layer", "better", "first", "second"]
    return Table(header, ([record[name] for name in header] for record in records))


def file_names(results: Results) -> dict[str, str]:
    """Returns a file name for each measure, whatever its label holds, and none of them twice."""
    names: dict[str, str] = {}
    for measure in results.plan.measures:
        label = measure.label or measure.measure
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", label).strip("-")[:60] or "measure"
        taken = {name.lower() for name in names.values()}
        free = (f"{slug}-{i}" if i > 1 else slug for i in range(1, len(results.plan.measures) + 2))
        names[label] = next(name for name in free if name.lower() not in taken)
    return names
