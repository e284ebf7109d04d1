"""What a measure says of itself: how it is called, what it needs, and how its numbers are read. One registry of them.

Whoever summarises, compares, draws or writes numbers asks the specification, so that a measure of the user's own is
treated as those of the package are.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.imported import import_from
from captum_extract_aggregate._common.registry import Registry
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.metrics.similarity import find_similarity

Function = TypeVar("Function", bound=Callable[..., Any])

SHARE: dict[str, Any] = {  # what measures say of themselves that tell which share of a map lies in its place
    "takes": "column",
    "better": {"accuracy": "higher", "above_chance": "higher"},
    "null": {"above_chance": 0.0},
    "baseline": "chance",
    "charts": ("layers", "boxes"),
    "axis": "share",
    "needs": ("objects",),
}
_DIRECTIONS = ("", "higher", "lower")
_CHOICES = {
    "summary": ("mean", "accuracy", "stages"),
    "charts": ("layers", "stages", "boxes"),
    "takes": ("maps", "column", "columns"),
    "needs": ("objects", "other_images", "layers"),
}
_NULLS = ("similarity", "centre", "noise")
_GIVEN = {"maps": 4, "column": 2, "columns": 3}  # how many positional arguments a function gets


@dataclass(frozen=True, kw_only=True)
class Interpretation:
    """Says how a measure's numbers are read.

    Attributes:
        meaning: what the numbers say, for the report; code may stand between backticks.
        better: `"higher"`, `"lower"`, or `""` where it is unknown; a dictionary gives it for each detail that methods
            are compared by, and the other details are only summarised.
        magnitude: methods are compared by magnitudes.
        null: what says nothing would give: a number, or one for each detail; `"similarity"`: what the similarity of the
            measure's arguments gives for unrelated maps; `"centre"`: what the image's centre gives; `"noise"`: what a
            registered function of maps alone gives for random maps; None: unknown.
        baseline: what the null is called.
        summary: `"mean"`: a line for each detail; `"accuracy"`: values are hits and misses of pairs of image and class,
            summed up as the mean over classes of hits / (hits + misses), by subsets of the pairs; `"stages"`: details
            are the stages of a process: the report tells the first and the last, and methods are compared at the last.
        charts: of `"layers"` (means over layers), `"stages"` (means over stages), `"boxes"` (the spread over images).
        axis: what the vertical axis of the chart over layers or stages shows.
        title: what the chart over stages is headed by.
        happens: what happens at a stage to what its detail, such as `003 layer2`, names.
        of_own_map: a number of an image and a class belongs to the map of that very class.
    """

    meaning: str = ""
    better: str | Mapping[str, str] = ""
    magnitude: bool = False
    null: str | float | Mapping[str, float] | None = None
    baseline: str = "unrelated maps"
    summary: str = "mean"
    charts: Sequence[str] = ("boxes",)
    axis: str = "value"
    title: str = ""
    happens: str = ""
    of_own_map: bool = True

    def __post_init__(self) -> None:
        for direction in self.better.values() if isinstance(self.better, Mapping) else [self.better]:
            _check_choice("better", direction, _DIRECTIONS)
        _check_choice("summary", self.summary, _CHOICES["summary"])
        for chart in self.charts:
            _check_choice("charts", chart, _CHOICES["charts"])
        if isinstance(self.null, str):
            _check_choice("null", self.null, _NULLS)

    @property
    def is_accuracy(self) -> bool:
        """Whether values are hits and misses."""
        return self.summary == "accuracy"

    @property
    def is_staged(self) -> bool:
        """Whether details are the stages of a process."""
        return self.summary == "stages"

    def better_of(self, detail: str) -> str:
        """Returns what is better of a detail: "higher", "lower", or "" where it is unknown, or only summarised."""
        return self.better.get(detail, "") if isinstance(self.better, Mapping) else self.better

    def null_of(self, detail: str) -> float | None:
        """Returns the number that says nothing, where there is one."""
        null = self.null.get(detail) if isinstance(self.null, Mapping) else self.null
        return None if null is None or isinstance(null, str) else float(null)

    def compared(self, details: Collection[str]) -> list[str]:
        """Returns the details that methods are compared by, the most telling first."""
        if self.is_staged:
            return list(details)[-1:]
        return [d for d in self.better if d in details] if isinstance(self.better, Mapping) else list(details)

    def ordered(self, details: Collection[str]) -> list[str]:
        """Returns all details, the most telling first, the others by name."""
        known = list(self.better) if isinstance(self.better, Mapping) else []
        return sorted(details, key=lambda d: (known.index(d) if d in known else len(known), d))

    def as_dict(self) -> dict[str, Any]:
        """Returns the interpretation as plain values, as results keep it."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Interpretation)}


