"""One forward and one backward: activations and gradients at many places, for many targets.

`record` runs the forward once, with every parameter frozen and every place tapped. The first tensor of each path that
is asked for becomes a leaf of the autograd graph, so nothing below it is recorded, and no layer saves anything for the
gradient of its weights. When `record` returns, the model already is as it was; `Recording.evidence` then runs one
backward per target from the recorded output down to the taps and no further.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.seeding import random_state
from captum_extract_aggregate._common.tensors import are_tame, on_cpu, plain, read_magnitudes
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.arriving import Arriving, can_be_met
from captum_extract_aggregate._engine.autograd_graph import nodes_below
from captum_extract_aggregate._engine.batch_dimension import views_unfolded
from captum_extract_aggregate._engine.evidence import Cache, Evidence, Look, Tensors
from captum_extract_aggregate._engine.gradient_layout import lay_out_graph
from captum_extract_aggregate._engine.joint_backward import joint_gradients, targets_at_once
from captum_extract_aggregate._engine.known_layers import KNOWN_LAYERS
from captum_extract_aggregate._engine.layers import checked_inputs, describe
from captum_extract_aggregate._engine.look import one_more_forward
from captum_extract_aggregate._engine.model_state import prepare_pass, set_modes, uncompiled, without_autocast
from captum_extract_aggregate._engine.operations import tensors_in
from captum_extract_aggregate._engine.outputs import scores_or_output
from captum_extract_aggregate._engine.surroundings import Facts, image_size
from captum_extract_aggregate._engine.taps import (
    Place,
    Tapped,
    Taps,
    gradient_edge,
)
from captum_extract_aggregate._engine.targets import Target, Targets, select_scores

Context = Any  # what a forward runs within
Seed = Callable[[Tensor], Tensor]
Within = Callable[[Undo, Sequence[Tensor]], Context]  # told the tensors that the forward is given
Start = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Found = list[Tensor | None]  # the gradient at each place's tensors, None where there is none


def at_scores(scores: Tensor, sent: Tensor) -> tuple[Tensor, Tensor]:
    """Begins a backward at the scores, with what is sent down from them."""
    return scores, sent


def _of_final_states(place: Place) -> str:
    """Returns what is likely where a score does not depend on a recurrent layer's steps."""
    if not isinstance(place.layer, nn.RNNBase) or place.side == "input":
        return ""
    return " but by its final states, which have no positions (attribute_to_layer_input=True gives a map of the steps)"


def _cure_of_scores(scores: int, batch: int) -> str:
    """Returns what to do where several inputs (patches of a slide, views of an object) share a score."""
    if not scores or batch % scores:
        return ""
    parts = batch // scores
    return (
        f". If each score is of {parts} inputs together (patches, views, frames), make them one example: inputs "
        f"x.unflatten(0, (-1, {parts})), forward_func=lambda x: model(x.flatten(0, 1)), "
        f"layout={views_unfolded(scores, parts)}"
    )


