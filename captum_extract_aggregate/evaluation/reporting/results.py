"""The report of an evaluation: Markdown, CSV and pictures, the same bytes for the same results."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_extract_aggregate._common.errors import InvalidValueError, make_folder
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.evaluation.statistics import (
    BETTER,
    CENTRE,
    DRAWS,
    POINTING,
    ComparisonTable,
    Group,
    Nulls,
    Place,
    Summary,
    compare_groups,
    groups,
    places,
    summarize_group,
)
from captum_extract_aggregate.evaluation.store import ImageRow, Results, Row, TargetRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = "maps.html"  # of chosen images, beside the report
_SIGNIFICANT = 0.05
_MOST_SKIPPED = 20  # that the report names; all are in images.csv

_MEANINGS = {
    "pointing_game": "Does the map's maximum lie on the object? The mean over classes of hits / (hits + misses).",
    "restricted_pointing_game": "The pointing game with one map per image, of its highest scoring class, for every "
    "class in the image. What the pointing game gives beyond this is owed to the class explained.",
    "class_sensitivity": "The similarity of the maps of the highest and the lowest scoring class. Near 1 the map does "
    "not depend on the class; methods are compared by magnitudes, of which the smaller is better.",
    "pixel_removal": "How much of the signal goes, in the order of the map, until the decision flips: `e_minus` least "
    "salient pixels first (higher is better), `e_plus` most salient first (lower is better), `e_delta` their "
    "difference (higher is better).",
    "removal_contrast": "Pixel removal in the order of the image's own map minus that of other images' maps: "
    "`delta_minus` least salient pixels first (higher is better), `delta_plus` most salient first (lower is better), "
    "`delta` their difference (higher is better). A map that knows nothing of its image has 0.",
    "parameter_randomization": "The similarity of maps before and after layers are initialised anew, from the output "
    "on. A map that depends on what the network has learned falls to the null baseline. All stages are in "
    "`summary.csv`.",
    "completeness_gap": "The part of the score that the map's sum misses: 0 for a complete map.",
}
_BASELINES = {
    "pointing_game": "the image's centre",
    "restricted_pointing_game": "the image's centre",
    "removal_contrast": "no more than other images' maps",
}
_SUBSETS = {
    "all": "All pairs of image and class",
    "difficult": "Difficult pairs (the class covers less than a quarter of the image, beside another class)",
    "multi": "Images with several classes",
}
_COMPARED = ("first", "second", "n", "undefined", "ties", "mean difference")
_MEDIANS = ("median", "95 % of the median")
_TESTED = ("effect", "p", "p (Holm)")


def write_report(results: Results, folder: Path, images: Sequence[int] = ()) -> list[Path]:
    """Writes `report.md`, CSV tables and PNG pictures, and returns their paths.

    `summary.csv` holds a line for each measure, method and layer, `comparisons.csv` methods in pairs, `rows-*.csv` one
    measure's numbers each, `images.csv` and `targets.csv` what they belong to.

    Args:
        results: complete or not; the report says which.
        folder: made if it is not there.
        images: images whose numbers are listed, with a link to the page of their maps, `maps.html`.

    Raises:
        ValueError: for an image that the plan does not have.

    Example:
        >>> import dataclasses, tempfile
        >>> from pathlib import Path
        >>> from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, Plan, run
        >>> plan = Plan((MethodPlan("normgrad"),), (MeasurePlan("class_sensitivity"),), DataPlan(n=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = run(dataclasses.replace(plan, layers=("layer3",)), folder, show_progress=False)
        ...     [path.name for path in write_report(results, Path(folder))][:2]
        ['report.md', 'summary.csv']
    """
    wrong = [image for image in images if not 0 <= image < results.expected]
    if wrong:
        raise InvalidValueError(f"images holds {wrong[0]!r}; expected image numbers from 0 to {results.expected - 1}")
    make_folder("output", folder)
    nulls, names = Nulls(results), _file_names(results)
    sections, summaries, comparisons, written = [], [], [], []
    for measure in results.plan.measures:
        found = groups(results, measure)
        own = [line for group in found for line in summarize_group(group, nulls)]
        compared = compare_groups(found)
        pictures = _draw(results, found, own, folder, names[_label(measure)])
        sections.append(_section(measure, found, own, compared, pictures))
        written += [_write_rows(results, measure, folder / f"rows-{names[_label(measure)]}.csv"), *pictures]
        summaries += own
        comparisons += compared
    text = [*_head(results), *[line for section in sections for line in section], *_chosen(results, images)]
    path = folder / "report.md"
    content = re.sub(r"\n{3,}", "\n\n", "\n".join([*text, *_origin(results)]))
    path.write_text(content + "\n", encoding="utf-8", newline="\n")
    return [path, *_write_tables(results, summaries, comparisons, folder), *written]


# --- Words and numbers in Markdown -----------------------------------------------------------------------------------


def escaped(text: object) -> str:
    """Text as one line of Markdown, whatever it holds: no table cell, tag, link or emphasis comes of it."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~#$!])", r"\\\1", line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)


def number(value: float) -> str:
    """Four digits; NaN is "undefined"."""
    if math.isnan(value):
        return "undefined"
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3f}"
    return f"{value:.3g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of cells that are escaped already, between empty lines."""
    lines = [header, ["---"] * len(header), *rows]
    return ["", *("| " + " | ".join(cells) + " |" for cells in lines), ""]


