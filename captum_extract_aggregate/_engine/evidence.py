"""What one forward and one backward showed, and what several methods make of it together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from captum_extract_aggregate._engine.added import Added
from captum_extract_aggregate._engine.parts import Dims
from captum_extract_aggregate._engine.surroundings import Facts, Surroundings, image_size
from captum_extract_aggregate._engine.taps import (
    Place,
)

Tensors = tuple[Tensor, ...]


Found = TypeVar("Found")


class Look(NamedTuple):
    """Holds what one more forward shows: of what the dimensions at each place are made, which parameters are used, and
    how long dimension 0 of each tensor is in a batch of two, where a single example was looked at in company."""

    dims: dict[Place, list[Dims | None]]
    parameters: set[int]
    lengths: dict[Place, list[int]] = {}  # noqa: RUF012 (a NamedTuple's, never changed)


class Cache:
    """Keeps what is computed once for all who ask, by key; where one alone asks, nothing is kept."""

    def __init__(self, keeps: bool = False) -> None:
        self._keeps = keeps
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """Returns `compute()`, or what it gave before."""
        if key in self._found:
            return self._found[key]  # type: ignore[no-any-return]
        found = compute()
        if self._keeps:
            self._found[key] = found
        return found

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True)
class Evidence:
    """Holds what one forward and one target's backward showed: per place, the detached activations and gradients.

    `order` tells when in the forward each tensor was met (-1: the network's input), `tame` whether a gradient was seen
    to be neither tiny nor huge for any example. `pairs` (activations and gradients, channels first) and `scaled` (the
    same, scaled) are what several methods make of it, `channels` what several targets make of the activations. `look`
    runs the forward once more, to see of what the dimensions at each place are made (the first time it is called),
    `facts` are of the models. `added` runs both passes once more and returns whatever the network adds, where the
    gradients are such that it makes the score complete. `reduced` is what was kept of gradients that are not among
    `gradients`. `numbers` says which of all tensors that passed an optional place are shown.
    """

    scores: Tensor
    activations: dict[Place, Tensors]
    gradients: dict[Place, Tensors]
    order: dict[Place, tuple[int, ...]]
    inputs: Tensors
    models: tuple[nn.Module, ...]
    tame: dict[Place, tuple[bool, ...]] = field(default_factory=dict)
    pairs: Cache = field(default_factory=Cache)
    scaled: Cache = field(default_factory=Cache)
    channels: Cache = field(default_factory=Cache)
    look: Callable[[], Look] | None = None
    facts: Facts | None = None
    added: Callable[[], list[Added]] | None = None
    reduced: dict[Place, tuple[Any, ...]] = field(default_factory=dict)
    numbers: dict[Place, tuple[int, ...]] = field(default_factory=dict)

    def uses(self, layer: nn.Module) -> bool:
        """Tells whether the forward used a parameter of the layer, be it without calling the layer."""
        used = set() if self.look is None else self.look().parameters
        return any(id(p) in used for p in layer.parameters(recurse=False))

    def surroundings(self, place: Place) -> Surroundings:
        """Returns what is known about a place, for telling its layout."""
        known = Surroundings(place.layer, self.models, len(self.inputs[0]), image_size(self.inputs), facts=self.facts)
        look = self.look
        if look is None:
            return known
        return known._replace(look=lambda: look().dims.get(place, []), lengths=lambda: look().lengths.get(place, []))