class Recording:
    """Holds a finished forward: its output, still attached to the tapped tensors, and nothing of the model.

    `context` is what it ran within; `is_shared` says whether several ask for the same place.
    """

    def __init__(
        self,
        output: Any,
        taps: dict[Place, list[list[Tapped]]],
        inputs: Tensors,
        models: tuple[nn.Module, ...],
        look: Callable[[], Look],
        context: Context,
        is_shared: bool,
        facts: Facts,
    ) -> None:
        self.output, self.context = output, context
        self.inputs = inputs
        self.models = models
        self._look = functools.cache(look)
        self._facts = facts
        self._taps = taps  # per place, per tensor it holds, the parts from each device
        self._order = {place: tuple(parts[0].order for parts in tensors) for place, tensors in taps.items()}
        self._numbers = {
            place: tuple(parts[0].number for parts in tensors) for place, tensors in taps.items() if place.optional
        }
        self._activations = {
            place: tuple(joined([part.value for part in parts]) for parts in tensors) for place, tensors in taps.items()
        }
        self._is_shared, self._channels = is_shared, Cache(keeps=True)
        self._reduced = can_be_met(taps, len(inputs[0]), image_size(inputs)) if context is None else []
        self._laid_out: Node | None = None

    def activity(self) -> Evidence:
        """Returns what the forward alone showed: no score is selected and nothing differentiated."""
        none = torch.empty(0)
        seen = (self.inputs, self.models)
        return Evidence(none, self._activations, {}, self._order, *seen, look=self._look, facts=self._facts)

    def evidence(
        self,
        targets: Targets,
        seed: Seed = torch.ones_like,
        start: Start = at_scores,
        jointly: bool = False,
    ) -> Iterator[Evidence]:
        """Runs one backward for each target, and yields what it showed; the graph is freed with the last.

        Targets that follow from the scores (the most probable classes) are chosen by a function of the output.

        What is sent down from the scores is `seed(scores)`: ones for gradients. `start` may have it begin further down,
        at what all places lead to, and run backward passes of its own to find out with what. (No hook could put that
        in: autograd shows it to what lies below, not to who asks for the gradient of that tensor itself.) `jointly`: of
        a plain pass; targets may share a backward where that is faster.
        """
        wanted = targets(self.output) if callable(targets) else targets
        activations = itertools.chain.from_iterable(self._activations.values())
        many = targets_at_once(self.inputs, activations) if jointly else 1
        for first in range(0, len(wanted), many):
            some = wanted[first : first + many]
            found = self._gradients_of_all(some) if len(some) > 1 else None
            for i, target in enumerate(some):  # nothing of a target is held here while the next one's backward runs
                gradients = None if found is None else found.pop(0)
                yield self._for_target(target, seed, start, first + i + 1 < len(wanted), gradients)
                del gradients

    def _gradients_of_all(self, targets: Sequence[Target]) -> list[Found] | None:
        """Returns what one backward finds for each of several targets, if one will do."""
        with Undo() as undo, undo:
            set_modes(undo, grad=True)
            without_autocast(undo)
            random_state(undo, self.inputs)
            return joint_gradients([select_scores(self.output, target) for target in targets], self._edges())

    def _for_target(
        self, target: Target, seed: Seed, start: Start, retain: bool, found: Found | None = None
    ) -> Evidence:
        """Returns what a backward shows, which runs unless it is known what it finds."""
        with Undo() as undo, undo:
            set_modes(undo, grad=True)
            without_autocast(undo)
            random_state(undo, self.inputs)
            scores = select_scores(self.output, target)
            self._check_scores(scores)
            if self.context is None and len(scores) == 1 and on_cpu(scores):
                self._lay_out(scores)
            arriving = Arriving(undo, self._taps, self._reduced if found is None else [])
            if found is None:
                found = self._backward(*start(scores, seed(scores.detach())), retain, arriving)
            kept = arriving.reduced()
            gradients = self._by_place(found, arriving, kept)
            tame = {place: tuple(self._is_tame(g, place) for g in found) for place, found in gradients.items()}
        shown = (scores.detach(), self._activations, gradients, self._order)
        caches = (Cache(self._is_shared), Cache(self._is_shared), self._channels)
        return Evidence(
            *shown,
            self.inputs,
            self.models,
            tame,
            *caches,
            self._look,
            self._facts,
            reduced=kept,
            numbers=self._numbers,
        )

    def _lay_out(self, scores: Tensor) -> None:
        """Sees to the layout of gradients in a plain pass; scores that are selected from one output share its graph."""
        top = (self.output if isinstance(self.output, Tensor) else scores).grad_fn
        if top is not self._laid_out:
            lay_out_graph(top)
            self._laid_out = top

    def leads_to(self, tensor: Tensor) -> bool:
        """Tells whether a tensor of the graph was computed from every place (or is tapped there)."""
        below = set(nodes_below([gradient_edge(tensor).node]))
        return all(
            any(part.edge is not None and part.edge.node in below for parts in tensors for part in parts)
            for place, tensors in self._taps.items()
            if place.differentiate
        )

    def _check_scores(self, scores: Tensor) -> None:
        batch = self.inputs[0].shape[0]
        if len(scores) != batch:
            raise InvalidValueError(
                f"forward_func gives {len(scores)} score(s) for a batch of {batch}; expected one per example, shape "
                f"({batch},) or ({batch}, classes), so that each example's map is its own"
                + _cure_of_scores(len(scores), batch)
            )
        # Elsewhere a check would make the host wait for the device: there the maps say NaN (see attr/base.py).
        bad = [i for i, s in enumerate(scores.tolist()) if not math.isfinite(s)] if on_cpu(scores) else []
        if bad:
            raise InvalidValueError(
                f"the explained score is NaN or infinite for example {', '.join(map(str, bad[:10]))}; expected finite "
                "numbers: check the inputs (torch.isfinite(x).all()), the weights, and the range of half precision; of "
                "actions that a mask rules out (-inf) take another target"
            )

    def _edges(self, arriving: Arriving | None = None) -> list[GradientEdge]:
        """Returns where gradients are asked for: not at places where they are met."""
        places = [place for place in self._taps if arriving is None or not arriving.meets(place)]
        edges = (part.edge for place in places for parts in self._taps[place] for part in parts)
        return [edge for edge in edges if edge is not None]

    def _backward(self, start: Tensor, sent: Tensor, retain: bool, arriving: Arriving) -> Found:
        edges = self._edges(arriving)
        if not start.requires_grad or not edges:
            return [None] * len(edges)
        with _explained_failure():
            return list(torch.autograd.grad(start, edges, sent, retain_graph=retain, allow_unused=True))

    def _by_place(self, found: Found, arriving: Arriving, kept: Container[Place]) -> dict[Place, Tensors]:
        """Returns the gradients of each place of which not all that is wanted was kept when they arrived."""
        each: Iterator[Tensor | None] = iter(found)
        none: Iterator[Tensor | None] = itertools.repeat(None)
        return {
            place: self._gradients(place, none if arriving.meets(place) else each)
            for place in self._taps
            if place.differentiate and place not in kept
        }

    def _gradients(self, place: Place, found: Iterator[Tensor | None]) -> Tensors:
        """Returns the next gradients for a place's tensors; zeros for those that the score does not use, our error if
        all."""
        tensors = [[(part.value, next(found)) for part in parts] for parts in self._taps[place]]
        if not place.optional and all(gradient is None for parts in tensors for _, gradient in parts):
            raise InvalidValueError(
                f"the explained score does not depend on {describe(place.layer, self.models)} in a differentiable way"
                f"{_of_final_states(place)}; expected a layer between the input and the output (not an auxiliary "
                "head), and a forward_func that neither detaches, nor runs under torch.no_grad, nor takes an argmax, "
                "nor checkpoints the layer"
            )
        return tuple(joined([torch.zeros_like(x) if g is None else plain(g) for x, g in parts]) for parts in tensors)

    def _is_tame(self, g: Tensor, place: Place) -> bool:
        """Raises our error for a gradient that is not finite; looked for on the CPU alone, as in `_check_scores`."""
        if not on_cpu(g) or not g.numel():
            return False
        found = read_magnitudes(g)
        check_finite(found, place, self.models)
        return are_tame(found)