def _label(measure: MeasurePlan) -> str:
    return measure.label or measure.measure


def _described(part: Any, skip: Sequence[str] = ()) -> str:
    """A part of a plan in one line: its name, and what differs from the usual."""
    first, *others = dataclasses.fields(part)
    default = type(part)(getattr(part, first.name))
    own = {f.name: getattr(part, f.name) for f in others if f.name not in skip}
    told = [f"{name} {value}" for name, value in own.items() if value != getattr(default, name)]
    return escaped(", ".join([str(getattr(part, first.name)), *told]))


# --- The beginning and the end ---------------------------------------------------------------------------------------


def _head(results: Results) -> list[str]:
    plan, looked_at, skipped = results.plan, results.images(), results.skipped()
    used = len(looked_at) - len(skipped)
    lines = [f"# {escaped(plan.title or 'Evaluation')}", ""]
    if len(looked_at) < results.expected:
        lines += [
            f"**Incomplete: {len(looked_at)} of {results.expected} images were looked at, and the numbers below are of "
            "those alone.** Run the evaluation again to continue.",
            "",
        ]
    elif not results.complete:
        lines += [
            f"**Incomplete: {results.lacking} batches of images lack some methods, layers or measures, whose numbers "
            "below are of fewer images.** Run the evaluation again to continue.",
            "",
        ]
    facts = [
        ("model", _described(plan.model)),
        ("data", _described(plan.data)),
        ("images", f"{used} evaluated, {len(skipped)} skipped, {results.expected} planned"),
        ("methods", escaped("; ".join(dict.fromkeys(p.method for p in places(results))))),
        ("layers", escaped("; ".join(dict.fromkeys(p.layer for p in places(results))))),
        ("plan", f"{plan.hash()}, seed {plan.run.seed}, batches of {plan.run.batch_size}"),
    ]
    lines += _table(("", ""), facts)
    lines += [
        "Numbers are means over images ± their standard deviation; in the pointing games means over classes ± the "
        f"standard error, by {DRAWS} bootstrap draws of images. Undefined values are left out and counted. \\* differs "
        f"from its baseline: p < {_SIGNIFICANT}, two-sided Wilcoxon signed-rank test, corrected (Holm) for the table. "
        "All digits: [summary.csv](summary.csv), [comparisons.csv](comparisons.csv).",
        "",
    ]
    return lines + _skipped(skipped)


