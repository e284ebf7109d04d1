"""The page of leaderboard.py's numbers: docs/leaderboard.md; its sortable tables are made with the documentation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from captum_extract_aggregate.evaluation import Board, Standing
from captum_extract_aggregate.evaluation.board import boards_in
from captum_extract_aggregate.evaluation.reporting.leaderboard_page import PLACES, VERDICTS
from captum_extract_aggregate.evaluation.standing import COLUMNS

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "leaderboard"
TEXT = Path(__file__).parent / "leaderboard_text.md"


def write(folder: Path, names: Sequence[str]) -> None:
    """Copies the results of a folder of runs beside the page, and writes it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = folder / name / "leaderboard.json"
        if file.exists():
            content = json.loads(file.read_text(encoding="utf-8"))
            (RESULTS / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    (DOCS / "leaderboard.md").write_text(page(boards_in(sorted(RESULTS.glob("*.json"))), names), encoding="utf-8")


def page(boards: Sequence[Board], names: Sequence[str]) -> str:
    """Returns the page, with the networks that are not run yet named."""
    lessons = [lesson for make in LESSONS if (lesson := make(boards))]
    numbered = "\n".join(f"{k}. {lesson}" for k, lesson in enumerate(lessons, 1))
    missing = [name for name in names if name not in {board.title for board in boards}]
    parts = [_text("head"), numbered, _text("first"), first(boards), _text("tables")]
    parts += [f"## {board.title}\n\n{table(board)}" for board in boards]
    parts += [f"## {name}\n\nNot run yet." for name in missing]
    return "\n\n".join([*parts, _text("how")]) + "\n"


def _text(part: str) -> str:
    """Returns what stands below a heading `<!-- part -->` of the text."""
    return TEXT.read_text(encoding="utf-8").split(f"<!-- {part} -->\n")[1].split("<!-- ")[0].strip()


# --- What it teaches: each sentence is made from the numbers, and left out where there are none -------------------------

Standings = dict[str, Standing]


def _methods(board: Board) -> list[str]:
    return [line.method for line in board.lines if not line.is_null]


def _of(board: Board, measure: str) -> Standings:
    return board.standings()[measure]


def _having(boards: Sequence[Board], *measures: str) -> list[Board]:
    return [board for board in boards if all(measure in board.values for measure in measures)]


def _each(boards: Sequence[Board], told: Callable[[Board], str]) -> str:
    return "; ".join(f"{board.title} {told(board)}" for board in boards)


def _best(board: Board, measure: str) -> str:
    found = _of(board, measure)
    best = next(name for name in _methods(board) if found[name].place == "best")
    at = next(line.layer for line in board.lines if line.method == best)
    near = sum(found[name].place == "not told from the best" for name in _methods(board) if name in found)
    own = found[best]
    return f"{best} at {at} ({own.mean:.2f}, {own.low:.2f} to {own.high:.2f}; {near} not told from it)"


def _counts(board: Board, measure: str) -> str:
    found = _of(board, measure)
    verdicts = [found[name].verdict for name in _methods(board) if name in found]
    return f"{verdicts.count('passes')} of {len(verdicts)} ({verdicts.count('fails')} certainly fail)"


def grids(boards: Sequence[Board]) -> str:
    """Which method finds the right one of four pictures."""
    own = _having(boards, "grid_pointing_game")
    return own and (
        f"In grids of four pictures the best is, on {_each(own, lambda b: _best(b, 'grid_pointing_game'))}; a map that "
        f"knows nothing has 0.25. More than every map that knows nothing have, on "
        f"{_each(own, lambda b: _counts(b, 'grid_pointing_game'))}."
    )


def class_blind(boards: Sequence[Board]) -> str:
    """How many hardly depend on the class."""
    own = _having(boards, "class_sensitivity")

    def told(board: Board) -> str:
        found = _of(board, "class_sensitivity")
        high = sorted((n for n in _methods(board) if found[n].verdict == "fails"), key=lambda n: -found[n].mean)
        worst = f", above all {', '.join(high[:3])} ({found[high[0]].mean:.2f})" if high else ""
        return f"{len(high)} of {len(_methods(board))}{worst}"

    return own and (
        "Maps of the highest and the lowest class are certainly more alike than 0.5 (rank correlation) for "
        f"{_each(own, told)}: whatever else these maps show, it is hardly the class."
    )


def learned(boards: Sequence[Board]) -> str:
    """How many hardly depend on what was learned."""
    own = _having(boards, "parameter_randomization")

    def told(board: Board) -> str:
        found = _of(board, "parameter_randomization")
        high = sorted((n for n in found if found[n].verdict == "fails"), key=lambda n: -found[n].mean)
        return f"{len(high)} certainly stay more alike than 0.5{f' ({chr(44).join(high[:3])})' if high else ''}"

    return own and f"When all parameters are drawn anew, on {_each(own, told)}."


def random_wins(boards: Sequence[Board]) -> str:
    """That two of the questions are won by a random map."""
    own = _having(boards, "class_sensitivity", "parameter_randomization")

    def told(board: Board) -> str:
        shares = []
        for measure in ("class_sensitivity", "parameter_randomization"):
            found = _of(board, measure)
            shares.append(f"{found['random map'].mean:.2f} and the best method {min(_means(board, measure)):.2f}")
        return f"{shares[0]} (other class), {shares[1]} (random network)"

    return own and (
        f"A random map depends on everything: it has, on {_each(own, told)}. These two questions can exclude a map, and "
        "recommend none."
    )


def _means(board: Board, measure: str) -> list[float]:
    found = _of(board, measure)
    return [found[n].mean for n in _methods(board) if n in found and not math.isnan(found[n].mean)]


def objects(boards: Sequence[Board]) -> str:
    """How far maps are better than the centre at marking objects."""
    own = _having(boards, "relevance_mass_accuracy")

    def told(board: Board) -> str:
        found = _of(board, "relevance_mass_accuracy")
        centre = found["centre"].mean
        below = sum(v < centre for v in _means(board, "relevance_mass_accuracy"))
        return f"{_counts(board, 'relevance_mass_accuracy')}; {below} lie below the centre's {centre:.2f}"

    return own and (
        f"On objects the best is, on {_each(own, lambda b: _best(b, 'relevance_mass_accuracy'))}. More of the map on the "
        f"object than every map that knows nothing have, on {_each(own, told)}."
    )


def faithful(boards: Sequence[Board]) -> str:
    """Which order of pixels says most of the decision."""
    own = _having(boards, "symmetric_relevance_gain", "removal_contrast")

    def told(board: Board) -> str:
        return (
            f"{_best(board, 'symmetric_relevance_gain')}, and {_counts(board, 'symmetric_relevance_gain')} beat every map "
            f"that knows nothing; by removal contrast {_counts(board, 'removal_contrast')}"
        )

    return own and f"By SRG the best is, on {_each(own, told)}."


def simple(boards: Sequence[Board]) -> str:
    """That sparseness is won by maps that are not right."""
    own = _having(boards, "sparseness")

    def told(board: Board) -> str:
        found = _of(board, "sparseness")
        below = sum(v < found["edges"].mean for v in _means(board, "sparseness"))
        return f"{below} of {len(_methods(board))}"

    return own and f"Sparseness asks nothing: an edge detector's map is sparser than that of, on {_each(own, told)}."


def depth(boards: Sequence[Board]) -> str:
    """At which layers methods are best."""

    def told(board: Board) -> str:
        chosen = [line for line in board.lines if len(line.shares) > 1]
        counts: dict[str, int] = {}
        for line in chosen:
            counts[line.layer] = counts.get(line.layer, 0) + 1
        ordered = sorted(counts.items(), key=lambda pair: -pair[1])
        return ", ".join(f"{layer.removeprefix('encoder.layers.')} {k}" for layer, k in ordered)

    own = [board for board in boards if any(len(line.shares) > 1 for line in board.lines)]
    return own and f"The layer matters: by grids on other pictures, methods are best at, on {_each(own, told)}."


def across_networks(boards: Sequence[Board]) -> str:
    """How far the order on one network is that on another."""
    pairs = []
    for i, a in enumerate(boards):
        for b in boards[i + 1 :]:
            if set(a.measures) != set(b.measures):
                continue
            one, other = a.mean_ranks(), b.mean_ranks()
            both = [name for name in one if name in other]
            if len(both) > 4:
                ranks = [rankdata([of[name] for name in both]) for of in (one, other)]
                pairs.append(f"{a.title} and {b.title} {np.corrcoef(*ranks)[0, 1]:+.2f} ({len(both)} methods)")
    return f"The order of mean ranks carries over from network to network so far: {', '.join(pairs)}." if pairs else ""


def costs(boards: Sequence[Board]) -> str:
    """What maps cost."""
    own = _having(boards, "milliseconds")

    def told(board: Board) -> str:
        found = _of(board, "milliseconds")
        ordered = sorted(_methods(board), key=lambda n: found[n].mean)
        low, high = ordered[0], ordered[-1]
        return f"{found[low].mean:.0f} ms ({low}) to {found[high].mean:.0f} ms ({high})"

    return own and f"One map takes, of one CPU thread, on {_each(own, told)}."


LESSONS: tuple[Callable[[Sequence[Board]], str], ...] = (
    grids,
    objects,
    faithful,
    class_blind,
    learned,
    random_wins,
    simple,
    depth,
    across_networks,
    costs,
)


# --- Which one first ----------------------------------------------------------------------------------------------------


def first(boards: Sequence[Board]) -> str:
    """Says whether one method is to be taken first, network by network, and on all."""
    complete = [board for board in boards if all(measure in board.values for measure in COLUMNS)]
    if not complete:
        return "Not all measures are run yet on any network: it cannot be told."
    lines = [f"- {board.title}: {board.sentence}" for board in complete]
    common = [name for name in complete[0].first() if all(name in board.first() for board in complete)]
    ranks = {name: [board.mean_ranks().get(name, math.nan) for board in complete] for name in _methods(complete[0])}
    known = {name: float(np.mean(own)) for name, own in ranks.items() if not any(map(math.isnan, own))}
    best = sorted(known, key=lambda name: known[name])[:3]
    told = ", ".join(f"{name} ({known[name]:.1f})" for name in best)
    where = f"of all {len(complete)} networks" if len(complete) > 1 else "of the one network that is run"
    answer = f"Yes: {', '.join(common)}." if common else "No method is among those to take first on every one."
    if len(complete) == 1:
        answer = "Of one network it cannot be told for others."
    return "\n".join([*lines, "", f"{answer} The best mean ranks {where} have {told}."])


# --- Tables -------------------------------------------------------------------------------------------------------------


def table(board: Board) -> str:
    """Returns the means with their marks, the best mean rank first."""
    found, ranks = board.standings(), board.mean_ranks()
    counts = {m: max(len(v) for v in board.values[m].values()) for m in board.measures}
    header = ["method", "layer", *(f"{COLUMNS[m].name} (n = {counts[m]})" for m in board.measures), "mean rank"]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for line in sorted(board.lines, key=lambda line: (line.is_null, ranks.get(line.method, math.inf))):
        cells = [_cell(found[m].get(line.method)) for m in board.measures]
        same = [name for name, other in board.same.items() if other == line.method]
        name = f"{line.method} = {', '.join(same)}" if same else line.method
        rank = f"{ranks[line.method]:.1f}" if line.method in ranks else ""
        rows.append(f"| {f'*{name}*' if line.is_null else name} | {line.layer} | {' | '.join(cells)} | {rank} |")
    missing = [column.name for measure, column in COLUMNS.items() if measure not in board.values]
    told = [f"Not run yet: {', '.join(missing)}."] if missing else []
    out = "; ".join(f"{name} ({why})" for name, why in board.left_out.items())
    return "\n\n".join([*told, "\n".join(rows), *([f"Left out: {out}."] if out else [])])


def _cell(standing: Standing | None) -> str:
    if standing is None:
        return ""
    if not standing.n:
        return f"undefined ({standing.undefined})"
    marks = PLACES.get(standing.place, "") + VERDICTS.get(standing.verdict, "")
    undefined = f" ({standing.undefined} undefined)" if standing.undefined else ""
    return f"{standing.mean:.2f} {marks}{undefined}".strip()
