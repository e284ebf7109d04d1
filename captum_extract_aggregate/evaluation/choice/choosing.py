"""Which map can be trusted: what several questions, asked of many pictures, say of each method at each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from captum_extract_aggregate._common.aligned import aligned
from captum_extract_aggregate._common.errors import make_folder
from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.grouping import Array
from captum_extract_aggregate.evaluation.reporting.tables import Table
from captum_extract_aggregate.metrics.significance import compare, holm

LEVEL = 0.05


@dataclass(frozen=True)
class Question:
    """Is one question that is asked of every map.

    Attributes:
        name: what the answers are called. limit: what an answer is compared with. better: which side of it is good.
        good, bad: what a map does on that side, and on the other.
    """

    name: str
    limit: float
    better: str
    good: str
    bad: str

    def goodness(self, values: Array) -> Array:
        """Returns how far values lie on the good side."""
        return (values - self.limit) * (1 if self.better == "higher" else -1)


QUESTIONS: dict[str, Question] = {
    "class_sensitivity": Question("other class", 0.5, "lower", "depends on the class", "hardly depends on the class"),
    "parameter_randomization": Question(
        "random network", 0.5, "lower", "depends on what was learned", "hardly depends on what was learned"
    ),
    "removal_contrast": Question(
        "removal contrast", 0.0, "higher", "tells what the decision needs", "misses what the decision needs"
    ),
    "grid_pointing_game": Question(
        "grid pointing", 0.25, "higher", "finds its class among others", "does not find its class among others"
    ),
}


@dataclass(frozen=True)
class Answer:
    """Holds what the pictures say of one map.

    Attributes:
        median, low, high: of the values, and the 95 % bootstrap interval of the median.
        n: pictures with a value; of `undefined` ones the map is constant.
        p: of the two-sided Wilcoxon signed-rank test against the question's limit, corrected (Holm) for all questions
            of all maps.
        verdict: `"yes"`, `"no"` or `"cannot be told"`.
    """

    median: float
    low: float
    high: float
    n: int
    undefined: int
    p: float
    verdict: str

    def __str__(self) -> str:
        if not self.n:
            return "undefined ?"
        mark = {"yes": "yes", "no": "NO"}.get(self.verdict, "?")
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}] {mark}"


@dataclass(frozen=True)
class Candidate:
    """Holds the answers of one method at one layer, by the measure of each question.

    `is_best`: no other candidate has better medians in all questions (it is on the Pareto front).
    """

    method: str
    layer: str
    answers: Mapping[str, Answer]
    is_best: bool

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.method} at {self.layer}"

    def all_verdicts(self) -> set[str]:
        """Returns its verdicts."""
        return {answer.verdict for answer in self.answers.values()}


@dataclass(frozen=True)
class Choice:
    """Holds what was asked, of which maps, and what follows; `print` shows it.

    Attributes:
        candidates: the methods at layers. recommended: the one to take; None where none can be trusted.
        equals: candidates from which the recommended one cannot be told apart, by any question.
        reasons: sentences. left_out: which question could not be asked, and why.
        images: how many pictures there were.
    """

    candidates: tuple[Candidate, ...]
    recommended: Candidate | None
    equals: tuple[str, ...]
    reasons: tuple[str, ...]
    left_out: tuple[str, ...]
    images: int

    @property
    def sentence(self) -> str:
        """The recommendation, in one line."""
        if self.recommended is None:
            fails = any("no" in c.all_verdicts() for c in self.candidates)
            return f"Take none of these maps: {'each fails a question' if fails else 'no answer is certain'}."
        return f"Take {self.recommended.name}."

    def table(self) -> Table:
        """Returns a line for each candidate, the recommended one first, then those of most passes."""
        asked = list(self.candidates[0].answers)
        header = ["method", "layer", *(QUESTIONS[q].name for q in asked), ""]
        return Table(header, [self._row(c, asked) for c in self._ordered()])

    def _ordered(self) -> list[Candidate]:
        def passes(candidate: Candidate) -> tuple[bool, int, int]:
            verdicts = [answer.verdict for answer in candidate.answers.values()]
            return candidate is not self.recommended, verdicts.count("no"), -verdicts.count("yes")

        return sorted(self.candidates, key=passes)

    def _row(self, candidate: Candidate, asked: Sequence[str]) -> list[str]:
        remark = "recommended" if candidate is self.recommended else "Pareto front" if candidate.is_best else ""
        return [candidate.method, candidate.layer, *(str(candidate.answers[q]) for q in asked), remark]

    def __str__(self) -> str:
        table = self.table()
        lines = aligned(table.header, table.rows)
        return "\n".join([*lines, "", self.legend(), "", self.sentence, *self.reasons, *self.left_out])

    def legend(self) -> str:
        """Returns what the columns say."""
        told = {
            "class_sensitivity": "other class, random network: magnitude of the rank correlation with the map of the "
            "lowest class, and of the network with all parameters drawn anew; below 0.50 is good.",
            "removal_contrast": "removal contrast: what can go before the decision flips, least salient pixels first, "
            "minus the same most salient first, own map minus other pictures' maps; above 0 is good.",
            "grid_pointing_game": "grid pointing: share of the positive map in the right one of four pictures; above "
            "0.25 is good.",
        }
        asked = self.candidates[0].answers
        return "\n".join(
            [
                f"Medians of {self.images} pictures [95 % interval]; yes, NO: p < {LEVEL} (Wilcoxon, Holm over the "
                "table); ?: cannot be told.",
                *(text for question, text in told.items() if question in asked),
            ]
        )

    def plot(self) -> Any:
        """Returns a figure of the candidates, with their Pareto front."""
        from captum_extract_aggregate.evaluation.reporting.choice_chart import choice_figure

        return choice_figure(self)

    def write(self, folder: str | Path) -> list[Path]:
        """Writes `choice.txt`, `choice.csv` and `choice.png`, and returns their paths."""
        folder = Path(folder)
        make_folder("results", folder)
        text, numbers, picture = (folder / f"choice.{kind}" for kind in ("txt", "csv", "png"))
        text.write_text(f"{self}\n", encoding="utf-8")
        header = ["method", "layer", "measure", "median", "low", "high", "n", "undefined", "p_holm", "verdict"]
        rows = [
            [c.method, c.layer, measure, a.median, a.low, a.high, a.n, a.undefined, a.p, a.verdict]
            for c in self.candidates
            for measure, a in c.answers.items()
        ]
        Table(header, rows).write_csv(numbers)
        self.plot().savefig(picture, dpi=110, metadata={"Software": None})
        return [text, numbers, picture]


Values = Mapping[str, Mapping[MethodAtLayer, Array]]  # measure, method at layer: a value for each picture


def decide(values: Values, images: int, left_out: Sequence[str] = ()) -> Choice:
    """Returns the choice that values allow.

    A map is out of the question where one answer says no. Of the others those with most answers that say yes are left,
    and of these the one with the best mean rank over the questions is recommended; it is told of which it cannot be
    told apart, in pairs over the same pictures.

    Args:
        values: of each measure in `QUESTIONS` that was asked, a value of each picture; the same methods and layers.
        images: how many pictures there were.
        left_out: which questions could not be asked, and why.
    """
    places = list(next(iter(values.values())))
    answers = _answers(values, places)
    losses = _losses(values, places)
    front = _front(losses)
    candidates = [Candidate(*p, {q: answers[q, p] for q in values}, bool(f)) for p, f in zip(places, front)]
    chosen = _chosen(candidates, losses)
    if chosen is None:
        return Choice(tuple(candidates), None, (), _faults(candidates), tuple(left_out), images)
    equals, compared = _compared(values, candidates, chosen)
    reasons = (_why(candidates[chosen]), *compared)
    return Choice(tuple(candidates), candidates[chosen], equals, reasons, tuple(left_out), images)


def _answers(values: Values, places: Sequence[MethodAtLayer]) -> dict[tuple[str, MethodAtLayer], Answer]:
    tests = {}
    for question, of_places in values.items():
        for place in places:
            own = of_places[place]
            if not np.isnan(own).all():
                tests[question, place] = compare(own, np.full(len(own), QUESTIONS[question].limit))
    corrected = dict(zip(tests, holm([test.p for test in tests.values()])))
    found = {}
    for question in values:
        limit = QUESTIONS[question].limit
        for place in places:
            test = tests.get((question, place))
            if test is None:
                nan = math.nan
                found[question, place] = Answer(nan, nan, nan, 0, len(values[question][place]), nan, "cannot be told")
                continue
            p = corrected[question, place]
            side = test.effect * (1 if QUESTIONS[question].better == "higher" else -1)
            verdict = "cannot be told" if not p < LEVEL else "yes" if side > 0 else "no"
            median, low, high = (limit + v for v in (test.median, test.low, test.high))
            found[question, place] = Answer(median, low, high, test.n, test.undefined, p, verdict)
    return found


def _losses(values: Values, places: Sequence[MethodAtLayer]) -> Array:
    """Returns maps x questions, the lower the better; infinite where a map has no value."""
    columns = []
    for question, of_places in values.items():
        sign = -1 if QUESTIONS[question].better == "higher" else 1
        columns.append([_median(sign * of_places[place]) for place in places])
    return np.array(columns, dtype=float).T


def _median(values: Array) -> float:
    defined = values[~np.isnan(values)]
    return float(np.median(defined)) if len(defined) else math.inf


def _front(losses: Array) -> list[bool]:
    """Tells which rows no other is better than: nowhere worse, and better somewhere."""
    return [not any((other <= own).all() and (other < own).any() for other in losses) for own in losses]


def _chosen(candidates: Sequence[Candidate], losses: Array) -> int | None:
    """Returns which candidate is recommended, if any may be."""
    left = [i for i, c in enumerate(candidates) if "no" not in c.all_verdicts()]
    passes = {i: sum(a.verdict == "yes" for a in candidates[i].answers.values()) for i in left}
    left = [i for i in left if passes[i] == max(passes.values()) and passes[i]]
    if not left:
        return None
    ranks = np.array([scipy.stats.rankdata(column) for column in losses[left].T]).mean(0)
    return left[int(np.argmin(ranks))]


def _why(candidate: Candidate) -> str:
    told = [
        f"{QUESTIONS[q].good} ({a.median:.3f}, {'below' if QUESTIONS[q].better == 'lower' else 'above'} "
        f"{QUESTIONS[q].limit:.2f})"
        for q, a in candidate.answers.items()
        if a.verdict == "yes"
    ]
    open_ = [QUESTIONS[q].name for q, a in candidate.answers.items() if a.verdict == "cannot be told"]
    doubt = f" Of {_and(open_)} it cannot be told." if open_ else ""
    return f"Its map {_and(told)}.{doubt}"


def _faults(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Says what speaks against each candidate, question by question."""
    found = []
    for question in candidates[0].answers:
        own = [c.name for c in candidates if c.answers[question].verdict == "no"]
        if own:
            found.append(f"A map that {QUESTIONS[question].bad}: {', '.join(own)}.")
    return tuple(found) or ("No question can be answered: take more pictures.",)


