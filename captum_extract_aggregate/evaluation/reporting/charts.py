"""The charts of a report: a measure over layers, over stages, and its spread over images."""

from __future__ import annotations

import contextlib
import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_extract_aggregate.evaluation.explained import CENTRE, MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Group, methods_at_layers, shown_groups
from captum_extract_aggregate.evaluation.measure_spec import Interpretation
from captum_extract_aggregate.evaluation.statistics import Summary
from captum_extract_aggregate.evaluation.store import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours without yellow, which is faint on white; with seven markers no two of 56 methods look alike.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_FILLED = 0.9  # of a width, by a line of a title
_LABELS = 0.5  # inches of a panel's width, beside its axes
_STYLES = ("-", "-", "-", "-", "-", "--", "-.")


def draw(results: Results, found: Sequence[Group], lines: Sequence[Summary], folder: Path, name: str) -> list[Path]:
    """Draws the pictures of one measure into a folder; `name` is what their files are called by."""
    if not any(line.n for line in lines):
        return []
    methods = list(dict.fromkeys(p.method for p in methods_at_layers(results)))
    interpretation = found[0].interpretation
    chart = _Chart(
        label=found[0].label,
        interpretation=interpretation,
        shown=shown_groups(found),
        lines=[line for line in lines if line.place != CENTRE or interpretation.null != "centre"],
        styles={m: style(i) for i, m in enumerate(methods)},
        combined=combined(results),
    )
    return [_save(_DRAWN[kind](chart), folder / f"{kind}-{name}.png") for kind in interpretation.charts]


@dataclass(frozen=True)
class _Chart:
    """Holds what is drawn: a measure's lines and groups, a style for each method, and which columns are
    combinations."""

    label: str
    interpretation: Interpretation
    shown: Sequence[Group]
    lines: Sequence[Summary]
    styles: Mapping[str, dict[str, Any]]
    combined: set[MethodAtLayer]


def style(i: int) -> dict[str, Any]:
    """Returns how the i-th method is drawn."""
    colour, marker, line = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _STYLES[i % len(_STYLES)]
    return {"color": colour, "marker": marker, "linestyle": line, "markersize": 5, "linewidth": 1.3}


def plain(text: str, most: int = 44) -> str:
    """Returns a label that matplotlib takes as it is: neither mathematics nor, by a leading underscore, hidden."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = line if len(line) <= most else line[: most - 1] + "…"
    return (" " + line if line.startswith("_") else line).replace("$", r"\$")


def _canvas(width: float, height: float, rows: int, columns: int) -> tuple[Figure, Any]:
    from captum_extract_aggregate._common.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Figure, path: Path) -> Path:
    with _in_any_script():
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


@contextlib.contextmanager
def _in_any_script() -> Iterator[None]:
    """Says nothing of names in scripts that the font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        yield


def _headed(figure: Figure, text: str, size: float) -> None:
    """Gives a figure a title that keeps clear of its edges."""
    figure.suptitle(_in_lines(text, size, figure.get_figwidth()), fontsize=size)


def _in_lines(text: str, size: float, inches: float) -> str:
    """Returns a title in as few lines as a width takes, of which some is left free: layouts make no room for them."""
    for most in range(len(text), 0, -1):
        lines = textwrap.wrap(text, most)
        if max(_points(line, size) for line in lines or [""]) <= _FILLED * 72 * inches:
            return "\n".join(lines)
    return text


def _points(line: str, size: float) -> float:
    """Returns how wide a line is in the font of titles."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with _in_any_script():
        width, _, _ = text_to_path.get_text_width_height_descent(line, FontProperties(size=size), ismath=False)
    return float(width)


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Draws one legend for all panels, below them."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=min(4, len(found)), fontsize=8
        )


def combined(results: Results) -> set[MethodAtLayer]:
    """Returns the combinations of layers, which come after a method's layers and belong to no curve."""
    found: set[MethodAtLayer] = set()
    for method in results.plan.methods:
        own = [p for p in methods_at_layers(results) if p.method == (method.label or method.method)]
        found.update(own[len(own) - len(method.combine) :])
    return found


def _curves(chart: _Chart) -> Figure:
    """Returns the measure over layers, a panel for each detail, with one standard error and the baseline dashed."""
    lines = chart.lines
    details = [d for d in dict.fromkeys(line.detail for line in lines) if any(s.n for s in lines if s.detail == d)]
    layers = list(dict.fromkeys(line.layer for line in sorted(lines, key=lambda line: line.place in chart.combined)))
    methods = list(dict.fromkeys(line.method for line in lines))
    width = max(3.6, 0.55 * len(layers) + 1.6)
    height = 3.4 + 0.2 * math.ceil(len(methods) / 4) + 0.05 * max(map(len, layers))
    figure, cells = _canvas(max(width * len(details), 6), height, 1, len(details))
    for ax, detail in zip(cells[0], details):
        own = [line for line in lines if line.detail == detail]
        for i, method in enumerate(methods):
            shift = 0.3 / max(1, len(methods) - 1)  # so that bars of equal means are told apart
            offset = shift * i - 0.15 * (len(methods) > 1)
            _curve(ax, [line for line in own if line.method == method], layers, offset, chart)
        _null_lines(ax, own, layers, chart.interpretation.baseline)
        ax.set_xticks(range(len(layers)), [plain(layer) for layer in layers], rotation=45, ha="right", fontsize=8)
        ax.set_title(_in_lines(plain(detail), 10, width - _LABELS), fontsize=10)
        ax.grid(axis="y", alpha=0.3)
    cells[0][0].set_ylabel(f"{plain(chart.interpretation.axis)} (bars: one standard error)", fontsize=9)
    _headed(figure, plain(chart.label), 11)
    _legend(figure, cells[0])
    return figure