def _skipped(skipped: Sequence[ImageRow]) -> list[str]:
    if not skipped:
        return []
    rows = [(str(row.image), escaped(row.name), escaped(row.skipped)) for row in skipped[:_MOST_SKIPPED]]
    lines = [f"**{len(skipped)} images were skipped:**", *_table(("image", "name", "reason"), rows)]
    more = len(skipped) - len(rows)
    return lines + ([f"and {more} more, in [images.csv](images.csv).", ""] if more else [])


def _chosen(results: Results, images: Sequence[int]) -> list[str]:
    """The chosen images and their explained classes."""
    if not images:
        return []
    names = {row.image: row.name for row in results.images()}
    by_image: dict[int, list[TargetRow]] = {image: [] for image in images}
    for target in results.targets().values():
        if target.image in by_image:
            by_image[target.image].append(target)
    rows = []
    for image, targets in by_image.items():
        classes = ", ".join(f"{t.target} (score {number(t.score)}{', present' * t.present})" for t in targets)
        rows.append((str(image), escaped(names.get(image, "not looked at yet")), classes))
    header = ("image", "name", "classes explained")
    return ["## Images", "", f"Their maps: [{PAGE}]({PAGE}).", *_table(header, rows)]


def _origin(results: Results) -> list[str]:
    """What the numbers were made with."""
    distinct = sorted({json.dumps(e, sort_keys=True) for e in results.environments})
    environments = [json.loads(e) for e in distinct]
    keys = sorted({key for e in environments for key in e} - {"plan"})
    rows = [(escaped(key), *(escaped(e.get(key, "")) for e in environments)) for key in keys]
    lines = ["## Origin", ""]
    if len(environments) > 1:
        lines += ["**The numbers were made with several versions or devices**, one in each column:", ""]
    # In JSON a bracket may be written as its code, which no reader of Markdown takes for a tag.
    plan = json.dumps(results.plan.as_dict(), indent=2, sort_keys=True).replace("<", "\\u003c")
    return [*lines, *_table(("", *[""] * len(environments)), rows), "The plan:", "", "```json", plan, "```"]


# --- One measure -----------------------------------------------------------------------------------------------------


def _section(
    measure: MeasurePlan,
    found: Sequence[Group],
    lines: Sequence[Summary],
    compared: Sequence[ComparisonTable],
    pictures: Sequence[Path],
) -> list[str]:
    text = [f"## {escaped(_label(measure))}", ""]
    told = _MEANINGS.get(measure.measure, f"A measure of your own: {escaped(measure.measure)}.")
    arguments = ", ".join(f"{key} {value}" for key, value in sorted(measure.arguments.items()))
    text += [told + (f" Here with {escaped(arguments)}." if arguments else ""), ""]
    if not found:
        return [*text, "There are no values.", ""]
    for group in _shown(found):
        own = [line for line in lines if line.detail == group.detail]
        text += _means(group, own)
    text += _never_flipped(measure, lines)
    text += [f"![{escaped(path.stem)}]({path.name})\n" for path in pictures]
    return [*text, *_comparisons(compared)]


def _shown(found: Sequence[Group]) -> Sequence[Group]:
    """What the report tells of a measure; the rest is in summary.csv."""
    kind = found[0].kind
    if kind == "parameter_randomization":
        return found if len(found) == 1 else [found[0], found[-1]]
    return [group for group in found if group.detail in BETTER.get(kind, (group.detail,))]


