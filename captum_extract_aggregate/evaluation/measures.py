"""Measures as plans name them: from the maps of one method at one layer, for a batch of images, to numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate.data.models_by_name import import_from
from captum_extract_aggregate.data.pointing_pairs import PointingPairs
from captum_extract_aggregate.evaluation.datasets import Sample, to_image_size
from captum_extract_aggregate.evaluation.plan import MeasurePlan
from captum_extract_aggregate.metrics import (
    completeness_gap,
    parameter_randomization,
    pixel_removal,
    pointing_game,
    removal_contrast,
)
from captum_extract_aggregate.metrics.pixel_removal import Removal
from captum_extract_aggregate.metrics.similarity import find_similarity

Value = tuple[int, int, str, float]  # example, class, detail, value


@dataclass(frozen=True)
class Batch:
    """Images of one size, and the classes that are explained: `targets` is N x T, the best class first, the worst
    second, then whatever else is in the image (filled up with the best)."""

    model: nn.Module
    x: Tensor
    samples: Sequence[Sample]
    scores: Tensor
    targets: Tensor
    seed: int

    @property
    def best(self) -> Tensor:
        """Each image's highest scoring class."""
        return self.targets[:, 0]


@dataclass(frozen=True)
class Column:
    """One method at one layer: its maps for each of the T targets, `N x 1 x h x w`."""

    method: str
    layer: str
    maps: Sequence[Tensor]
    interpolation: str = "bilinear"

    def at_image_size(self, t: int, batch: Batch) -> Tensor:
        """The maps of target t at the input's size."""
        return to_image_size(self.maps[t], (batch.x.shape[2], batch.x.shape[3]), self.interpolation)

    def of(self, example: int, target: int, batch: Batch) -> Tensor:
        """The map `1 x h x w` of a class of one image."""
        t = batch.targets[example].tolist().index(target)
        return self.maps[t][example] if self.interpolation == "bilinear" else self.at_image_size(t, batch)[example]


def pointing(batch: Batch, column: Column, tolerance: float = 15) -> Iterator[Value]:
    """For each class in the image, whether its map's maximum lies on it."""
    for i, target, mask in _objects(batch):
        yield i, target, "", _hit(column.of(i, target, batch), mask, tolerance)


def restricted_pointing(batch: Batch, column: Column, tolerance: float = 15) -> Iterator[Value]:
    """For each class in the image, whether the maximum of the best class's map lies on it."""
    for i, target, mask in _objects(batch):
        yield i, target, "", _hit(column.of(i, int(batch.best[i]), batch), mask, tolerance)


def _objects(batch: Batch) -> Iterator[tuple[int, int, Tensor]]:
    """Each class in each image, and where it is."""
    for i, sample in enumerate(batch.samples):
        if sample.pairs is not None:
            for target, mask in zip(sample.pairs.classes, sample.pairs.masks):
                yield i, target, mask


def _hit(map_: Tensor, mask: Tensor, tolerance: float) -> float:
    if not torch.isfinite(map_).all():
        return math.nan
    return float(pointing_game(map_[None].cpu(), mask[None], tolerance)[0])


def class_sensitivity(batch: Batch, column: Column, similarity: str = "spearman") -> Iterator[Value]:
    """How alike the maps of the best and of the worst class are."""
    values = find_similarity(similarity)(column.at_image_size(0, batch), column.at_image_size(1, batch))
    yield from _per_example(batch, "", values)


def removal(batch: Batch, column: Column, baselines: float = 0.0, step: int = 1) -> Iterator[Value]:
    """Pixels removed in the order of the best class's map until the decision flips."""
    maps = column.at_image_size(0, batch)
    defined = torch.isfinite(maps).flatten(1).all(1)
    minus, plus = (
        pixel_removal(batch.model, batch.x, maps.nan_to_num(0, 0, 0), order, baselines, step)
        for order in ("least", "most")
    )
    yield from _removals(batch, minus, plus, defined)


def contrast(
    batch: Batch, column: Column, baselines: float = 0.0, step: int = 1, n_shuffles: int = 1
) -> Iterator[Value]:
    """The same against the maps of other images of the batch."""
    maps = column.at_image_size(0, batch)
    kept = torch.nonzero(torch.isfinite(maps).flatten(1).all(1)).flatten()
    n = len(batch.samples)
    nothing = Removal(*(torch.full((n,), torch.nan, dtype=torch.float64) for _ in range(3)))
    deltas = dict.fromkeys(("delta_minus", "delta_plus", "delta"), nothing.e)
    minus = plus = nothing
    if not isinstance(n_shuffles, int) or len(kept) > n_shuffles:  # else too few other maps to draw from
        found = removal_contrast(
            batch.model,
            batch.x[kept],
            maps[kept],
            n_shuffles=n_shuffles,
            baselines=baselines,
            step=step,
            seed=batch.seed,
        )
        deltas = {name: _spread(getattr(found, name), kept, n) for name in deltas}
        minus, plus = (Removal(*(_spread(v, kept, n) for v in own)) for own in (found.own_minus, found.own_plus))
    for detail, values in deltas.items():
        yield from _per_example(batch, detail, values)
    yield from _removals(batch, minus, plus, torch.ones(n, dtype=torch.bool))


