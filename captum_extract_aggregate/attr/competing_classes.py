"""Which classes compete with a target, and which maps that takes: chosen from the scores, or given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate._engine.targets import Target, select_scores

Rows = list[list[int]]  # classes of each example


class Contest(NamedTuple):
    """Says which maps of each example compete: `N x C` indices of maps, the target's first, and whether each counts.

    An example with fewer rivals than others has its target again in their place, which does not count.
    """

    maps: Tensor
    counts: Tensor


class Choice:
    """Chooses the classes whose maps are needed, once the scores are known; says after that which of them compete.

    Args:
        targets: in Captum's forms, each of which competes.
        classes: the rivals of all examples, or of each; None: the most probable classes and the least probable one.
        rivals: how many, if they are not given.
    """

    def __init__(self, targets: Sequence[Target], classes: list[int] | Rows | None, rivals: int) -> None:
        self.targets, self.classes, self.rivals = targets, classes, rivals
        self.contests: list[Contest] = []

    def __call__(self, output: Any) -> list[Target]:
        """Returns the classes that a map is needed of, as targets: in each the i-th of every example."""
        scores = _checked_scores(find_scores(output).detach())
        indices = torch.arange(scores.shape[1]).expand(scores.shape)
        owns = [select_scores(indices, _on_cpu(target)).tolist() for target in self.targets]
        rivals = [self._rivals(scores, own) for own in owns]
        needed = [
            sorted({c for own, rows in zip(owns, rivals) for c in (own[i], *rows[i])}) for i in range(len(scores))
        ]
        places = [{c: at for at, c in enumerate(row)} for row in needed]
        self.contests = [_contest(own, rows, places) for own, rows in zip(owns, rivals)]
        return [[row[min(j, len(row) - 1)] for row in needed] for j in range(max(map(len, needed)))]

    def _rivals(self, scores: Tensor, own: list[int]) -> Rows:
        if self.classes is None:
            return rivals_by_score(scores, own, self.rivals)
        examples, known = scores.shape
        rows: Any = self.classes if isinstance(self.classes[0], list) else [self.classes] * examples
        if len(rows) != examples:
            raise InvalidValueError(
                f"classes holds {len(rows)} rows for {examples} examples; expected one each, or one list for all"
            )
        wrong = [c for row in rows for c in row if not 0 <= c < known]
        if wrong:
            raise InvalidValueError(f"classes holds {wrong[0]}; expected classes from 0 to {known - 1}")
        found = [sorted({*row} - {target}) for row, target in zip(rows, own)]
        if not all(found):
            i = found.index([])
            raise InvalidValueError(
                f"classes holds no class but the target, {own[i]}, for example {i}; expected at least one rival"
            )
        return found


def rivals_by_score(scores: Tensor, own: Sequence[int], wanted: int) -> Rows:
    """Returns the rivals of each example's class: the most probable classes, the last place for the least probable.

    Of fewer classes than are wanted, all. A class whose score is not finite (an action that a mask rules out) is none.
    """
    rows = []
    for z, target in zip(scores.float(), own):
        order = z.argsort(descending=True, stable=True)
        others = order[z.isfinite()[order] & (order != target)].tolist()
        if not others:
            raise InvalidValueError(
                f"no class but the target, {target}, has a finite score; expected at least one rival"
            )
        rows.append(sorted(others if len(others) <= wanted else [*others[: max(1, wanted - 1)], *others[-1:]][:wanted]))
    return rows


def checked_classes(classes: Any) -> list[int] | Rows | None:
    """Returns given classes as a list of indices, or one list for each example, or our error."""
    if classes is None:
        return None
    plain = classes.tolist() if isinstance(classes, (Tensor, np.ndarray)) else classes
    rows = plain if isinstance(plain, (list, tuple)) and plain and _is_rows(plain) else [plain]
    if not all(isinstance(row, (list, tuple)) and row and all(_is_index(c) for c in row) for row in rows):
        raise InvalidTypeError(
            f"classes is {classes!r}; expected a list of class indices, or one for each example (N x T), or None"
        )
    found = [[int(c) for c in row] for row in rows]
    return found if rows is plain else found[0]


def _is_rows(classes: Any) -> bool:
    return all(isinstance(row, (list, tuple)) for row in classes)


def _is_index(c: Any) -> bool:
    return isinstance(c, (int, np.integer)) and not isinstance(c, bool)


def _on_cpu(target: Any) -> Any:
    return target.cpu() if isinstance(target, Tensor) else target


def _checked_scores(scores: Tensor) -> Tensor:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise InvalidValueError(
            f"forward_func gives scores of shape {tuple(scores.shape)}; expected N x classes, two or more, so that "
            "there is a rival (captum_extract_aggregate.scores has such scores for other models)"
        )
    return scores.cpu()


def _contest(own: list[int], rivals: Rows, places: list[dict[int, int]]) -> Contest:
    most = max(map(len, rivals))
    maps = [[at[t], *(at[c] for c in row)] + [at[t]] * (most - len(row)) for t, row, at in zip(own, rivals, places)]
    counts = [[True] * (1 + len(row)) + [False] * (most - len(row)) for row in rivals]
    return Contest(torch.tensor(maps), torch.tensor(counts))