def _means(group: Group, lines: Sequence[Summary]) -> list[str]:
    """A table of one detail, methods by layers."""
    heading = _SUBSETS.get(group.detail, "") if group.kind in POINTING else group.detail
    if group.kind == "parameter_randomization":
        stage, _, name = group.detail.partition(" ")
        heading = f"Stage {int(stage) + 1 if stage.isdigit() else stage}: {name} randomised"
    text = [f"### {escaped(heading)}", ""] if heading else []
    if not any(line.n for line in lines):
        undefined = sum(line.undefined for line in lines)
        return [*text, f"No value is defined ({undefined} undefined)." if undefined else "There are none.", ""]
    own = [line for line in lines if line.place != CENTRE or group.kind not in POINTING]
    whole = [line.n for line in own if line.n and not line.undefined]
    usual = max(whole, default=0)
    cells = {line.place: _cell(line, line.undefined > 0 or line.n != usual) for line in own}
    layers = list(dict.fromkeys(line.layer for line in own))
    methods = list(dict.fromkeys(line.method for line in own))
    rows = [(escaped(m), *(cells.get(Place(m, layer), "") for layer in layers)) for m in methods]
    rows += _baseline_row(group, lines, layers)
    what = "pairs" if group.kind in POINTING else "images"
    note = [f"n = {usual} {what}{'' if len(whole) == len(own) else ' where no other number stands'}.", ""]
    return [*text, *_table(("", *map(escaped, layers)), rows), *(note if usual else [])]


def _cell(line: Summary, with_n: bool) -> str:
    text = number(line.mean)
    text += "" if math.isnan(line.spread) else f" ± {number(line.spread)}"
    text += " \\*" if line.p_holm < _SIGNIFICANT else ""
    counts = f"n = {line.n}" + (f", {line.undefined} undefined" if line.undefined else "")
    return f"{text} ({counts})" if with_n else text


def _baseline_row(group: Group, lines: Sequence[Summary], layers: Sequence[str]) -> list[tuple[str, ...]]:
    """What the numbers stand beside; a layer whose methods have different baselines shows their range."""
    own = [line for line in lines if not math.isnan(line.null)]
    if not own:
        return []
    name = _BASELINES.get(group.kind, "unrelated maps")
    cells = []
    for layer in layers:
        nulls = sorted({(line.null, line.null_spread) for line in own if line.layer == layer}, key=lambda pair: pair[0])
        if not nulls:
            cells.append("")
        elif nulls[0][0] == nulls[-1][0]:
            mean, spread = nulls[0]
            cells.append(number(mean) + ("" if math.isnan(spread) else f" ± {number(spread)}"))
        else:
            cells.append(f"{number(nulls[0][0])} to {number(nulls[-1][0])}")
    return [(f"*baseline: {name}*", *cells)]


def _never_flipped(measure: MeasurePlan, lines: Sequence[Summary]) -> list[str]:
    """How many decisions outlived all pixels, which e takes as 1."""
    if measure.measure not in ("pixel_removal", "removal_contrast"):
        return []
    by_place: dict[Place, dict[str, Summary]] = {}
    for line in lines:
        if line.detail in ("flipped_minus", "flipped_plus"):
            by_place.setdefault(line.place, {})[line.detail] = line
    rows = [
        (escaped(p.method), escaped(p.layer), *(_unflipped(own.get(f"flipped_{o}")) for o in ("minus", "plus")))
        for p, own in by_place.items()
    ]
    if not rows:
        return []
    header = ("", "layer", "least salient first", "most salient first")
    return ["### Never flipped", "", "e counts as 1 where the decision outlives all pixels:", *_table(header, rows)]


def _unflipped(line: Summary | None) -> str:
    if line is None or not line.n:
        return "undefined"
    return f"{line.n - round(line.mean * line.n)} of {line.n}"


def _comparisons(compared: Sequence[ComparisonTable]) -> Iterator[str]:
    """Best layers in full; single layers, of which there may be many, in a line each."""
    shown = [table for table in compared if table.kind not in POINTING or table.detail != "multi"]
    for detail in dict.fromkeys(table.detail for table in shown):
        own = [table for table in shown if table.detail == detail]
        full = [table for table in own if not table.layer or len(own) == 1]
        for table in full:
            yield from _compared(table)
        single = [table for table in own if table not in full]
        if single:
            yield f"### Compared layer by layer{f': {escaped(detail)}' if detail else ''}"
            yield f"\nPairs that differ (p < {_SIGNIFICANT} after Holm's correction in each layer), the larger first:\n"
            yield from map(_line, single)
            yield ""


