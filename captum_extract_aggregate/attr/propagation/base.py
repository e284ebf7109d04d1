"""What methods that give the operations of a network another backward pass share.

A quantity R goes from the explained score down to the input or a layer; at each operation a rule says how
(`captum_extract_aggregate.rules`). The operations are intercepted where they are called, so functional ReLUs, sums and
in-place operations of an unmodified network are seen, and whatever no rule is known for is an error, never skipped
(`captum_extract_aggregate.register_operation`).

At the input (`layer=None`, the default) the result has the inputs' shapes, as Captum's methods for inputs; at a layer
it is a map `N x 1 x *S`. Memory: guided backprop, deconvolution and RectGrad hold what a gradient holds; the relevance
methods hold the input of each linear operation and each average, and a share for each term of a sum: about what
training the network holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import checked_inputs
from captum_extract_aggregate._engine.layout import Layout
from captum_extract_aggregate._engine.recording import Recording, Start, at_scores, record
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Targets
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.extract_aggregate.aggregate import AggregateName, check_aggregate
from captum_extract_aggregate.attr.extract_aggregate.aggregate import aggregate as aggregate_entries
from captum_extract_aggregate.attr.extract_aggregate.extract import Pair
from captum_extract_aggregate.attr.layer_types import L
from captum_extract_aggregate.attr.propagation.interception import Interception


class PropagationAttribution(CaptureAttribution[L]):
    """A map of what arrives at the input or a layer; subclasses say by which rules (`_interception`)."""

    _extract = "bias"  # of the arriving quantity alone; "scaling": times the activation
    _aggregate = "sum"
    _from_the_start = False  # whether rules have to see what happens below the layer

    @named_arguments
    def __init__(
        self,
        model: Callable[..., Any],
        layer: L = None,  # type: ignore[assignment]
        device_ids: list[int] | None = None,
        *,
        aggregate: AggregateName | None = None,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(model, layer, device_ids, layout=layout, call=call)
        self.aggregate = self._aggregate if aggregate is None else check_aggregate(aggregate)

    def argument(self, name: str) -> Any:
        """Returns an argument as it was given; None for the class's own aggregate, which was not named."""
        return None if name == "aggregate" and self.aggregate == self._aggregate else super().argument(name)

    def _interception(self, batch: int) -> Interception:
        raise NotImplementedError

    def _seed(self, scores: Tensor) -> Tensor:
        """Returns the quantity at the scores."""
        return torch.ones_like(scores)

    def _start(self, recording: Recording) -> Start:
        """Returns what tells where the backward pass begins."""
        return at_scores

    def run_pass(
        self, inputs: Any, places: list[Place], additional_forward_args: Any, targets: Targets
    ) -> Iterator[Evidence]:
        def within(undo: Undo, leaves: Sequence[Tensor]) -> Interception:
            interception = self._interception(len(checked_inputs(inputs)[0]))
            interception.begin(undo)
            return interception

        extra, devices = additional_forward_args, self.device_ids
        recording = record(self.forward_func, inputs, places, extra, devices, within, self._from_the_start)
        recording.context.check(recording.output)
        return recording.evidence(targets, self._seed, self._start(recording))

    def pass_key(self) -> int:
        return id(self)  # no other method has these rules

    def map_of(self, layer: nn.Module | None, x: Tensor, g: Tensor) -> Tensor:
        pair = Pair.scaled(x, g)
        return pair.unscaled(aggregate_entries(pair.summand(self._extract), self.aggregate))

    def maps_at(self, places: tuple[Place, ...], evidence: Evidence) -> tuple[Tensor, ...]:
        at = places[0]
        if at.layer is not None:
            return super().maps_at(places, evidence)
        return tuple(self._at_input(x, R) for x, R in zip(evidence.activations[at], evidence.gradients[at]))

    def _at_input(self, x: Tensor, R: Tensor) -> Tensor:
        """Returns the attribution of an input, in its shape."""
        return x * R if self._extract == "scaling" else R
