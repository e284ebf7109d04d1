"""A leaderboard as numbers: methods at their layers, what every picture gave by every measure, and what follows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from captum_extract_aggregate._common.aligned import aligned
from captum_extract_aggregate._common.errors import InvalidValueError, make_folder
from captum_extract_aggregate.evaluation.choice.standing import COLUMNS, Standing, standings
from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Array
from captum_extract_aggregate.evaluation.reporting.tables import Table

_DIGITS = 5  # of numbers in files


@dataclass(frozen=True)
class Line:
    """Is one method at the layer that was chosen for it.

    Attributes:
        method: its label. layer: the name, `"input"` or `"all layers"`.
        is_null: whether its map knows nothing.
        shares: what the layer was chosen by: of each layer the mean share in the right cell of grids (None: undefined).
        maps: a picture of its maps, as a data address; "" where there is none.
    """

    method: str
    layer: str
    is_null: bool = False
    shares: Mapping[str, float | None] = field(default_factory=dict)
    maps: str = ""


@dataclass(frozen=True)
class Board:
    """Holds a leaderboard; `print` shows it, `write` keeps it.

    Attributes:
        title: what the network is called. lines: the methods, and the maps that know nothing.
        values: of each measure in `COLUMNS` that was taken, a number for each picture by method; NaN: undefined.
        left_out: of other methods, why. same: of methods that give the maps of another at its layer, which.
        shown: what the pictures are whose maps are shown.
        choosing: how many grids the layers were chosen by; 0: there was no choice.
    """

    title: str
    lines: tuple[Line, ...]
    values: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    choosing: int = 0

    @property
    def measures(self) -> list[str]:
        """The measures that were taken, in the order of `COLUMNS`."""
        return [measure for measure in COLUMNS if measure in self.values]

    @property
    def nulls(self) -> list[str]:
        """The maps that know nothing."""
        return [line.method for line in self.lines if line.is_null]

    @cached_property
    def standings(self) -> dict[str, dict[str, Standing]]:
        """By measure, where each method stands."""
        return {measure: standings(measure, self.values[measure], self.nulls) for measure in self.measures}

    def with_values(self, found: Mapping[str, Mapping[MethodAtLayer, Array]]) -> Board:
        """Returns the board with what was measured."""
        known = {line.method for line in self.lines}
        added = {m: {place.method: v for place, v in own.items() if place.method in known} for m, own in found.items()}
        return replace(self, values={**self.values, **{m: own for m, own in added.items() if m in COLUMNS}})

    def first(self) -> list[str]:
        """Returns the methods that pass the most questions, of those that fail none, the best mean rank first; empty
        where none passes any."""
        found = self.standings
        asked = [m for m in self.measures if COLUMNS[m].asks]
        methods = [line.method for line in self.lines if not line.is_null]
        verdicts = {name: [found[m][name].verdict for m in asked if name in found[m]] for name in methods}
        left = {name: own.count("passes") for name, own in verdicts.items() if "fails" not in own and "passes" in own}
        ranks = self.mean_ranks()
        return sorted((n for n, k in left.items() if k == max(left.values())), key=lambda name: ranks[name])

    def mean_ranks(self) -> dict[str, float]:
        """Returns each method's mean rank over the questions, 1 for the best; last is what is undefined on more than
        half of the pictures."""
        from scipy.stats import rankdata

        found = self.standings
        methods = [line.method for line in self.lines if not line.is_null]
        ranks = []
        for measure in (m for m in self.measures if COLUMNS[m].asks):
            sign = -1 if COLUMNS[measure].better == "higher" else 1
            own = [found[measure].get(name) for name in methods]
            ranks.append(rankdata([sign * s.mean if s and s.n and s.n >= s.undefined else math.inf for s in own]))
        mean = np.mean(ranks, axis=0) if ranks else np.full(len(methods), math.nan)
        return dict(zip(methods, mean.tolist()))

    def __str__(self) -> str:
        table = self.table()
        lines = aligned(table.header, table.rows)
        left_out = [f"{name} is left out: {why}" for name, why in self.left_out.items()]
        same = [f"{name} gives the maps of {other}." for name, other in self.same.items()]
        return "\n".join([*lines, "", self.sentence, *same, *left_out])

    @property
    def sentence(self) -> str:
        """What to take first, in one line."""
        asked = [measure for measure in self.measures if COLUMNS[measure].asks]
        if not asked:
            return "No question was asked of these maps."
        first = self.first()
        if not first:
            return "Take none of these maps first: none passes a question without failing another."
        passed = sum(self.standings[m][first[0]].verdict == "passes" for m in asked if first[0] in self.standings[m])
        layers = {line.method: line.layer for line in self.lines}
        named = [f"{name} at {layers[name]}" for name in first]
        what = f"{passed} of {len(asked)} questions, the most, and certainly fail"
        if len(first) == 1:
            return f"Take {named[0]} first: it passes {what}s none."
        return f"Take one of {', '.join(named)}: each passes {what}s none (in the order of their mean ranks)."

    def table(self) -> Table:
        """Returns a line for each method, the best mean rank first, then the maps that know nothing."""
        found, ranks = self.standings, self.mean_ranks()
        header = ["method", "layer", *(COLUMNS[m].name for m in self.measures), "mean rank"]
        ordered = sorted(self.lines, key=lambda line: (line.is_null, ranks.get(line.method, math.inf)))
        rows = []
        for line in ordered:
            cells = [cell_text(found[m].get(line.method)) for m in self.measures]
            rank = ranks.get(line.method, math.nan)
            rows.append([line.method, line.layer, *cells, "" if math.isnan(rank) else f"{rank:.1f}"])
        return Table(header, rows)

    # --- Files --------------------------------------------------------------------------------------------------------

    def write(self, folder: str | Path) -> list[Path]:
        """Writes `leaderboard.json`, `leaderboard.txt` and the page `leaderboard.html`, and returns their paths."""
        from captum_extract_aggregate.evaluation.reporting.leaderboard_page import write_leaderboard

        folder = Path(folder)
        make_folder("results", folder)
        numbers, text, page = (folder / f"leaderboard.{kind}" for kind in ("json", "txt", "html"))
        numbers.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        text.write_text(f"{self}\n", encoding="utf-8")
        write_leaderboard(page, [self])
        return [numbers, text, page]

    def as_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values; undefined numbers are None."""
        values = {m: {name: [_plain(v) for v in own] for name, own in of.items()} for m, of in self.values.items()}
        lines = [asdict(line) for line in self.lines]
        return asdict(replace(self, values={}, lines=())) | {"lines": lines, "values": values}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Board:
        """Returns the board of which `as_dict` gave the values."""
        try:
            lines = tuple(Line(**line) for line in content["lines"])
            values = {m: {n: np.array(v, float) for n, v in of.items()} for m, of in content["values"].items()}
            return cls(**{**content, "lines": lines, "values": values, "shown": tuple(content["shown"])})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidValueError(f"content is no leaderboard ({error}); expected what as_dict gave") from error


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.{_DIGITS}g}")


def cell_text(standing: Standing | None) -> str:
    """Returns a mean with its interval and what it is marked by: `*` the best, `=` not told from the best; `yes`, `NO`
    or `?`: what it passes."""
    if standing is None or not standing.n:
        return "undefined" if standing is not None else ""
    place = {"best": " *", "not told from the best": " ="}.get(standing.place, "")
    verdict = {"passes": " yes", "fails": " NO", "cannot be told": " ?"}.get(standing.verdict, "")
    return f"{standing.mean:.3g} [{standing.low:.3g}, {standing.high:.3g}]{place}{verdict}"


def boards_in(paths: Sequence[Path]) -> list[Board]:
    """Returns the leaderboards of files that `Board.write` wrote."""
    return [Board.from_dict(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