def _line(table: ComparisonTable) -> str:
    differ = [c for c in table.comparisons if c.p_holm < _SIGNIFICANT]
    pairs = [(c.first, c.second, c) if c.effect > 0 else (c.second, c.first, c) for c in differ]
    told = "; ".join(f"{escaped(a)} &gt; {escaped(b)} (p = {_p(c.p_holm)}, n = {c.n})" for a, b, c in pairs)
    return f"- {escaped(table.layer)}: {told or 'none'} ({len(differ)} of {len(table.comparisons)} pairs)"


def _compared(table: ComparisonTable) -> list[str]:
    """All pairs in a table."""
    where = f"at {table.layer}" if table.layer else "each method at its best layer"
    if not table.layer and not table.is_chosen:
        where = "each method at its layer"
    what = ", ".join(part for part in (table.detail, where) if part)
    is_pointing = table.kind in POINTING
    header = (*_COMPARED, *(() if is_pointing else _MEDIANS), *_TESTED)
    rows = []
    for c in table.comparisons:
        medians = () if is_pointing else (number(c.median), f"{number(c.low)} to {number(c.high)}")
        counts = (escaped(c.first), escaped(c.second), str(c.n), str(c.undefined), str(c.ties))
        rows.append((*counts, number(c.mean), *medians, f"{c.effect:+.2f}", _p(c.p), _p(c.p_holm)))
    text = [f"### Compared: {escaped(what)}", "", _differences(table)]
    text += _table(header, rows) if rows else [""]
    if table.left_out:
        pairs = "; ".join(f"{escaped(a)} and {escaped(b)}" for a, b in table.left_out)
        text += [f"Never defined on the same image: {pairs}.", ""]
    return text


def _differences(table: ComparisonTable) -> str:
    what = "hits on the same pairs" if table.kind in POINTING else "values on the same images"
    what = "magnitudes on the same images" if table.magnitude else what
    told = f"Differences, first minus second, of {what}"
    told += f"; {table.better} is better." if table.better else "."
    if table.is_chosen:
        told += " Best layers were chosen on these same images, which favours methods with many layers."
    if table.to_first:
        told += " There are too many for all pairs: each is compared to the first."
    told += f" Wilcoxon signed-rank; Holm over {len(table.comparisons)} comparisons."
    return told + (" Classes of one image count as pairs of their own." if table.kind in POINTING else "")


def _p(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2g}"


# --- CSV -------------------------------------------------------------------------------------------------------------


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Text in quotes, numbers by their repr, so that nothing is lost; undefined is `nan`.

    Text never begins as a formula does: see `_plain_cell`.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_plain_cell(value) for value in row] for row in rows)
    return path


def _plain_cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _write_rows(results: Results, measure: MeasurePlan, path: Path) -> Path:
    return _write_csv(path, Row._fields, _raw(results, _label(measure)))


def _raw(results: Results, label: str) -> Iterator[Row]:
    """One detail at a time, since all of them may not fit into memory; methods in the plan's order."""
    order = {place: i for i, place in enumerate(places(results))}
    for detail in [detail for name, detail in results.measures() if name == label]:
        rows = results.rows(label, detail)
        rows.sort(key=lambda r: (r.image, r.target, order.get(Place(r.method, r.layer), len(order)), r.method, r.layer))
        yield from rows


