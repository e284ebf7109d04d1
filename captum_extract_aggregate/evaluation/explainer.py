"""What explains a batch again, for measures that look at more than its maps: other inputs, other networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor, nn

from captum_extract_aggregate.evaluation.explained import Column, ImageBatch
from captum_extract_aggregate.metrics.randomization import (
    Stage,
    State,
    check_randomization,
    randomization_stages,
    randomization_states,
    randomized,
    stage_names,
)

ColumnsOf = Callable[[nn.Module, Tensor, Tensor], list[Column]]
Stages = MutableMapping[tuple[str, ...], list[Stage]]
_Key = tuple[object, ...]


class Noisy(NamedTuple):
    """Holds inputs over which maps are averaged, and what they are known by."""

    inputs: Sequence[Tensor]
    name: tuple[object, ...]


@dataclass
class Explainer:
    """Gives the columns of a batch on whatever network and inputs, for each image's best class.

    All measures of a batch have one, so that what two of them ask of the same randomised network is explained once.

    Attributes:
        batch: the images. columns_of: explains inputs for targets `N x T` by the methods of a plan, on a model.
        stages: of the model, which are found once: by the layers' names.
        sharing: how many measures beyond the one at work may ask for the same: for the last nothing is kept.
    """

    batch: ImageBatch
    columns_of: ColumnsOf
    stages: Stages = field(default_factory=dict)
    sharing: int = 0
    _kept: dict[_Key, list[Column]] = field(default_factory=dict)

    def __call__(self, x: Tensor | None = None) -> list[Column]:
        """Returns the columns of the network as it now is; `x`: of other inputs."""
        return self.columns_of(self.batch.model, self.batch.x if x is None else x, self.batch.targets[:, :1])

    def on(self, model: nn.Module, targets: Tensor) -> list[Column]:
        """Returns the columns that the same methods give at the same layers of another network, for a class each."""
        return self.columns_of(model, self.batch.x, targets[:, None])

    def averaged(self, noisy: Noisy) -> list[Column]:
        """Returns the columns of noisy inputs, averaged, of the network as it is."""
        return self._shared(("original", *noisy.name), lambda: self._mean(noisy))

    def randomised(
        self, order: str, init: str, n_seeds: int, layers: Sequence[str] | None, noisy: Noisy | None = None
    ) -> Iterator[tuple[State, str, list[Column]]]:
        """Yields each state of the randomised network, the stage's name, and its columns (of noisy inputs: averaged).

        Arguments are those of `parameter_randomization`. A state of which another measure has had the same is not
        computed again.
        """
        check_randomization(order, init, n_seeds)
        stages = stages_of(self.batch.model, layers, self.batch.x, self.stages)
        names = stage_names(stages, order)
        of_inputs = () if noisy is None else noisy.name
        states = randomization_states(order, n_seeds, len(stages))
        keys = [(init, state.repeat, *_drawn(stages, state), *of_inputs) for state in states]
        missing = [state for state, key in zip(states, keys) if key not in self._kept]
        now = randomized(self.batch.model, stages, missing, init, self.batch.run_seed)
        with contextlib.closing(now):
            for state, key in zip(states, keys):
                if key not in self._kept:
                    next(now)
                yield state, names[state.stage], self._shared(key, self if noisy is None else lambda: self._mean(noisy))

    def _shared(self, key: _Key, compute: Callable[[], list[Column]]) -> list[Column]:
        if not self.sharing:
            return self._kept.pop(key) if key in self._kept else compute()
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def _mean(self, noisy: Noisy) -> list[Column]:
        total: list[Column] = []
        for x in noisy.inputs:
            columns = self(x)
            total = [_sum(a, b) for a, b in zip(total, columns)] if total else columns
        return [replace(c, maps=[m / len(noisy.inputs) for m in c.maps]) for c in total]


def _sum(a: Column, b: Column) -> Column:
    return replace(a, maps=[m + n for m, n in zip(a.maps, b.maps)])


def stages_of(model: nn.Module, layers: Sequence[str] | None, x: Tensor, known: Stages) -> list[Stage]:
    """Returns the stages of some layers (None: all), from the output on; they are looked for once."""
    key = tuple(layers or ())
    if key not in known:
        known[key] = randomization_stages(model, layers or None, (x,), ())
    return known[key]


def _drawn(stages: Sequence[Stage], state: State) -> tuple[object, ...]:
    """Returns what is drawn in a state; also in which order, where stages have parameters in common."""
    held = [set(module.parameters()) for _, module in stages]
    is_apart = sum(map(len, held)) == len(set().union(*held))
    layers = sorted(state.layers) if is_apart else state.layers
    return tuple((layer, stages[layer][0]) for layer in layers)
