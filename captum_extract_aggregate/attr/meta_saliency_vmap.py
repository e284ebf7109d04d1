"""Meta-saliency of many examples at once: each has parameters of its own, and `torch.func.vmap` runs them together.

Weights of their own make every convolution a grouped one. On a CPU that pays where parameters and pictures are small,
so that a loop over the examples mostly waits for Python; `docs/meta_saliency.md` shows where each wins.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from captum_extract_aggregate._common.tensors import moved, on_cpu
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.known_layers import KNOWN_LAYERS
from captum_extract_aggregate._engine.layers import checked_inputs
from captum_extract_aggregate._engine.model_state import (
    leave_transforms,
    prepared,
    set_modes,
    unchanged,
    without_autocast,
)
from captum_extract_aggregate._engine.one_output import is_probability
from captum_extract_aggregate._engine.operations import tensors_in
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.taps import Place, gives_out_its_input
from captum_extract_aggregate.attr.base import CaptureAttribution, is_own
from captum_extract_aggregate.attr.one_pass import Plan, places_of

_MOST_PARAMETERS = 2_000_000  # of a network for which it is chosen by itself
_MOST_POSITIONS = 64 * 64  # of a picture
_FEWEST_EXAMPLES = 4
_MOST_BYTES = 2**28  # of parameters and gradients of the examples that run together


class NotVectorizedError(Exception):
    """Says that the examples have to be taken one by one."""


def pays(model: nn.Module, x: Tensor) -> bool:
    """Tells whether running the examples together is known to be faster than one by one."""
    small = len(x) >= _FEWEST_EXAMPLES and math.prod(x.shape[2:]) <= _MOST_POSITIONS
    return small and sum(p.numel() for p in model.parameters()) <= _MOST_PARAMETERS


def vectorized_maps(
    method: Any,
    model: nn.Module,
    chosen: list[nn.Parameter],
    rate: float,
    loss: str,
    steps: int,
    inputs: Any,
    target: Any,
) -> Any:
    """Returns the maps of a method of this package after each example's own steps, or `NotVectorizedError`."""
    plan = _plan(method)
    places = list(dict.fromkeys(places_of(plan)))
    (x,) = checked_inputs(inputs)
    classes = _classes(target, len(x), x.device)
    if method.forward_func is not model or x.is_inference():
        raise NotVectorizedError
    layers = [place.layer for place in places if place.layer is not None]
    if any(KNOWN_LAYERS.gives_out_new_tensors(layer) is None for layer in layers):
        record(model, x[:1], places)  # which looks
    if not all(KNOWN_LAYERS.gives_out_new_tensors(layer) for layer in layers):
        raise NotVectorizedError
    pass_ = _Pass(model, chosen, rate, loss, steps, places)
    try:
        with Undo() as undo, undo:
            set_modes(undo, grad=False)
            without_autocast(undo)
            prepared(undo, model, (x,), freeze=True)
            unchanged(undo, model)
            leave_transforms(undo)  # the first to be undone: inside of a transform no flag can be put back
            scores, activations, gradients = pass_.run(x, classes)
    except (RuntimeError, LookupError, TypeError) as error:  # whatever vmap cannot do
        raise NotVectorizedError from error
    if on_cpu(scores) and not torch.isfinite(scores).all():
        raise NotVectorizedError  # the loop says whose
    order: dict[Place, tuple[int, ...]] = dict.fromkeys(places, (0,))
    evidence = Evidence(scores, dict(zip(places, activations)), dict(zip(places, gradients)), order, (x,), (model,))
    with Undo() as undo, undo:
        set_modes(undo, grad=False)
        without_autocast(undo)
        return method.all_maps(inputs, evidence, plan)


def _plan(method: Any) -> Plan:
    """Returns the layers' outputs (or the input) that a method needs, if it needs nothing else."""
    if not isinstance(method, CaptureAttribution) or not method.has_plain_pass:
        raise NotVectorizedError
    if not is_own(method, "attribute"):  # a subclass's, which does more than the pass
        raise NotVectorizedError
    if method.uses_parameters:  # which are each example's own
        raise NotVectorizedError
    plan = method.plan(to_input=False)
    if any(p.call is not None or p.optional or (p.side == "input" and p.layer is not None) for p in places_of(plan)):
        raise NotVectorizedError
    return plan  # type: ignore[no-any-return]