def _curve(ax: Axes, lines: Sequence[Summary], layers: Sequence[str], offset: float, chart: _Chart) -> None:
    """Draws one method's layers as a curve, and its combinations apart."""
    for apart in (False, True):
        mine = [line for line in lines if (line.place in chart.combined) == apart]
        if mine:
            x = [layers.index(line.layer) + offset for line in mine]
            errors = np.nan_to_num([line.error for line in mine])
            style = chart.styles[mine[0].method] | ({"linestyle": ""} if apart else {})
            label = plain(mine[0].method)
            ax.errorbar(x, [line.mean for line in mine], errors, label=label, capsize=2, **style)


def _null_lines(ax: Axes, lines: Sequence[Summary], layers: Sequence[str], name: str) -> None:
    """Draws the baseline: across the picture if it is one, else a dash at each layer."""
    nulls = {(line.layer, line.null) for line in lines if not math.isnan(line.null)}
    style: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
    if len({null for _, null in nulls}) == 1:
        ax.axhline(next(iter(nulls))[1], label=name, **style)
        return
    for i, (layer, null) in enumerate(sorted(nulls)):
        x = layers.index(layer)
        ax.plot([x - 0.35, x + 0.35], [null, null], label=name if i == 0 else None, **style)


def _stages(chart: _Chart) -> Figure:
    """Returns the measure over its stages, a panel for each layer, with a band of one standard deviation."""
    lines, axis = chart.lines, plain(chart.interpretation.axis)
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
    names = [plain(stage.partition(" ")[2] or stage, 24) for stage in stages]
    for i, (ax, layer) in enumerate(zip(panels, layers)):
        for method in methods:
            own = [line for line in lines if (line.layer, line.method) == (layer, method)]
            _band(ax, own, stages, plain(method), chart.styles[method])
        nulls = [line.null for line in lines if line.layer == layer and not math.isnan(line.null)]
        if nulls:
            ax.axhline(
                sum(nulls) / len(nulls), color="black", linestyle="--", linewidth=1, label=chart.interpretation.baseline
            )
        is_lowest = i + columns >= len(layers)
        ax.set_xticks(range(0, len(stages), every), names[::every] if is_lowest else [], rotation=90, fontsize=7)
        ax.set_title(_in_lines(plain(layer), 9, size[0] / columns - _LABELS), fontsize=9)
        ax.grid(axis="y", alpha=0.3)
    for ax in panels[len(layers) :]:
        ax.set_axis_off()
    limits = [ax.get_ylim() for ax in panels[: len(layers)]]
    for ax in panels[: len(layers)]:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    for row in cells:
        row[0].set_ylabel(axis, fontsize=8)
    title = chart.interpretation.title or f"{axis} over its stages"
    _headed(figure, f"{plain(chart.label)}: {title} (band: one sd)", 10)
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


def _boxes(chart: _Chart) -> Figure:
    """Returns the spread over images: details by layers, a box for each method, the baseline dashed where it is a
    number."""
    found = chart.shown
    all_places = list(dict.fromkeys(p for group in found for p in group.values))
    layers = list(dict.fromkeys(p.layer for p in all_places))
    methods = list(dict.fromkeys(p.method for p in all_places))
    height = (0.26 * len(methods) + 0.8) * len(found) + 0.5
    figure, cells = _canvas(2.3 * len(layers) + 1.9, height, len(found), len(layers))
    for row, group in enumerate(found):
        for column, layer in enumerate(layers):
            ax = cells[row][column]
            _box_panel(ax, {m: group.values.get(MethodAtLayer(m, layer)) for m in methods}, chart.styles)
            ax.set_yticks(range(len(methods)), [plain(m, 30) for m in methods] if column == 0 else [], fontsize=8)
            ax.tick_params(axis="x", labelsize=7)
            null = chart.interpretation.null_of(group.detail)
            if null is not None:
                ax.axvline(null, color="black", linestyle="--", linewidth=1)
            if row == 0:
                ax.set_title(plain(layer, 24), fontsize=9)
            if column == 0 and group.detail:
                better = f"\n{group.better} is better" if group.better else ""
                ax.set_ylabel(plain(group.detail) + better, fontsize=8)
        _share_scale(cells[row])
    _headed(figure, f"{plain(chart.label)} (boxes: quartiles; whiskers: 5 to 95 %; diamond: mean)", 9)
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
    """Gives one scale to the panels of a row that show something."""
    limits = [ax.get_xlim() for ax in row if ax.has_data()]
    if limits:
        for ax in row:
            ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))


_DRAWN: dict[str, Callable[[_Chart], Figure]] = {"layers": _curves, "stages": _stages, "boxes": _boxes}
