"""What leaderboards teach: sentences made from their numbers, and left out where there are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from captum_extract_aggregate.evaluation import Board, Standing
from captum_extract_aggregate.evaluation.choice.standing import COLUMNS

Standings = dict[str, Standing]


def _methods(board: Board) -> list[str]:
    return [line.method for line in board.lines if not line.is_null]


def _of(board: Board, measure: str) -> Standings:
    return board.standings[measure]


def _each(boards: Sequence[Board], told: Callable[[Board], str]) -> str:
    return "; ".join(f"on {board.title}, {told(board)}" for board in boards)


def _means(board: Board, measure: str) -> list[float]:
    found = _of(board, measure)
    return [found[n].mean for n in _methods(board) if n in found and not math.isnan(found[n].mean)]


def _summary(board: Board, measure: str) -> str:
    """Returns the best of a column, which cannot be told from it, and how many are better than knowing nothing."""
    found = {name: own for name, own in _of(board, measure).items() if name in _methods(board)}
    best = next(name for name, own in found.items() if own.place == "best")
    at = next(line.layer for line in board.lines if line.method == best)
    near = sum(own.place == "not told from the best" for own in found.values())
    verdicts = [own.verdict for own in found.values()]
    own = found[best]
    return (
        f"{best} at {at}, {own.mean:.2f} ({own.low:.2f} to {own.high:.2f}; {near} cannot be told from it); "
        f"{verdicts.count('passes')} of {len(verdicts)} are certainly better than every map that knows nothing, "
        f"{verdicts.count('fails')} certainly worse than one"
    )


def grids(boards: Sequence[Board]) -> str:
    """Which method finds the right one of four pictures."""
    told = _each(boards, lambda board: _summary(board, "grid_pointing_game"))
    return f"**Of four pictures in a grid, which holds the class?** (By chance 0.25.) The best is, {told}."


def objects(boards: Sequence[Board]) -> str:
    """How far maps are better than the centre at marking objects."""

    def told(board: Board) -> str:
        centre = _of(board, "relevance_mass_accuracy")["centre"].mean
        below = sum(v < centre for v in _means(board, "relevance_mass_accuracy"))
        return f"{_summary(board, 'relevance_mass_accuracy')}, and {below} have less than the centre's {centre:.2f}"

    return f"**How much of the map lies on the object?** The most has, {_each(boards, told)}."


def gain(boards: Sequence[Board]) -> str:
    """Which order of pixels says most of the probability."""
    told = _each(boards, lambda board: _summary(board, "symmetric_relevance_gain"))
    return f"**Which pixels does the probability need?** By SRG the best is, {told}."


def contrast(boards: Sequence[Board]) -> str:
    """Which order of pixels says more of the decision than that of other pictures' maps."""
    told = _each(boards, lambda board: _summary(board, "removal_contrast"))
    return f"**Which does the decision need, more than another picture's map says?** By removal contrast, {told}."


def class_blind(boards: Sequence[Board]) -> str:
    """How many hardly depend on the class."""

    def told(board: Board) -> str:
        found = _of(board, "class_sensitivity")
        high = sorted((n for n in _methods(board) if found[n].verdict == "fails"), key=lambda n: -found[n].mean)
        worst = f", above all {', '.join(high[:3])} ({found[high[0]].mean:.2f})" if high else ""
        return f"{len(high)} of {len(_methods(board))}{worst}"

    return (
        "**Another class.** The maps of the highest and the lowest class are certainly more alike than 0.5 "
        f"(magnitude of the rank correlation) for, {_each(boards, told)}. Where such a map is large hardly depends on "
        "the class; a signed one may still turn its sign."
    )


def learned(boards: Sequence[Board]) -> str:
    """How many hardly depend on what was learned."""

    def told(board: Board) -> str:
        found = _of(board, "parameter_randomization")
        high = sorted((n for n in found if found[n].verdict == "fails"), key=lambda n: -found[n].mean)
        named = f" ({', '.join(high[:3])})" if high else ""
        return f"{len(high)} of {len(_methods(board))}{named}"

    return (
        "**A random network.** After all parameters were drawn anew, maps are certainly still more alike than 0.5 for, "
        f"{_each(boards, told)}."
    )


def random_wins(boards: Sequence[Board]) -> str:
    """That two of the questions are won by a random map."""

    def told(board: Board) -> str:
        shares = []
        for measure in ("class_sensitivity", "parameter_randomization"):
            null = _of(board, measure)["random map"].mean
            shares.append(f"{null:.2f} (the best method {min(_means(board, measure)):.2f})")
        return " and ".join(shares)

    return (
        "**These two questions exclude, and recommend nothing.** A random map depends on everything, and has for "
        f"another class and a random network, {_each(boards, told)}."
    )


def simple(boards: Sequence[Board]) -> str:
    """That sparseness is won by maps that are not right."""

    def told(board: Board) -> str:
        found = _of(board, "sparseness")
        below = sum(v < found["edges"].mean for v in _means(board, "sparseness"))
        return f"{below} of {len(_methods(board))}"

    return (
        "**Sparseness asks nothing.** An edge detector's map is sparser than the mean map of, "
        f"{_each(boards, told)} methods."
    )


