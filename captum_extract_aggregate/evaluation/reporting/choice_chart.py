"""The picture of a choice: what depends on class and network, against what tells of the decision and the object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from captum_extract_aggregate._common.notebook_figure import NotebookFigure
from captum_extract_aggregate.evaluation.reporting.charts import plain, style

if TYPE_CHECKING:
    from captum_extract_aggregate.evaluation.choice.choosing import Candidate, Choice

_ACROSS = ("class_sensitivity", "parameter_randomization")
_UP = {
    "removal_contrast": ("removal contrast", 0.0),
    "grid_pointing_game": ("share in the right one of four pictures", 0.25),
}


def choice_figure(choice: Choice) -> Any:
    """Returns a panel for each question of faithfulness, with medians, their intervals and the Pareto front."""
    asked = [question for question in _UP if question in choice.candidates[0].answers]
    figure = NotebookFigure(figsize=(6 * len(asked), 5), layout="constrained")
    for ax, question in zip(figure.subplots(1, len(asked), squeeze=False)[0], asked):
        _panel(ax, choice, question)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8)
    return figure


def _panel(ax: Any, choice: Choice, question: str) -> None:
    methods = list(dict.fromkeys(c.method for c in choice.candidates))
    name, limit = _UP[question]
    points = []
    for candidate in choice.candidates:
        across, up = _of_class(candidate), candidate.answers[question]
        if not across or not up.n:
            continue
        x, left, right = across
        points.append((x, up.median))
        shown = style(methods.index(candidate.method)) | {"linestyle": ""}
        error = {"xerr": [[x - left], [right - x]], "yerr": [[up.median - up.low], [up.high - up.median]]}
        known = ax.get_legend_handles_labels()[1]
        label = None if plain(candidate.method) in known else plain(candidate.method)
        ax.errorbar(x, up.median, **error, **shown, elinewidth=0.6, label=label)
        ax.annotate(plain(candidate.layer), (x, up.median), (4, 4), textcoords="offset points", fontsize=7)
        if candidate is choice.recommended:
            ax.plot(x, up.median, "o", markersize=16, markerfacecolor="none", color="black", label="recommended")
    front = _front(points)
    ax.plot(*zip(*front), color="0.6", linewidth=1, zorder=0, label="Pareto front")
    ax.axhline(limit, color="0.5", linestyle=":", linewidth=1)
    ax.axvline(0.5, color="0.5", linestyle=":", linewidth=1, label="limits of the questions")
    ax.set_xlabel(
        "rank correlation with the map of another class, or of a random network\n(the larger; left is better)"
    )
    ax.set_ylabel(f"{name} (up is better)")


def _of_class(candidate: Candidate) -> tuple[float, float, float] | None:
    """Returns the larger of the similarities that should be small, with its interval."""
    known = [candidate.answers[q] for q in _ACROSS if q in candidate.answers and candidate.answers[q].n]
    if not known:
        return None
    worst = max(known, key=lambda answer: answer.median)
    return worst.median, worst.low, worst.high


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that none is better than, to the left and above, from the left."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found or [(np.nan, np.nan)]