def _classes(target: Any, examples: int, device: torch.device) -> Tensor:
    """Returns one class index per example."""
    if isinstance(target, Tensor) and not target.is_floating_point() and target.dtype != torch.bool:
        classes = target.reshape(-1)
    elif isinstance(target, int) and not isinstance(target, bool):
        classes = torch.tensor([target])
    elif isinstance(target, list) and len(target) == examples and all(type(t) is int for t in target):
        classes = torch.tensor(target)
    else:
        raise NotVectorizedError
    if len(classes) not in (1, examples) or (on_cpu(classes) and (classes < 0).any()):
        raise NotVectorizedError
    return moved(classes, device).long().expand(examples)


class _Pass:
    """Returns the steps and the pass of one example, as a function that `vmap` can map."""

    def __init__(
        self, model: nn.Module, chosen: list[nn.Parameter], rate: float, loss: str, steps: int, places: list[Place]
    ) -> None:
        names = {p: name for name, p in model.named_parameters()}
        self.model, self.rate, self.loss, self.steps, self.places = model, rate, loss, steps, places
        self.stepped = {names[p]: p.detach() for p in chosen}

    def run(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Any, Any]:
        size = sum(p.numel() * p.element_size() for p in self.stepped.values())
        with Undo() as undo, undo:
            met = _added(undo, self.places, None)
            output = find_scores(self.model(x[:1]))
        if output.ndim != 2 or (on_cpu(classes) and int(classes.max()) >= output.shape[1]):
            raise NotVectorizedError
        known = (classes >= 0) & (classes < output.shape[1])  # elsewhere nobody looks: other maps are NaN
        if output.shape[1] == 1 and not self._gives_logit(x[:1]):
            raise NotVectorizedError
        zeros = [torch.zeros_like(x[:1] if p.layer is None else met[p]) for p in self.places]
        chunk = max(1, _MOST_BYTES // (3 * size))
        together = vmap(lambda one, y: self._of_one(one[None], y[None], zeros), chunk_size=chunk)
        gradients, (scores, activations) = together(x, classes.where(known, 0))
        return scores.flatten().where(known, torch.nan), _by_place(activations), _by_place(gradients)

    def _of_one(self, x: Tensor, y: Tensor, zeros: list[Tensor]) -> tuple[Any, Any]:
        parameters = self.stepped
        for _ in range(self.steps):
            gradients = grad(self._loss)(parameters, x, y)
            parameters = {name: p + self.rate * gradients[name] for name, p in parameters.items()}

        def score(added: list[Tensor]) -> tuple[Tensor, Any]:
            by_layer = dict(zip(self.places, added))
            shifted = x
            for place in self.places:
                shifted = shifted + by_layer[place] if place.layer is None else shifted
            with Undo() as undo, undo:
                met = _added(undo, self.places, by_layer)
                output = find_scores(functional_call(self.model, parameters, (shifted,)))
            explained = output.gather(1, y[:, None]).sum()
            return explained, (explained, [x if p.layer is None else met[p] for p in self.places])

        return grad(score, has_aux=True)(zeros)  # type: ignore[no-any-return]

    def _gives_logit(self, x: Tensor) -> bool:
        """Tells whether a single output is none of a sigmoid, of which the loop says why it is not right."""
        with torch.enable_grad():
            return not is_probability(find_scores(self.model(x.detach().requires_grad_())))

    def _loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        output = find_scores(functional_call(self.model, parameters, (x,)))
        if self.loss == "cross_entropy" and output.shape[1] > 1:  # of a single class it is 0
            return F.cross_entropy(output, y)
        return -F.logsigmoid(output.gather(1, y[:, None])).sum()


def _by_place(tensors: list[Tensor]) -> list[tuple[Tensor]]:
    """Drops the dimension of 1 that each example's own batch has left."""
    return [(t.flatten(0, 1),) for t in tensors]


def _added(undo: Undo, places: list[Place], added: dict[Place, Tensor] | None) -> dict[Place, Tensor]:
    """Meets the layers' outputs from here on, and adds something to them."""
    met: dict[Place, Tensor] = {}
    for place in places:
        if place.layer is not None:

            def hook(module: nn.Module, args: Any, output: Any, place: Place = place) -> Any:
                if place in met or not isinstance(output, Tensor):
                    raise NotVectorizedError  # several calls, or several tensors
                if gives_out_its_input(module, output, tensors_in(args)):
                    raise NotVectorizedError  # which others use too
                met[place] = output
                return output.clone() if added is None else output + added[place]

            undo.hook(place.layer, "register_forward_hook", hook)
    return met
