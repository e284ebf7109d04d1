"""By which keys a plan cannot go on with another's results."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from captum_extract_aggregate.evaluation.plan import MeasurePlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.plan_values import shown

_FREE = {"title", "on_error", "label"}  # say nothing of a number
_WHICH = {"n", "root", "file", "dataset", "arguments"}  # of the data: which images there are, as is found by looking
_NOT_GIVEN = "(not given)"


def differences(before: Plan, after: Plan) -> Iterator[str]:
    """Yields the keys by which a plan cannot go on with another's results, each with both values.

    Methods and measures are matched by their labels. Which of them there are, at which layers, and how layers are
    combined makes no difference.
    """
    yield from _changed("data", before.data, after.data, _WHICH)
    yield from _changed("model", before.model, after.model)
    yield from _changed("run", before.run, after.run)
    for what in ("methods", "measures"):
        old = {_named(part): part for part in getattr(before, what)}
        for new in getattr(after, what):
            if _named(new) in old:
                where = f"{what[:-1]} {_named(new)!r}"
                yield from _changed(where, old[_named(new)], new, {"layers", "combine"})


def _named(part: MethodPlan | MeasurePlan) -> str:
    return part.label or (part.method if isinstance(part, MethodPlan) else part.measure)


def _changed(where: str, before: Any, after: Any, free: Collection[str] = ()) -> Iterator[str]:
    """Yields where two parts of a plan differ, but for some of the first's keys."""
    if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
        before, after = ({f.name: getattr(part, f.name) for f in dataclasses.fields(part)} for part in (before, after))
        free = {*free, *_FREE}
    if not isinstance(before, dict) or not isinstance(after, dict):
        if before != after:
            yield f"{where} is {shown(after)}, was {shown(before)}"
        return
    for key in dict.fromkeys([*before, *after]):
        if key not in free:
            yield from _changed(f"{where}.{key}", before.get(key, _NOT_GIVEN), after.get(key, _NOT_GIVEN))
