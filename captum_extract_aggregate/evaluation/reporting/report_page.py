"""A report as one page: tables that can be sorted, curves and maps, every number with its n; it needs nothing else."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_extract_aggregate.evaluation.comparing import ComparisonTable, best_places
from captum_extract_aggregate.evaluation.explained import CENTRE, MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Group, shown_groups
from captum_extract_aggregate.evaluation.measure_spec import Interpretation
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.reporting.maps_page import Entry, sections_of
from captum_extract_aggregate.evaluation.reporting.markdown import (
    SIGNIFICANT,
    compared_heading,
    compared_table,
    differences,
    facts,
    heading_of,
    incomplete,
)
from captum_extract_aggregate.evaluation.reporting.tables import number, number_with_spread
from captum_extract_aggregate.evaluation.statistics import DRAWS, Summary
from captum_extract_aggregate.evaluation.store import Results
from captum_extract_aggregate.visualization.page_templates import render


@dataclass(frozen=True)
class MeasureFound:
    """Holds what was found by one measure: its groups of numbers, their summaries, comparisons and charts."""

    plan: MeasurePlan
    interpretation: Interpretation
    groups: Sequence[Group]
    lines: Sequence[Summary]
    compared: Sequence[ComparisonTable]
    charts: Sequence[Path]

    @property
    def label(self) -> str:
        """The measure's name in the tables."""
        return self.plan.label or self.plan.measure


def write_report_page(
    path: Path, results: Results, found: Sequence[MeasureFound], entries: Sequence[Entry] = ()
) -> Path:
    """Writes the page and returns its path.

    Args:
        path: an .html file.
        results: complete or not; the page says which.
        found: a section for each measure.
        entries: images whose maps are shown at the end.
    """
    text = render(
        __package__,
        "report.html",
        title=results.plan.title or "Evaluation",
        lacking=incomplete(results),
        facts=facts(results),
        skipped=[(row.image, row.name, row.skipped) for row in results.skipped()],
        overview=_overview(found),
        measures=[_measure(own) for own in found],
        sections=sections_of(results, entries),
        plan=json.dumps(results.plan.as_dict(), indent=2, sort_keys=True),
        environments=[sorted((k, v) for k, v in e.items() if k != "plan") for e in _distinct(results)],
        draws=DRAWS,
        significant=SIGNIFICANT,
    )
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _distinct(results: Results) -> list[dict[str, Any]]:
    return [json.loads(e) for e in sorted({json.dumps(e, sort_keys=True) for e in results.environments})]


def _overview(found: Sequence[MeasureFound]) -> dict[str, Any] | None:
    """Returns methods by measures, each method where its mean is best; None where fewer than two measures say what is
    better."""
    columns = [column for own in found if (column := _best_of(own))]
    if len(columns) < 2:
        return None
    methods = dict.fromkeys(method for column in columns for method in column["cells"])
    rows = [(method, [column["cells"].get(method) for column in columns]) for method in methods]
    return {"columns": columns, "rows": rows}


def _best_of(found: MeasureFound) -> dict[str, Any] | None:
    """Returns a measure's most telling number (of stages the last) of each method at its best layer."""
    shown = shown_groups(found.groups)
    group = shown[-1 if found.interpretation.is_staged else 0] if shown else None
    if group is None or not group.better:
        return None
    lines = {line.place: line for line in found.lines if line.detail == group.detail}
    cells = {place.method: {"layer": place.layer, **_cell(lines[place])} for place in best_places(group)}
    better = group.better + " magnitude" * found.interpretation.magnitude
    return {"label": found.label, "heading": heading_of(group), "better": better, "cells": cells}


def _measure(found: MeasureFound) -> dict[str, Any]:
    """Returns what the template shows of a measure."""
    arguments = ", ".join(f"{key} {value}" for key, value in sorted(found.plan.arguments.items()))
    return {
        "label": found.label,
        "told": found.interpretation.meaning.replace("`", "") or f"A measure of your own: {found.plan.measure}.",
        "arguments": arguments,
        "tables": [_means(group, found.lines) for group in shown_groups(found.groups)],
        "charts": [
            (f"{found.label}: {path.stem}, drawn from the tables here", _address(path)) for path in found.charts
        ],
        "compared": [_compared(table) for table in found.compared],
    }


def _means(group: Group, lines: Sequence[Summary]) -> dict[str, Any]:
    """Returns a table of one detail, methods by layers, each number with its n."""
    of_group = [line for line in lines if line.detail == group.detail]
    own = [line for line in of_group if line.place != CENTRE or group.interpretation.null != "centre"]
    cells = {line.place: _cell(line) for line in own}
    layers = list(dict.fromkeys(line.layer for line in own))
    methods = list(dict.fromkeys(line.method for line in own))
    baselines = [_baseline([line for line in own if line.layer == layer]) for layer in layers]
    return {
        "heading": heading_of(group),
        "layers": layers,
        "rows": [(m, [cells.get(MethodAtLayer(m, layer)) for layer in layers]) for m in methods],
        "baseline": group.interpretation.baseline,
        "baselines": baselines if any(baselines) else [],
        "what": "pairs" if group.interpretation.is_accuracy else "images",
    }


def _cell(line: Summary) -> dict[str, Any]:
    return {
        "value": "" if math.isnan(line.mean) else repr(line.mean),
        "text": number_with_spread(line.mean, line.spread),
        "differs": line.p_holm < SIGNIFICANT,
        "n": line.n,
        "undefined": line.undefined,
    }


def _baseline(lines: Sequence[Summary]) -> str:
    """Returns what the numbers of a layer stand beside, or the range of it; "" where there is none."""
    known = sorted({(line.null, line.null_spread) for line in lines if not math.isnan(line.null)}, key=lambda b: b[0])
    if not known:
        return ""
    if known[0][0] == known[-1][0]:
        return number_with_spread(*known[0])
    return f"{number(known[0][0])} to {number(known[-1][0])}"


def _compared(table: ComparisonTable) -> dict[str, Any]:
    found = compared_table(table)
    return {
        "heading": compared_heading(table),
        "told": differences(table).replace("\\", ""),
        "header": list(found.header),
        "rows": [[str(cell) for cell in row] for row in found.rows],
        "left_out": table.left_out,
        "folded": bool(table.layer),  # there may be many layers
    }


def _address(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