def _spread(values: Tensor, kept: Tensor, n: int) -> Tensor:
    """The values of some of n examples, NaN for the others."""
    return torch.full((n,), torch.nan, dtype=torch.float64).index_copy(0, kept.cpu(), values.double().cpu())


def _removals(batch: Batch, minus: Removal, plus: Removal, defined: Tensor) -> Iterator[Value]:
    details = {
        "e_minus": minus.e,
        "e_plus": plus.e,
        "e_delta": minus.e - plus.e,
        "pixels_minus": minus.pixels,
        "pixels_plus": plus.pixels,
        "flipped_minus": minus.flipped,
        "flipped_plus": plus.flipped,
    }
    for detail, values in details.items():
        yield from _per_example(batch, detail, values.double().cpu().masked_fill(~defined.cpu(), torch.nan))


def completeness(batch: Batch, column: Column) -> Iterator[Value]:
    """How much is missing between the best class's score and the sum of its map, relative to the score."""
    yield from _per_example(batch, "", completeness_gap(batch.model, batch.x, column.maps[0], batch.best))


def _per_example(batch: Batch, detail: str, values: Tensor) -> Iterator[Value]:
    for i, value in enumerate(values.tolist()):
        yield i, int(batch.best[i]), detail, float(value)


def randomization(
    batch: Batch,
    columns: Sequence[Column],
    order: str = "cascading",
    init: str = "normal",
    similarity: str = "spearman",
    n_seeds: int = 1,
    layers: Sequence[str] = (),
) -> None:
    """The arguments of parameter randomisation, which the runner carries out for all methods together."""


Measure = Callable[..., Iterator[Value]]
MEASURES: dict[str, Callable[..., Any]] = {
    "pointing_game": pointing,
    "restricted_pointing_game": restricted_pointing,
    "class_sensitivity": class_sensitivity,
    "pixel_removal": removal,
    "removal_contrast": contrast,
    "completeness_gap": completeness,
    "parameter_randomization": randomization,
}
POINTING = ("pointing_game", "restricted_pointing_game")
_SETTLED = ("batch", "column", "columns")


def find_measure(plan: MeasurePlan) -> Callable[..., Any]:
    """The function of a measure, or our error for an unknown name or a wrong argument."""
    if ":" in plan.measure:
        return _custom(plan)
    if plan.measure not in MEASURES:
        raise InvalidValueError(unknown_name("measure", plan.measure, MEASURES, "; your own: FILE.py:FUNCTION"))
    function = MEASURES[plan.measure]
    known = [name for name in inspect.signature(function).parameters if name not in _SETTLED]
    for name in plan.arguments:
        if name not in known:
            raise InvalidValueError(unknown_name(f"an argument of {plan.measure}", name, known or ["(it takes none)"]))
    if "similarity" in plan.arguments:
        find_similarity(plan.arguments["similarity"])
    return function


def _custom(plan: MeasurePlan) -> Measure:
    function = import_from("measure", plan.measure)
    try:
        inspect.signature(function).bind(None, None, None, None, **plan.arguments)
    except TypeError as error:
        raise InvalidValueError(
            f"measure {plan.measure!r} does not take (maps, inputs, targets, model) and its arguments: {error}"
        ) from None

    def measure(batch: Batch, column: Column, **arguments: Any) -> Iterator[Value]:
        own = (t.clone() for t in (column.at_image_size(0, batch), batch.x, batch.best))  # whatever it does to them
        values = function(*own, batch.model, **arguments)
        if not isinstance(values, Tensor) or values.shape != (len(batch.samples),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InvalidValueError(
                f"measure {plan.measure!r} returned {got}; expected {len(batch.samples)} values, one per image"
            )
        yield from _per_example(batch, "", values)

    return measure


def try_measure(plan: MeasurePlan) -> None:
    """Our error for arguments that a measure refuses, from a trial on two noise images and a trivial network."""
    if ":" in plan.measure:
        return  # one's own may want real ones
    x = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    model = _Brightness()
    try:
        if plan.measure == "parameter_randomization":
            arguments = {name: value for name, value in plan.arguments.items() if name != "layers"}
            arguments |= {"n_seeds": 1} if _is_positive(arguments.get("n_seeds")) else {}
            parameter_randomization(lambda inputs, target: inputs, model, x, target=0, **arguments)
            return
        pairs = PointingPairs([0], torch.ones(1, 48, 48, dtype=torch.bool), [False])
        samples = [Sample(i, "noise", x[i], 0, pairs) for i in range(2)]
        batch = Batch(model, x, samples, model(x).detach(), torch.tensor([[0, 1], [0, 1]]), 0)
        arguments = plan.arguments | ({"n_shuffles": 1} if _is_positive(plan.arguments.get("n_shuffles")) else {})
        column = Column("noise", "input", [x, x.flip(0)])
        for _ in MEASURES[plan.measure](batch, column, **arguments):
            pass
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"measure {plan.measure!r}: {error}") from None


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class _Brightness(nn.Module):
    """Dark or bright: a decision that soon flips where pixels go."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(1, 2)
        self.weight.load_state_dict({"weight": torch.tensor([[1.0], [0.0]]), "bias": torch.tensor([0.0, 0.45])})

    def forward(self, x: Tensor) -> Tensor:
        return self.weight(x.mean((1, 2, 3))[:, None])  # type: ignore[no-any-return]
