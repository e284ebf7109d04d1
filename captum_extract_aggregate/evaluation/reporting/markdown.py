"""The text of a report in Markdown, a section for each measure."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from captum_extract_aggregate.evaluation.comparing import ComparisonTable
from captum_extract_aggregate.evaluation.explained import CENTRE, MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Group, methods_at_layers, shown_groups
from captum_extract_aggregate.evaluation.measure_spec import Interpretation
from captum_extract_aggregate.evaluation.plan import DataPlan, MeasurePlan, ModelPlan, given
from captum_extract_aggregate.evaluation.reporting.tables import (
    Markdown,
    Table,
    escaped,
    number,
    number_with_spread,
    p_value,
)
from captum_extract_aggregate.evaluation.statistics import DRAWS, Summary
from captum_extract_aggregate.evaluation.store import ImageRow, Results, TargetRow

PAGE = "maps.html"  # of chosen images, beside the report
SIGNIFICANT = 0.05
_MOST_SKIPPED = 20  # that the report names; all are in images.csv

_SUBSETS = {
    "all": "All pairs of image and class",
    "difficult": "Difficult pairs (the class covers less than a quarter of the image, beside another class)",
    "multi": "Images with several classes",
}
_COMPARED = ("first", "second", "n", "undefined", "ties", "mean difference")
_MEDIANS = ("median", "95 % of the median")
_TESTED = ("effect", "p", "p (Holm)")


# --- The beginning and the end ---------------------------------------------------------------------------------------


def _described(part: DataPlan | ModelPlan) -> str:
    """Returns a part of a plan in one line: its name, and what differs from the usual."""
    name = dataclasses.fields(part)[0].name
    told = [f"{key} {value}" for key, value in given(part).items() if key != name]
    return ", ".join([str(getattr(part, name)), *told])


def head(results: Results) -> list[str]:
    """Returns what was evaluated, how much of it, and how to read the numbers."""
    plan, skipped = results.plan, results.skipped()
    lines = [f"# {escaped(plan.title or 'Evaluation')}", ""]
    lacking = incomplete(results)
    if lacking is not None:
        lines += [f"**{' '.join(lacking)}** Run the evaluation again to continue.", ""]
    lines += Table(("", ""), facts(results)).markdown()
    lines += [
        "Numbers are means over images ± their standard deviation; in the pointing games means over classes ± the "
        f"standard error, by {DRAWS} bootstrap draws of images. Undefined values are left out and counted. \\* differs "
        f"from its baseline: p < {SIGNIFICANT}, two-sided Wilcoxon signed-rank test, corrected (Holm) for the table. "
        "All digits: [summary.csv](summary.csv), [comparisons.csv](comparisons.csv).",
        "",
    ]
    return lines + _skipped(skipped)


def incomplete(results: Results) -> tuple[str, str] | None:
    """Returns that something is missing, and what that means for the numbers; None where nothing is."""
    looked_at = len(results.images())
    if looked_at < results.expected:
        return (
            f"Incomplete: {looked_at} of {results.expected} images were looked at,",
            "and the numbers below are of those alone.",
        )
    if not results.complete:
        return (
            f"Incomplete: {results.lacking} batches of images lack some methods, layers or measures,",
            "whose numbers below are of fewer images.",
        )
    return None


def facts(results: Results) -> list[tuple[str, str]]:
    """Returns what was evaluated, by what it is called."""
    plan, skipped = results.plan, results.skipped()
    used = len(results.images()) - len(skipped)
    places = methods_at_layers(results)
    return [
        ("model", _described(plan.model)),
        ("data", _described(plan.data)),
        ("images", f"{used} evaluated, {len(skipped)} skipped, {results.expected} planned"),
        ("methods", "; ".join(dict.fromkeys(p.method for p in places))),
        ("layers", "; ".join(dict.fromkeys(p.layer for p in places))),
        ("plan", f"{plan.hash()}, seed {plan.run.seed}, batches of {plan.run.batch_size}"),
    ]


def _skipped(skipped: Sequence[ImageRow]) -> list[str]:
    if not skipped:
        return []
    rows = [(row.image, row.name, row.skipped) for row in skipped[:_MOST_SKIPPED]]
    lines = [f"**{len(skipped)} images were skipped:**", *Table(("image", "name", "reason"), rows).markdown()]
    more = len(skipped) - len(rows)
    return lines + ([f"and {more} more, in [images.csv](images.csv).", ""] if more else [])


def chosen_images(results: Results, images: Sequence[int]) -> list[str]:
    """Returns the chosen images and their explained classes."""
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
        rows.append((image, names.get(image, "not looked at yet"), classes))
    header = ("image", "name", "classes explained")
    return ["## Images", "", f"Their maps: [{PAGE}]({PAGE}).", *Table(header, rows).markdown()]


def origin(results: Results) -> list[str]:
    """Returns what the numbers were made with."""
    distinct = sorted({json.dumps(e, sort_keys=True) for e in results.environments})
    environments = [json.loads(e) for e in distinct]
    keys = sorted({key for e in environments for key in e} - {"plan"})
    rows = [(key, *(e.get(key, "") for e in environments)) for key in keys]
    lines = ["## Origin", ""]
    if len(environments) > 1:
        lines += ["**The numbers were made with several versions or devices**, one in each column:", ""]
    # In JSON a bracket may be written as its code, which no reader of Markdown takes for a tag.
    plan = json.dumps(results.plan.as_dict(), indent=2, sort_keys=True).replace("<", "\\u003c")
    table = Table(("", *[""] * len(environments)), rows)
    return [*lines, *table.markdown(), "The plan:", "", "```json", plan, "```"]


# --- One measure -----------------------------------------------------------------------------------------------------


def section(
    measure: MeasurePlan,
    interpretation: Interpretation,
    found: Sequence[Group],
    lines: Sequence[Summary],
    compared: Sequence[ComparisonTable],
    pictures: Sequence[Path],
) -> list[str]:
    """Returns one measure: what it says, its means, its charts, and methods compared by it."""
    text = [f"## {escaped(measure.label or measure.measure)}", ""]
    told = escaped(interpretation.meaning, keep="`") or f"A measure of your own: {escaped(measure.measure)}."
    arguments = ", ".join(f"{key} {value}" for key, value in sorted(measure.arguments.items()))
    text += [told + (f" Here with {escaped(arguments)}." if arguments else ""), ""]
    if not found:
        return [*text, "There are no values.", ""]
    for group in shown_groups(found):
        own = [line for line in lines if line.detail == group.detail]
        text += _means(group, own)
    text += _never_flipped(lines)
    text += [f"![{escaped(path.stem)}]({path.name})\n" for path in pictures]
    return [*text, *_comparisons(compared)]


def _means(group: Group, lines: Sequence[Summary]) -> list[str]:
    """Returns a table of one detail, methods by layers."""
    heading = heading_of(group)
    text = [f"### {escaped(heading)}", ""] if heading else []
    if not any(line.n for line in lines):
        undefined = sum(line.undefined for line in lines)
        return [*text, f"No value is defined ({undefined} undefined)." if undefined else "There are none.", ""]
    own = [line for line in lines if line.place != CENTRE or group.interpretation.null != "centre"]
    whole = [line.n for line in own if line.n and not line.undefined]
    usual = max(whole, default=0)
    cells = {line.place: _cell(line, line.undefined > 0 or line.n != usual) for line in own}
    layers = list(dict.fromkeys(line.layer for line in own))
    methods = list(dict.fromkeys(line.method for line in own))
    rows = [(m, *(cells.get(MethodAtLayer(m, layer), "") for layer in layers)) for m in methods]
    table = Table(("", *layers), [*rows, *_baseline_row(group, lines, layers)])
    return [*text, *table.markdown(), *_how_many(group, usual, len(whole) == len(own))]


def heading_of(group: Group) -> str:
    """Returns what one of a measure's tables is of; "" where there is one alone."""
    if group.interpretation.is_accuracy:
        return _SUBSETS[group.detail]
    if group.interpretation.is_staged:
        stage, _, name = group.detail.partition(" ")
        at = int(stage) + 1 if stage.isdigit() else stage
        return f"Stage {at}: {name} {group.interpretation.happens}".rstrip()
    return group.detail


