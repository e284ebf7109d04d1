"""Does a decomposition add up? The score against the activities at a cut and the biases behind it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import checked_inputs, describe, model_of
from captum_extract_aggregate._engine.model_state import prepare_pass, set_modes, uncompiled
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.taps import Place, at_output
from captum_extract_aggregate._engine.targets import Target, select_scores
from captum_extract_aggregate.attr.biases import bias_layers, biased


def the_model(forward_func: Callable[..., Any]) -> nn.Module:
    """Returns the model in which biases are looked for, or our error."""
    model = model_of(forward_func)
    if model is None:
        raise InvalidTypeError(
            f"forward_func is a {type(forward_func).__name__}, in which no layers with biases can be found; expected "
            "the model itself"
        )
    return model


def with_biases(
    forward_func: Callable[..., Any],
    inputs: Any,
    target: Target,
    additional_forward_args: Any,
    places: list[Place],
    device_ids: list[int] | None,
) -> Evidence:
    """Returns one pass with the gradients at `places` and at every layer of the network that adds a bias."""
    model = the_model(forward_func)
    # Biases first: at a layer that is tapped as both, its own bias is met before, and so lies in front of, the cut.
    biases = [Place(layer, value=False, optional=True) for layer in bias_layers(model).values()]
    # From the start, as only such a graph shows what is made of no input, which is no example's.
    whole = all(t.is_floating_point() for t in checked_inputs(inputs))
    taps = [*biases, *places]
    recording = record(forward_func, inputs, taps, additional_forward_args, device_ids, from_the_start=whole)
    return next(recording.evidence([target]))


def completeness_delta(cut: Place, evidence: Evidence) -> Tensor:
    """Returns the activities at a cut plus all biases met after it, minus the score: one number per example."""
    examples = len(evidence.scores)
    total = -evidence.scores.double()
    for x, g in zip(evidence.activations[cut], evidence.gradients[cut]):
        total = total + (x.double() * g.double()).reshape(examples, -1).sum(1)
    for place, gradients in evidence.gradients.items():
        for g, order in zip(gradients, evidence.order[place]):
            if place.optional and place.layer is not None and order > evidence.order[cut][0]:
                total = total + biased(place.layer, g.double()).reshape(examples, -1).sum(1)
    return total.to(evidence.scores.dtype)


def is_bypassed(
    forward_func: Callable[..., Any], inputs: Any, target: Target, additional_forward_args: Any, place: Place
) -> bool:
    """Tells whether the score still depends on the inputs when the graph is severed at the place."""
    tensors = checked_inputs(inputs)
    if place.layer is None:
        return False
    if not any(t.is_floating_point() for t in tensors):
        warnings.warn("whether other branches bypass the layer cannot be seen for integer inputs", stacklevel=3)
        return False
    extra = _format_additional_forward_args(additional_forward_args) or ()
    with Undo() as undo, undo:
        set_modes(undo, grad=True)
        prepare_pass(undo, forward_func, tensors, freeze=True, layers=[place.layer])
        leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in tensors]
        given = [t.detach().clone().requires_grad_() if _is_float(t) else t for t in extra]
        severed = _Severed(place)
        output = severed.run(uncompiled(forward_func), *(t.clone() for t in leaves), *given)
        if place.call is not None and place.call < 0:
            severed = _Severed(place._replace(call=place.call + severed.calls))
            output = severed.run(uncompiled(forward_func), *(t.clone() for t in leaves), *given)
        scores = select_scores(output, target)
        if not scores.requires_grad:
            return False
        sources = [t for t in (*leaves, *given) if _is_float(t)]
        gradients = torch.autograd.grad(scores.sum(), sources, allow_unused=True)
    return any(g is not None and bool((g != 0).any()) for g in gradients)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def warn_of_bypass(place: Place, models: Sequence[nn.Module], stacklevel: int) -> None:
    """Says that a layer is no cut, and what is."""
    warnings.warn(
        f"{describe(place.layer, models)} is bypassed by parallel branches, so it is no cut through the network and "
        "its convergence delta is undefined (NaN); take the end of the block",
        stacklevel=stacklevel + 1,
    )


class _Severed:
    """Cuts the graph at one call of a layer: values pass, gradients do not."""

    def __init__(self, place: Place) -> None:
        self.place, self.calls = place, 0

    def run(self, forward_func: Callable[..., Any], *args: Any) -> Any:
        """Returns the output with the graph cut."""
        assert self.place.layer is not None
        with Undo() as undo, undo:
            if self.place.side == "output":
                undo.hook(self.place.layer, "register_forward_hook", self._after)
            else:
                undo.hook(self.place.layer, "register_forward_pre_hook", self._before, with_kwargs=True)
            return forward_func(*args)

    def _is_here(self) -> bool:
        self.calls += 1
        return self.place.call is None or self.place.call == self.calls - 1

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        return at_output(lambda values: list(map(_detached, values)), output) if self._is_here() else output

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self._is_here():
            return args, kwargs
        return tuple(map(_detached, args)), {key: _detached(value) for key, value in kwargs.items()}


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