def _write_tables(
    results: Results, summaries: Sequence[Summary], comparisons: Sequence[ComparisonTable], folder: Path
) -> list[Path]:
    fields = [f.name for f in dataclasses.fields(Summary)]
    compared = [
        {"measure": t.measure, "detail": t.detail, "layer": t.layer, "better": t.better, **c.record()}
        for t in comparisons
        for c in t.comparisons
    ]
    columns = list(compared[0]) if compared else ["measure", "detail", "layer", "better", "first", "second"]
    targets = [
        (t.image, t.target, t.score, int(t.present), int(t.difficult), t.classes, t.role)
        for t in results.targets().values()
    ]
    return [
        _write_csv(folder / "summary.csv", fields, ([getattr(s, name) for name in fields] for s in summaries)),
        _write_csv(folder / "comparisons.csv", columns, ([c[name] for name in columns] for c in compared)),
        _write_csv(folder / "images.csv", ImageRow._fields, results.images()),
        _write_csv(folder / "targets.csv", TargetRow._fields, targets),
    ]


def _file_names(results: Results) -> dict[str, str]:
    """A file name for each measure, whatever its label holds, and none of them twice."""
    names: dict[str, str] = {}
    for measure in results.plan.measures:
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", _label(measure)).strip("-")[:60] or "measure"
        taken = {name.lower() for name in names.values()}
        free = (f"{slug}-{i}" if i > 1 else slug for i in range(1, len(results.plan.measures) + 2))
        names[_label(measure)] = next(name for name in free if name.lower() not in taken)
    return names


# --- Pictures --------------------------------------------------------------------------------------------------------

# Okabe and Ito's colours without yellow, which is faint on white; with seven markers no two of 56 methods look alike.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLES = ("-", "-", "-", "-", "-", "--", "-.")


def _draw(results: Results, found: Sequence[Group], lines: Sequence[Summary], folder: Path, name: str) -> list[Path]:
    """The pictures of one measure."""
    if not any(line.n for line in lines):
        return []
    methods = list(dict.fromkeys(p.method for p in places(results)))
    styles = {m: _style(i) for i, m in enumerate(methods)}
    kind, label = found[0].kind, _label(found[0].measure)
    own = [line for line in lines if line.place != CENTRE or kind not in POINTING]
    drawn: list[tuple[str, Figure]] = []
    if kind == "parameter_randomization":
        drawn.append((f"stages-{name}", _stages(own, styles, label)))
    elif kind in POINTING or kind == "class_sensitivity":
        drawn.append((f"layers-{name}", _curves(own, styles, label, kind, combined(results))))
    if kind not in POINTING and kind != "parameter_randomization":
        drawn.append((f"boxes-{name}", _boxes(_shown(found), styles, label)))
    return [_save(figure, folder / f"{stem}.png") for stem, figure in drawn]


def _style(i: int) -> dict[str, Any]:
    colour, marker, style = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _STYLES[i % len(_STYLES)]
    return {"color": colour, "marker": marker, "linestyle": style, "markersize": 5, "linewidth": 1.3}


def _plain(text: str, most: int = 44) -> str:
    """A label that matplotlib takes as it is: neither mathematics nor, by a leading underscore, hidden."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = line if len(line) <= most else line[: most - 1] + "…"
    return (" " + line if line.startswith("_") else line).replace("$", r"\$")


def _canvas(width: float, height: float, rows: int, columns: int) -> tuple[Figure, Any]:
    from captum_extract_aggregate._common.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Figure, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # names in scripts that the font lacks
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for all panels, below them."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=min(4, len(found)), fontsize=8
        )


def combined(results: Results) -> set[Place]:
    """Combinations of layers, which come after a method's layers and belong to no curve."""
    found: set[Place] = set()
    for method in results.plan.methods:
        own = [p for p in places(results) if p.method == (method.label or method.method)]
        found.update(own[len(own) - len(method.combine) :])
    return found


