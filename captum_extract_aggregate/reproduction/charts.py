"""The pictures of the reproduction: curves, bars, boxes and grids of maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from captum_extract_aggregate.evaluation import MeasurePlan, MethodPlan, Plan, RunPlan
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.runner import maps_of
from captum_extract_aggregate.visualization.figures import grid, overlay

if TYPE_CHECKING:
    from captum_extract_aggregate.reproduction.setting import Setting

# Okabe and Ito's colours, readable with any colour vision, and markers that need no colour.
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#999933",
    "#882255",
    "#44AA99",
)
_MARKERS = "osD^vP*Xdh"


def curves(
    path: Path,
    ticks: Sequence[str],
    means: Mapping[str, Sequence[float]],
    errors: Mapping[str, Sequence[float]],
    title: str,
    baselines: Mapping[str, float],
) -> None:
    """Draws one line per method, with error bars where there are some; baselines dashed."""
    figure, ax = _figure(8, 4.5)
    for i, (name, values) in enumerate(means.items()):
        style: dict[str, Any] = {"color": _COLOURS[i % 10], "marker": _MARKERS[i % 10], "label": name, "linewidth": 1.3}
        ax.errorbar(range(len(ticks)), values, errors.get(name), capsize=2, **style)
    for name, value in baselines.items():
        ax.axhline(value, color="grey", linestyle="--", linewidth=1, label=name)
    ax.set_xticks(range(len(ticks)), ticks, rotation=20, fontsize=8)
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=80)


def bars(path: Path, columns: Sequence[str], values: Mapping[str, Sequence[float]], title: str) -> None:
    """Draws groups of bars."""
    figure, ax = _figure(10, 4.5)
    width = 0.8 / len(values)
    for i, (name, of_method) in enumerate(values.items()):
        ax.bar([c + i * width for c in range(len(columns))], of_method, width, color=_COLOURS[i % 10], label=name)
    ax.set_xticks([c + 0.4 - width / 2 for c in range(len(columns))], columns, rotation=30, ha="right", fontsize=8)
    lowest = min(v for of_method in values.values() for v in of_method)
    ax.set_ylim(max(0, lowest - 10), None)
    ax.set_title(title, fontsize=10)
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def boxes(path: Path, groups: Mapping[str, Sequence[float]], title: str) -> None:
    """Draws a box with whiskers per group: quartiles, median, and the range within 1.5 boxes."""
    figure, ax = _figure(max(6, 0.55 * len(groups) + 2), 4.5)
    ax.boxplot(
        [list(v) or [float("nan")] for v in groups.values()], showfliers=False, medianprops={"color": _COLOURS[1]}
    )
    ax.set_xticks(range(1, len(groups) + 1), list(groups), rotation=60, ha="right", fontsize=7)
    ax.axhline(0, color="grey", linestyle="--", linewidth=1)
    ax.set_title(title, fontsize=10)
    figure.savefig(path, dpi=80)


class Tile(NamedTuple):
    """Holds one map of a picture, and what stands above it."""

    title: str
    picture: Tensor
    map: Tensor


def tiles(path: Path, rows: Mapping[str, Sequence[Tile]], title: str) -> None:
    """Draws rows of maps, each over its own picture and under its own title."""
    from captum_extract_aggregate._common.notebook_figure import NotebookFigure

    columns = max(len(row) for row in rows.values())
    figure = NotebookFigure(figsize=(1.6 * columns + 0.6, 1.85 * len(rows) + 0.4), layout="constrained")
    axes: Any = figure.subplots(len(rows), columns, squeeze=False)
    for (name, row), line in zip(rows.items(), axes):
        for ax in line[len(row) :]:
            ax.set_axis_off()
        for ax, tile in zip(line, row):
            overlay(ax, tile.picture, tile.map)
            ax.set_title(tile.title, fontsize=7)
        line[0].text(-0.05, 0.5, name, rotation=90, ha="right", va="center", fontsize=7, transform=line[0].transAxes)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=70)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from captum_extract_aggregate._common.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def picture_grid(
    setting: Setting, methods: Sequence[MethodPlan], name: str, worst: bool = False, image: int = 0
) -> Path:
    """Returns the maps of methods by layers for the best class of an image (and the worst), drawn over it."""
    methods = [m for m in methods if not setting.supports(m)]
    plan = Plan(
        tuple(methods),
        (MeasurePlan("class_sensitivity"),),
        replace(setting.data, n=image + 1),
        setting.model,
        RunPlan(),
        setting.layers,
    )
    prepared = prepare(plan, torch.device("cpu"))
    _, picture, columns, batch = maps_of(prepared, image, torch.device("cpu"))
    rows: dict[str, dict[str, Any]] = {}
    many = len(columns) > len(methods)  # several layers: a row for each method; else one for each class
    for t, which in enumerate(("best class", "worst class")[: 1 + worst]):
        for column in columns:
            row = f"{column.method}, {which}" if worst and many else column.method if many else which
            rows.setdefault(row, {})[column.layer if many else column.method] = column.maps[t][0]
    classes = prepared.images.classes
    best, least = batch.targets[0, :2].tolist()
    called = [classes[c] if c < len(classes) else str(c) for c in (best, least)]
    title = f"{setting.name}: class {called[0]}" + (f", and class {called[1]}" if worst else "")
    path = setting.folder / f"{name}-{setting.name}.png"
    grid(picture, rows, title).savefig(path, dpi=70)
    return path
