"""What methods that share a score out have in common: one can ask whether all of it arrived."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.layer_types import L
from captum_extract_aggregate.attr.propagation.base import PropagationAttribution
from captum_extract_aggregate.attr.with_delta import WithDelta


class RelevanceAttribution(WithDelta[L], PropagationAttribution[L]):
    """Methods that share a quantity out, so that one can ask whether all of it arrived."""

    # A sum has to know all its addends, also those that come past the layer, from constants.
    _from_the_start = True

    @named_arguments
    def compute_convergence_delta(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor | list[Tensor]:
        """Returns what arrives at each layer minus what was sent from the score: `N` per layer. Costs one more pass.

        It is what was lost above the layer, up to rounding: what biases and the stabiliser have absorbed, or, with the
        z+ rule, what units without any positive contribution had to pass on, and sums of addends that cancel exactly.
        At a layer that parallel branches bypass it is also what went through them.
        """
        places = [first for first, *_ in self.plan(attribute_to_layer_input)]
        (evidence,) = self.run_pass(inputs, list(places), additional_forward_args, [target])
        sent = self._seed(evidence.scores).double()
        deltas = []
        for place in places:
            arrived = [R.double().reshape(len(sent), -1).sum(1) for R in evidence.gradients[place]]
            deltas.append((torch.stack(arrived).sum(0) - sent).to(evidence.scores.dtype))
        return deltas if isinstance(self.layer, (list, tuple)) else deltas[0]