def _curves(
    lines: Sequence[Summary], styles: Mapping[str, dict[str, Any]], label: str, kind: str, combined: set[Place]
) -> Figure:
    """The measure over layers, a panel for each subset, with one standard error and the baseline dashed."""
    details = [d for d in dict.fromkeys(line.detail for line in lines) if any(s.n for s in lines if s.detail == d)]
    layers = list(dict.fromkeys(line.layer for line in sorted(lines, key=lambda line: line.place in combined)))
    methods = list(dict.fromkeys(line.method for line in lines))
    width = max(3.6, 0.55 * len(layers) + 1.6)
    height = 3.4 + 0.2 * math.ceil(len(methods) / 4) + 0.05 * max(map(len, layers))
    figure, cells = _canvas(max(width * len(details), 6), height, 1, len(details))
    for ax, detail in zip(cells[0], details):
        own = [line for line in lines if line.detail == detail]
        shift = 0.3 / max(1, len(methods) - 1)  # so that bars of equal means are told apart
        for i, method in enumerate(methods):
            offset = shift * i - 0.15 * (len(methods) > 1)
            for apart in (False, True):
                mine = [line for line in own if line.method == method and (line.place in combined) == apart]
                x = [layers.index(line.layer) + offset for line in mine]
                errors = np.nan_to_num([line.error for line in mine])
                style = styles[method] | ({"linestyle": ""} if apart else {})
                if mine:
                    ax.errorbar(x, [line.mean for line in mine], errors, label=_plain(method), capsize=2, **style)
        _null_lines(ax, own, layers, _BASELINES.get(kind, "unrelated maps"))
        ax.set_xticks(range(len(layers)), [_plain(layer) for layer in layers], rotation=45, ha="right", fontsize=8)
        ax.set_title(_plain(detail) if kind in POINTING else "", fontsize=10)
        ax.grid(axis="y", alpha=0.3)
    what = "accuracy" if kind in POINTING else "similarity"
    cells[0][0].set_ylabel(f"{what} (bars: one standard error)", fontsize=9)
    figure.suptitle(_plain(label), fontsize=11)
    _legend(figure, cells[0])
    return figure


def _null_lines(ax: Axes, lines: Sequence[Summary], layers: Sequence[str], name: str) -> None:
    """The baseline: across the picture if it is one, else a dash at each layer."""
    nulls = {(line.layer, line.null) for line in lines if not math.isnan(line.null)}
    style: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
    if len({null for _, null in nulls}) == 1:
        ax.axhline(next(iter(nulls))[1], label=name, **style)
        return
    for i, (layer, null) in enumerate(sorted(nulls)):
        x = layers.index(layer)
        ax.plot([x - 0.35, x + 0.35], [null, null], label=name if i == 0 else None, **style)


def _stages(lines: Sequence[Summary], styles: Mapping[str, dict[str, Any]], label: str) -> Figure:
    """The similarity over stages of randomisation, a panel for each layer, with a band of one standard deviation."""
    layers = list(dict.fromkeys(line.layer for line in lines))
    methods = list(dict.fromkeys(line.method for line in lines))
    stages = list(dict.fromkeys(line.detail for line in lines))
    columns = min(3, len(layers))
    rows = math.ceil(len(layers) / columns)
    width = max(3.2, min(6.0, 0.2 * len(stages) + 1.4))
    size = max(6.0, width * columns), 2.5 * rows + 2.2 + 0.2 * math.ceil(len(methods) / 4)
    figure, cells = _canvas(*size, rows, columns)
    panels = list(cells.flat)
    every = math.ceil(len(stages) / 30)
    names = [_plain(stage.partition(" ")[2] or stage, 24) for stage in stages]
    for i, (ax, layer) in enumerate(zip(panels, layers)):
        for method in methods:
            own = [line for line in lines if (line.layer, line.method) == (layer, method)]
            _band(ax, own, stages, _plain(method), styles[method])
        nulls = [line.null for line in lines if line.layer == layer and not math.isnan(line.null)]
        if nulls:
            ax.axhline(sum(nulls) / len(nulls), color="black", linestyle="--", linewidth=1, label="unrelated maps")
        is_lowest = i + columns >= len(layers)
        ax.set_xticks(range(0, len(stages), every), names[::every] if is_lowest else [], rotation=90, fontsize=7)
        ax.set_title(_plain(layer), fontsize=9)
        ax.grid(axis="y", alpha=0.3)
    for ax in panels[len(layers) :]:
        ax.set_axis_off()
    limits = [ax.get_ylim() for ax in panels[: len(layers)]]
    for ax in panels[: len(layers)]:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    for row in cells:
        row[0].set_ylabel("similarity", fontsize=8)
    title = "similarity with the original map while layers are randomised, from the output on\n(band: one sd)"
    figure.suptitle(f"{_plain(label)}: {title}", fontsize=10)
    _legend(figure, panels)
    return figure