def check_finite(found: Sequence[float], place: Place, models: Sequence[nn.Module]) -> None:
    """Raises our error for a place whose gradients are of these magnitudes, where one is not finite."""
    if not all(map(math.isfinite, found)):
        raise InvalidValueError(
            f"the gradient at {describe(place.layer, models)} is NaN or infinite though the score is not; "
            "expected a score that is differentiable there (no square root or logarithm of 0)"
        )


def record(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    places: Iterable[Place],
    additional_forward_args: Any = None,
    device_ids: list[int] | None = None,
    within: Within | None = None,
    from_the_start: bool = False,
) -> Recording:
    """Returns one forward of `forward_func`, tapped at `places`. The model and the inputs are left as they were.

    The forward runs within what `within` begins and returns (afresh if it has to run a second time), until that is
    undone. With `from_the_start` everything is recorded, not only what lies above the first place. A place that is
    given more than once is asked for by several, who share what they make of it.
    """
    asked = list(places)
    places = list(dict.fromkeys(asked))
    tensors = checked_inputs(inputs)
    if any(place.layer is None for place in places) and not all(t.is_floating_point() for t in tensors):
        raise InvalidTypeError(
            f"layer=None asks for maps at the input, but inputs hold {[str(t.dtype) for t in tensors]}; expected "
            "floating point tensors (for token indices choose the embedding layer)"
        )
    extra = _format_additional_forward_args(additional_forward_args) or ()
    extra = tuple(t.clone() if isinstance(t, Tensor) and t.is_inference() else t for t in extra)
    forward_func = uncompiled(forward_func)
    device_ids = device_ids or getattr(forward_func, "device_ids", None)
    # A layer's input may have been used by other layers before this one ran. Its derivative runs through them too, so
    # for that side the graph has to begin at the network's input.
    from_the_start |= any(place.side == "input" and place.differentiate for place in places)
    layers = {place.layer for place in places if place.layer is not None and place.differentiate}
    careful = KNOWN_LAYERS.careful(layers)
    while True:  # every turn knows one more layer
        start = from_the_start or bool(careful)
        run = _forward(forward_func, tensors, places, extra, device_ids, within, start, careful)
        if run.untold:
            KNOWN_LAYERS.learn_untold(run.untold)
            continue
        if not run.misjudged:
            break
        if run.misjudged <= careful:
            raise InvalidValueError(
                "the model works in place on a tensor that does not come from its inputs, or on a view of another, "
                "at one of the layers; expected other layers, or a model that leaves such tensors as they are"
            )
        careful |= run.misjudged
        KNOWN_LAYERS.learn_careful(run.misjudged)
    look = functools.partial(one_more_forward, forward_func, tensors, places, extra)
    shared = len(places) < len(asked)
    seen = tuple(map(plain, tensors)), run.models, look
    return Recording(run.output, run.tapped, *seen, run.context, shared, run.facts or Facts(run.models))