@dataclass(frozen=True, kw_only=True)
class MeasureSpec(Interpretation):
    """Describes a measure: how it is computed, what it needs, and how its numbers are read (see `Interpretation`).

    Attributes:
        function: what computes it.
        takes: what the function is given before its own arguments, and what it returns.
            `"maps"`: `(maps, inputs, targets, model)`, maps at the inputs' size for each image's best class, and
            returns a tensor of N values;
            `"column"`: `(batch, column)`, an `ImageBatch` and a `Column`, and yields (example, class, detail, value);
            `"columns"`: `(batch, columns, explain)`, where `explain()` gives the columns of the network as it is now,
            and `explain(x)` those of other inputs, and yields (column, (example, class, detail, value)).
        arguments: its own arguments with their defaults; None: those of its signature.
        needs: `"objects"` (known objects in whole images), `"other_images"` (maps of as many other images of one size
            as the argument `n_shuffles` says), `"layers"` (parameters in the layers that the argument `layers` names).
        repeats: arguments that only say how often something is repeated.
    """

    function: Callable[..., Any]
    takes: str = "maps"
    arguments: Mapping[str, Any] | None = None
    needs: Sequence[str] = ()
    repeats: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("takes", self.takes, _CHOICES["takes"])
        for need in self.needs:
            _check_choice("needs", need, _CHOICES["needs"])

    @property
    def is_users(self) -> bool:
        """Whether it is one of the user's own."""
        module = getattr(self.function, "__module__", None) or ""
        return module.partition(".")[0] != __name__.partition(".")[0]

    def defaults(self) -> dict[str, Any]:
        """Returns its own arguments, with a default where there is one."""
        if self.arguments is not None:
            return dict(self.arguments)
        own = list(inspect.signature(self.function).parameters.values())[_GIVEN[self.takes] :]
        return {p.name: p.default for p in own if p.default is not p.empty}

    def check_arguments(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Raises our error for arguments that the function does not take."""
        if self.takes == "maps":
            self._bind(name, arguments)
            return
        own = list(inspect.signature(self.function).parameters)[_GIVEN[self.takes] :]
        for argument in arguments:
            if argument not in own:
                raise InvalidValueError(unknown_name(f"an argument of {name}", argument, own or ["(it takes none)"]))
        if self.null == "similarity" and "similarity" in arguments:
            find_similarity(arguments["similarity"])

    def _bind(self, name: str, arguments: Mapping[str, Any]) -> None:
        try:
            inspect.signature(self.function).bind(None, None, None, None, **arguments)
        except TypeError as error:
            raise InvalidValueError(
                f"measure {name!r} does not take (maps, inputs, targets, model) and its arguments: {error}"
            ) from None


def _check_choice(what: str, got: object, choices: Sequence[str]) -> None:
    if got not in choices:
        raise InvalidValueError(unknown_name(what, got, choices))


# --- The registry ----------------------------------------------------------------------------------------------------

MEASURES: Registry[MeasureSpec] = Registry("measure", "unregister_measure")
_SAID = "measure_spec"  # the attribute by which a function says what it is


def defaults_of(function: Callable[..., Any], *names: str) -> Mapping[str, Any]:
    """Returns the defaults of some arguments, which stand in the signature of the public measure alone."""
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default for name in names}


def describe_measure(**facts: Any) -> Callable[[Function], Function]:
    """Returns a decorator by which a function that plans name as `FILE.py:FUNCTION` says what it is, without being
    registered.

    Args:
        facts: what `MeasureSpec` holds, but for the function.

    Raises:
        TypeError: for what `MeasureSpec` does not hold. ValueError: for a value that it does not know.

    Example:
        >>> from captum_extract_aggregate.evaluation import describe_measure
        >>> @describe_measure(better="lower", meaning="The sum of the map.", null=0.0, baseline="a map of zeros")
        ... def total(maps, inputs, targets, model):
        ...     return maps.flatten(1).sum(1)
    """
    known = [f.name for f in dataclasses.fields(MeasureSpec) if f.name != "function"]
    for name in facts:
        if name not in known:
            raise InvalidTypeError(unknown_name("a fact of a measure", name, known))

    def attach(function: Function) -> Function:
        setattr(function, _SAID, MeasureSpec(function=function, **facts))
        return function

    return attach


def register_measure(name: str, *, overwrite: bool = False, **facts: Any) -> Callable[[Function], Function]:
    """Returns a decorator that gives a function a name by which plans, for this process, know it as a measure.

    Args:
        name: the name.
        overwrite: exchange a measure of this name; else a clash is refused.
        facts: what `MeasureSpec` holds, but for the function.

    Raises:
        ValueError: for a name that is taken, or holds a colon. Otherwise as `describe_measure`.

    Example:
        >>> from captum_extract_aggregate.evaluation import list_measures, register_measure, unregister_measure
        >>> @register_measure("total", better="lower", meaning="The sum of the map.")
        ... def total(maps, inputs, targets, model):
        ...     return maps.flatten(1).sum(1)
        >>> list_measures()[-1]
        'total'
        >>> unregister_measure("total")
    """
    if ":" in name:
        raise InvalidValueError(f"measure is {name!r}; expected a name without a colon")
    MEASURES.check_free(name, overwrite)

    def add(function: Function) -> Function:
        describe_measure(**facts)(function)
        MEASURES.register(name, getattr(function, _SAID), overwrite)
        return function

    return add


def unregister_measure(name: str) -> None:
    """Takes a measure away, or brings the package's own of this name back; ValueError for an unknown one."""
    MEASURES.unregister(name)


def list_measures() -> list[str]:
    """Returns the names by which plans know measures."""
    return MEASURES.names()


def find_measure(plan: MeasurePlan) -> MeasureSpec:
    """Returns a measure as a plan names it; our error for an unknown name or a wrong argument."""
    if ":" in plan.measure:
        function = import_from("measure", plan.measure)
        found = getattr(function, _SAID, None) or MeasureSpec(function=function)
    else:
        found = MEASURES[MEASURES.check(plan.measure, "; your own: FILE.py:FUNCTION")]
    found.check_arguments(plan.measure, plan.arguments)
    return found


def find_interpretation(plan: MeasurePlan, told: Mapping[str, Interpretation]) -> Interpretation:
    """Returns how a measure's numbers are read.

    Args:
        plan: the measure.
        told: what was said of measures when their numbers were computed, by label; it goes before what is known now.
    """
    label = plan.label or plan.measure
    if label in told:
        return told[label]
    return MEASURES[plan.measure] if plan.measure in MEASURES else Interpretation()