def _compared(values: Values, candidates: Sequence[Candidate], chosen: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the candidates from which the chosen one cannot be told apart, and sentences about the others that do not
    fail a question."""
    own = MethodAtLayer(candidates[chosen].method, candidates[chosen].layer)
    rivals = [c for i, c in enumerate(candidates) if i != chosen and "no" not in c.all_verdicts()]
    tests = {}
    for rival in rivals:
        for question, of_places in values.items():
            a, b = of_places[own], of_places[MethodAtLayer(rival.method, rival.layer)]
            if not np.isnan(a + b).all():
                tests[rival.name, question] = compare(a, b, n_bootstrap=1)
    corrected = dict(zip(tests, holm([test.p for test in tests.values()])))
    better: dict[str, list[str]] = {rival.name: [] for rival in rivals}
    worse: dict[str, list[str]] = {rival.name: [] for rival in rivals}
    for (name, question), test in tests.items():
        if corrected[name, question] < LEVEL:
            is_better = (test.effect > 0) == (QUESTIONS[question].better == "higher")
            (better if is_better else worse)[name].append(QUESTIONS[question].name)
    equals = tuple(name for name in better if not better[name] and not worse[name])
    return equals, tuple(_against(better, worse, equals))


def _against(
    better: Mapping[str, Sequence[str]], worse: Mapping[str, Sequence[str]], equals: Sequence[str]
) -> list[str]:
    told = []
    if equals:
        told.append(f"It cannot be told from {_and(equals)}, by any question: more pictures might.")
    alike: dict[str, list[str]] = {}
    for name in (n for n in better if n not in equals):
        parts = [f"better in {_and(better[name])}"] if better[name] else []
        parts += [f"worse in {_and(worse[name])}"] if worse[name] else []
        alike.setdefault(", but ".join(parts), []).append(name)
    return [*told, *(f"Against {_and(names)} it is {what}." for what, names in alike.items())]


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