class _Run(NamedTuple):
    """Holds what one forward gave, and the layers whose tensors were used or overwritten as it did not expect, or were
    not found in its graph."""

    output: Any = None
    tapped: dict[Place, list[list[Tapped]]] = {}  # noqa: RUF012 (a NamedTuple's, never changed)
    models: tuple[nn.Module, ...] = ()
    context: Context = None
    misjudged: AbstractSet[nn.Module] = frozenset()
    untold: AbstractSet[nn.Module] = frozenset()
    facts: Facts | None = None


def _forward(
    forward_func: Callable[..., Any],
    tensors: Tensors,
    places: list[Place],
    extra: tuple[Any, ...],
    device_ids: list[int] | None,
    within: Within | None,
    from_the_start: bool,
    careful: set[nn.Module],
) -> _Run:
    """Runs the forward once."""
    # Of integer inputs (token indices) the graph can only begin at the weights.
    freeze = None if from_the_start and not any(t.is_floating_point() for t in tensors) else True
    with Undo() as modes, modes:
        set_modes(modes, grad=True)
        leaves = [t.detach().clone().requires_grad_(from_the_start and t.is_floating_point()) for t in tensors]
        shows_constants = from_the_start and all(t.requires_grad for t in leaves) and not tensors_in(extra)
        taps = Taps(places, from_the_start, careful, is_plain=within is None, shows_constants=shows_constants)
        layers = {place.layer for place in places} - {None}
        try:
            with _explained_failure(), Undo() as undo, undo:
                preparation = prepare_pass(
                    undo, forward_func, tensors, freeze, layers if within is None else None, layers
                )
                taps.begin(undo, preparation.claim)
                context = None if within is None else within(undo, leaves)
                output = scores_or_output(forward_func(*(t.clone() if t.requires_grad else t for t in leaves), *extra))
                if isinstance(output, Tensor):
                    with torch._C.DisableTorchFunctionSubclass():
                        output = plain(output).view_as(output)  # a tapped tensor itself stops requiring a gradient soon
        except _OverwrittenError:
            return _Run(misjudged=taps.layers)
        models = tuple(preparation.finished().models)
        untold = taps.find(output)
        if untold:
            return _Run(untold=untold)
        misjudged = taps.misjudged()
        tapped = {} if misjudged else taps.collect(leaves, models, device_ids)
        return _Run(output, tapped, models, context, misjudged, facts=preparation.facts())


class _OverwrittenError(Exception):
    """Says that a tapped tensor was overwritten in place by something else that holds it."""


@contextlib.contextmanager
def _explained_failure() -> Iterator[None]:
    """Turns PyTorch's errors about what cannot be differentiated into ours, which name the cure."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "leaf Variable that requires grad" in text or "is being modified inplace" in text:
            raise _OverwrittenError from error
        if "checkpoint" in text.lower() or "incompatible with .grad()" in text:
            raise InvalidValueError(
                "gradient checkpointing runs parts of the forward again, without hooks, during the backward; expected "
                "a model with checkpointing switched off (gradient_checkpointing_disable(), "
                "set_grad_checkpointing(False), memory_efficient=False, or whatever its own switch is called): "
                f"{text.splitlines()[0]}"
            ) from error
        if "modified by an inplace operation" in text:
            raise InvalidValueError(
                "the model overwrites a tensor in place that its own gradient needs, so it cannot be differentiated; "
                f"expected a model that could be trained ({text.splitlines()[0]})"
            ) from error
        raise


def joined(parts: list[Tensor]) -> Tensor:
    """Returns the parts of a batch from several devices, on the first."""
    return parts[0] if len(parts) == 1 else torch.cat([t.to(parts[0].device) for t in parts])