def _how_many(group: Group, usual: int, everywhere: bool) -> list[str]:
    """Returns the n that belongs to every number of a table beside which no other stands."""
    what = "pairs" if group.interpretation.is_accuracy else "images"
    return [f"n = {usual} {what}{'' if everywhere else ' where no other number stands'}.", ""] if usual else []


def _cell(line: Summary, with_n: bool) -> Markdown:
    text = number_with_spread(line.mean, line.spread)
    text += " \\*" if line.p_holm < SIGNIFICANT else ""
    counts = f"n = {line.n}" + (f", {line.undefined} undefined" if line.undefined else "")
    return Markdown(f"{text} ({counts})" if with_n else text)


def _baseline_row(group: Group, lines: Sequence[Summary], layers: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns what the numbers stand beside; a layer whose methods have different baselines shows their range."""
    own = [line for line in lines if not math.isnan(line.null)]
    if not own:
        return []
    cells = []
    for layer in layers:
        nulls = sorted({(line.null, line.null_spread) for line in own if line.layer == layer}, key=lambda pair: pair[0])
        if not nulls:
            cells.append("")
        elif nulls[0][0] == nulls[-1][0]:
            cells.append(number_with_spread(*nulls[0]))
        else:
            cells.append(f"{number(nulls[0][0])} to {number(nulls[-1][0])}")
    return [(Markdown(f"*baseline: {escaped(group.interpretation.baseline)}*"), *cells)]


def _never_flipped(lines: Sequence[Summary]) -> list[str]:
    """Returns how many decisions outlived all pixels, which e takes as 1, where a measure counts them."""
    by_place: dict[MethodAtLayer, dict[str, Summary]] = {}
    for line in lines:
        if line.detail in ("flipped_minus", "flipped_plus"):
            by_place.setdefault(line.place, {})[line.detail] = line
    rows = [
        (p.method, p.layer, *(_unflipped(own.get(f"flipped_{o}")) for o in ("minus", "plus")))
        for p, own in by_place.items()
    ]
    if not rows:
        return []
    header = ("", "layer", "least salient first", "most salient first")
    return [
        "### Never flipped",
        "",
        "e counts as 1 where the decision outlives all pixels:",
        *Table(header, rows).markdown(),
    ]


def _unflipped(line: Summary | None) -> str:
    if line is None or not line.n:
        return "undefined"
    return f"{line.n - round(line.mean * line.n)} of {line.n}"


def _comparisons(compared: Sequence[ComparisonTable]) -> Iterator[str]:
    """Writes best layers in full; single layers, of which there may be many, in a line each."""
    shown = [table for table in compared if not table.hits or table.detail != "multi"]
    for detail in dict.fromkeys(table.detail for table in shown):
        own = [table for table in shown if table.detail == detail]
        full = [table for table in own if not table.layer or len(own) == 1]
        for table in full:
            yield from _compared(table)
        single = [table for table in own if table not in full]
        if single:
            yield f"### Compared layer by layer{f': {escaped(detail)}' if detail else ''}"
            yield f"\nPairs that differ (p < {SIGNIFICANT} after Holm's correction in each layer), the larger first:\n"
            yield from map(_line, single)
            yield ""


def _line(table: ComparisonTable) -> str:
    differ = [c for c in table.comparisons if c.p_holm < SIGNIFICANT]
    pairs = [(c.first, c.second, c) if c.effect > 0 else (c.second, c.first, c) for c in differ]
    told = "; ".join(f"{escaped(a)} &gt; {escaped(b)} (p = {p_value(c.p_holm)}, n = {c.n})" for a, b, c in pairs)
    return f"- {escaped(table.layer)}: {told or 'none'} ({len(differ)} of {len(table.comparisons)} pairs)"


def _compared(table: ComparisonTable) -> list[str]:
    """Returns all pairs in a table."""
    found = compared_table(table)
    text = [f"### Compared: {escaped(compared_heading(table))}", "", differences(table)]
    text += found.markdown() if table.comparisons else [""]
    if table.left_out:
        pairs = "; ".join(f"{escaped(a)} and {escaped(b)}" for a, b in table.left_out)
        text += [f"Never defined on the same image: {pairs}.", ""]
    return text


def compared_heading(table: ComparisonTable) -> str:
    """Returns by what, and at which layers, methods are compared."""
    where = f"at {table.layer}" if table.layer else "each method at its best layer"
    if not table.layer and not table.is_chosen:
        where = "each method at its layer"
    return ", ".join(part for part in (table.detail, where) if part)


def compared_table(table: ComparisonTable) -> Table:
    """Returns a row for each pair of methods, with n, the difference, its effect and p."""
    header = (*_COMPARED, *(() if table.hits else _MEDIANS), *_TESTED)
    rows = []
    for c in table.comparisons:
        medians = () if table.hits else (number(c.median), f"{number(c.low)} to {number(c.high)}")
        counts = (c.first, c.second, c.n, c.undefined, c.ties)
        rows.append((*counts, number(c.mean), *medians, f"{c.effect:+.2f}", p_value(c.p), p_value(c.p_holm)))
    return Table(header, rows)


def differences(table: ComparisonTable) -> str:
    """Returns what is compared, and how it was tested."""
    what = "hits on the same pairs" if table.hits else "values on the same images"
    what = "magnitudes on the same images" if table.magnitude else what
    told = f"Differences, first minus second, of {what}"
    told += f"; {table.better} is better." if table.better else "."
    if table.is_chosen:
        told += " Best layers were chosen on these same images, which favours methods with many layers."
    if table.to_first:
        told += " There are too many for all pairs: each is compared to the first."
    told += f" Wilcoxon signed-rank; Holm over {len(table.comparisons)} comparisons."
    return told + (" Classes of one image count as pairs of their own." if table.hits else "")