def depth(boards: Sequence[Board]) -> str:
    """At which layers methods are best."""

    def told(board: Board) -> str:
        chosen = [line for line in board.lines if len(line.shares) > 1]
        counts: dict[str, int] = {}
        for line in chosen:
            counts[line.layer] = counts.get(line.layer, 0) + 1
        ordered = sorted(counts.items(), key=lambda pair: -pair[1])
        return ", ".join(f"{layer.removeprefix('encoder.layers.')} {k}" for layer, k in ordered)

    return (
        "**Which layer?** Of the methods that could choose, by grids of other pictures, so many are best at, "
        f"{_each(boards, told)}."
    )


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
    told = ", ".join(pairs)
    return f"**Across networks** the rank correlation of the methods' mean ranks is {told}." if told else ""


def plain_gradients(boards: Sequence[Board]) -> str:
    """Where Captum's methods of ReLU are the gradient."""
    own = [board for board in boards if board.same.get("captum:GuidedBackprop") == "captum:Saliency"]
    if not own:
        return ""
    named = " and ".join(board.title for board in own)
    return (
        f"**Captum's GuidedBackprop is Captum's Saliency on {named}**: it changes `torch.nn.ReLU` alone, and these "
        "networks have other activations (ReLU6, GELU); nothing warns of it."
    )


def costs(boards: Sequence[Board]) -> str:
    """What maps cost."""

    def told(board: Board) -> str:
        found = _of(board, "milliseconds")
        ordered = sorted(_methods(board), key=lambda n: found[n].mean)
        low, high = ordered[0], ordered[-1]
        return f"{found[low].mean:.0f} ms ({low}) to {found[high].mean:.0f} ms ({high})"

    return f"**Time.** One map takes one CPU thread, {_each(boards, told)}."


# What each takes, and how it is made.
LESSONS: tuple[tuple[tuple[str, ...], Callable[[Sequence[Board]], str]], ...] = (
    (("grid_pointing_game",), grids),
    (("relevance_mass_accuracy",), objects),
    (("symmetric_relevance_gain",), gain),
    (("removal_contrast",), contrast),
    (("class_sensitivity",), class_blind),
    (("parameter_randomization",), learned),
    (("class_sensitivity", "parameter_randomization"), random_wins),
    (("sparseness",), simple),
    ((), depth),
    ((), across_networks),
    ((), plain_gradients),
    (("milliseconds",), costs),
)


def lessons(boards: Sequence[Board]) -> list[str]:
    """Returns the sentences that these leaderboards allow, each of the networks that have what it takes."""
    found = []
    for needed, make in LESSONS:
        own = [board for board in boards if all(measure in board.values for measure in needed)]
        found.append(make(own) if own else "")
    return [lesson for lesson in found if lesson]


def first(boards: Sequence[Board]) -> str:
    """Says whether one method is to be taken first, network by network, and on all."""
    asked = {measure: column.name for measure, column in COLUMNS.items() if column.asks}
    lacking = {board.title: [n for m, n in asked.items() if m not in board.values] for board in boards}
    lines = [f"- {board.title}: {board.sentence}{_without(lacking[board.title])}" for board in boards]
    every = {name for board in boards for name in _methods(board)}
    common = sorted(name for name in every if all(_is_first(name, board) for board in boards))
    if any(lacking.values()) or len(boards) < 2:
        known = f" So far {', '.join(common)} could be." if common else ""
        answer = f"Over all networks and questions it cannot be told yet: not all of them are run.{known}"
    elif common:
        answer = f"Yes, with the limits below: {', '.join(common)}, on each of the {len(boards)} networks."
    else:
        answer = (
            f"No: there is none that is to be taken first on each of the {len(boards)} networks. {_over_all(boards)}"
        )
    return "\n".join([answer, "", *lines])


def _over_all(boards: Sequence[Board]) -> str:
    """Says which methods pass the most questions of all networks together, of those that fail none of any."""
    ranks = [board.mean_ranks() for board in boards]
    passed: dict[str, int] = {}
    for name in sorted({name for board in boards for name in _methods(board)}):
        verdicts = _verdicts(name, boards)
        if verdicts and "fails" not in verdicts:
            passed[name] = verdicts.count("passes")
    most = max(passed.values(), default=0)
    best = [name for name, count in passed.items() if count == most]
    best.sort(key=lambda n: sum(of[board.same.get(n, n)] for of, board in zip(ranks, boards)))
    asked = sum(column.asks for column in COLUMNS.values()) * len(boards)
    return (
        f"Of the methods that certainly fail no question on any network, the most questions ({most} of {asked}) are "
        f"passed by {', '.join(best)}, each at its best layer there (in the order of their mean ranks)."
    )


def _verdicts(name: str, boards: Sequence[Board]) -> list[str]:
    """Returns what the questions of all networks say of a method; none if it is not on each."""
    if any(board.same.get(name, name) not in _methods(board) for board in boards):
        return []
    asked = [m for m, column in COLUMNS.items() if column.asks]
    found = [board.standings[m].get(board.same.get(name, name)) for board in boards for m in asked]
    return [own.verdict for own in found if own is not None]


def _without(missing: Sequence[str]) -> str:
    return f" (Without {', '.join(missing)}, which are not run yet.)" if missing else ""


def _is_first(name: str, board: Board) -> bool:
    return board.same.get(name, name) in board.first()
