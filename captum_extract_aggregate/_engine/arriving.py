"""Gradients of which little is kept: they are reduced when they arrive, while a CPU's cache holds them.

A gradient at every layer, all of them kept until the backward pass has ended, is fresh memory for each; on a small
network that takes a fifth of the passes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.tensors import plain
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layout_detection import has_proportions
from captum_extract_aggregate._engine.taps import Place, Tapped

Taps = Mapping[Place, list[list[Tapped]]]


class Arriving:
    """Meets the gradients at some places, until all is undone, and holds what is kept of them."""

    def __init__(self, undo: Undo, taps: Taps, places: Iterable[Place]) -> None:
        self._tensors = {place: [parts[0] for parts in taps[place]] for place in places}
        self._found: dict[Place, dict[int, Any]] = {place: {} for place in self._tensors}
        for place, tensors in self._tensors.items():
            for number, tapped in enumerate(tensors):
                assert tapped.edge is not None
                meet = functools.partial(self._meet, place, number, tapped.edge.output_nr)
                undo.callback(tapped.edge.node.register_prehook(meet).remove)

    def meets(self, place: Place) -> bool:
        """Tells whether gradients at a place need not be asked for."""
        return place in self._found

    def _meet(self, place: Place, number: int, output: int, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[output]
        if gradient is not None and place.reduce is not None:
            self._found[place][number] = place.reduce(plain(gradient))

    def reduced(self) -> dict[Place, tuple[Any, ...]]:
        """Returns what was kept, tensor by tensor, of all places that the score uses."""
        return {place: tuple(self._of(place)) for place, found in self._found.items() if found}

    def _of(self, place: Place) -> Iterable[Any]:
        """Yields what is kept at a place; of tensors that the score does not use, that of zeros."""
        assert place.reduce is not None
        for number, tapped in enumerate(self._tensors[place]):
            found = self._found[place]
            yield found[number] if number in found else place.reduce(torch.zeros_like(tapped.value))


def can_be_met(taps: Taps, batch: int, image: tuple[int, ...] = ()) -> list[Place]:
    """Returns the places of a plain pass whose gradients can be reduced when they arrive.

    They arrive where the backward pass goes by. On its way to the input that is wherever the input leads to: at all
    that is tapped, unless some of it has begun a graph of its own. Dimensions without the picture's proportions have
    to be looked at first.
    """
    if all(place.reduce is None for place in taps):
        return []
    if Place(None, "input") not in taps or any(_is_leaf(t) for place, t in _all(taps) if place.layer is not None):
        return []
    fits = {place: True for place in taps if place.reduce is not None}
    for place, tapped in _all(taps):
        shape = tapped.value.shape
        if place.reduce is not None and (len(shape) < 3 or shape[0] != batch or not has_proportions(shape[2:], image)):
            fits[place] = False
    return [place for place, does in fits.items() if does and all(len(parts) == 1 for parts in taps[place])]


def _all(taps: Taps) -> Iterable[tuple[Place, Tapped]]:
    return ((place, tapped) for place, tensors in taps.items() for parts in tensors for tapped in parts)


def _is_leaf(tapped: Tapped) -> bool:
    return tapped.edge is not None and tapped.edge.node.name().endswith("AccumulateGrad")