def _band(ax: Axes, lines: Sequence[Summary], stages: Sequence[str], label: str, style: dict[str, Any]) -> None:
    if not lines:
        return
    x = [stages.index(line.detail) for line in lines]
    means = np.array([line.mean for line in lines])
    spreads = np.nan_to_num([line.spread for line in lines])
    ax.plot(x, means, label=label, **(style | {"markersize": 3.5}))
    ax.fill_between(x, means - spreads, means + spreads, color=style["color"], alpha=0.12, linewidth=0)


def _boxes(found: Sequence[Group], styles: Mapping[str, dict[str, Any]], label: str) -> Figure:
    """The spread over images: details by layers, a box for each method, the baseline dashed where it is 0."""
    all_places = list(dict.fromkeys(p for group in found for p in group.values))
    layers = list(dict.fromkeys(p.layer for p in all_places))
    methods = list(dict.fromkeys(p.method for p in all_places))
    height = (0.26 * len(methods) + 0.8) * len(found) + 0.5
    figure, cells = _canvas(2.3 * len(layers) + 1.9, height, len(found), len(layers))
    for row, group in enumerate(found):
        for column, layer in enumerate(layers):
            ax = cells[row][column]
            _box_panel(ax, {m: group.values.get(Place(m, layer)) for m in methods}, styles)
            ax.set_yticks(range(len(methods)), [_plain(m, 30) for m in methods] if column == 0 else [], fontsize=8)
            ax.tick_params(axis="x", labelsize=7)
            if group.detail.startswith("delta"):
                ax.axvline(0, color="black", linestyle="--", linewidth=1)
            if row == 0:
                ax.set_title(_plain(layer, 24), fontsize=9)
            if column == 0 and group.detail:
                better = f"\n{group.better} is better" if group.better else ""
                ax.set_ylabel(_plain(group.detail) + better, fontsize=8)
        _share_scale(cells[row])
    figure.suptitle(f"{_plain(label)} (boxes: quartiles; whiskers: 5 to 95 %; diamond: mean)", fontsize=9)
    return figure


def _box_panel(
    ax: Axes, values: Mapping[str, np.ndarray[Any, Any] | None], styles: Mapping[str, dict[str, Any]]
) -> None:
    for i, (method, own) in enumerate(values.items()):
        finite = np.empty(0) if own is None else own[np.isfinite(own)]
        if len(finite):
            _box(ax, finite, i, styles[method]["color"])
    ax.set_ylim(len(values) - 0.4, -0.6)  # the first method on top
    ax.grid(axis="x", alpha=0.3)


def _box(ax: Axes, values: np.ndarray[Any, Any], y: int, colour: str) -> None:
    # Drawn by hand, since matplotlib's names for a horizontal box changed between the versions that are supported.
    low, first, median, third, high = np.percentile(values, [5, 25, 50, 75, 95])
    ax.hlines(y, low, high, color=colour, linewidth=1)
    ax.barh(y, third - first, 0.6, first, color=colour, alpha=0.35, edgecolor=colour)
    ax.vlines(median, y - 0.3, y + 0.3, color=colour, linewidth=2)
    ax.plot(values.mean(), y, marker="D", color=colour, markersize=4, markeredgecolor="white", linestyle="")


def _share_scale(row: Sequence[Axes]) -> None:
    """One scale for the panels of a row that show something."""
    limits = [ax.get_xlim() for ax in row if ax.has_data()]
    if limits:
        for ax in row:
            ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
