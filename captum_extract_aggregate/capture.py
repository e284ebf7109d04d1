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
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.utils.rnn import PackedSequence

from captum_extract_aggregate.dimensions import Dims, Watch
from captum_extract_aggregate.graph import nodes_below
from captum_extract_aggregate.layers import checked_inputs, describe
from captum_extract_aggregate.layout import Facts, Surroundings, image_size, views_unfolded
from captum_extract_aggregate.maps import are_tame, magnitudes
from captum_extract_aggregate.state import prepared, random_state, uncompiled, without_autocast
from captum_extract_aggregate.targets import Target, select_scores

Tensors = tuple[Tensor, ...]
Found = TypeVar("Found")
Seed = Callable[[Tensor], Tensor]
Around = Callable[[Tensor], contextlib.AbstractContextManager[Any]]
Looks = dict["Place", list[Dims | None]]


class Place(NamedTuple):
    """A place in a network: a layer's output or input, or (`layer=None`) the network's own input.

    `differentiate=False` asks for the activation alone, `value=False` for the gradient alone (the activation then is
    good for its shape, and may be overwritten); `call` picks one of several calls of the layer in a forward; an
    `optional` place is left out where its layer never ran, has zero gradients where the score does not use it, and
    holds the tensors of all calls where the layer ran several times.
    """

    layer: nn.Module | None
    side: str = "output"
    differentiate: bool = True
    value: bool = True
    call: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Evidence:
    """What one forward and one target's backward showed: per place, the detached activations and gradients.

    `order` tells when in the forward each tensor was met (-1: the network's input), `tame` whether a gradient was seen
    to be neither tiny nor huge for any example. Where several methods make their maps of it, `shared` is where they
    keep what they have in common; `lasting` is where the targets do. `look` runs the forward once more, to see of what
    the dimensions at each place are made (the first time it is called), `facts` are of the models.
    """

    scores: Tensor
    activations: dict[Place, Tensors]
    gradients: dict[Place, Tensors]
    order: dict[Place, tuple[int, ...]]
    inputs: Tensors
    models: tuple[nn.Module, ...]
    tame: dict[Place, tuple[bool, ...]] = field(default_factory=dict)
    lasting: dict[Hashable, Any] = field(default_factory=dict)
    shared: dict[Hashable, Any] | None = None
    look: Callable[[], Looks] | None = None
    facts: Facts | None = None

    def once(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """`compute()`, or what it gave another method of the same pass."""
        if self.shared is None:
            return compute()
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]  # type: ignore[no-any-return]

    def once_for_all_targets(self, key: Hashable, compute: Callable[[], Found]) -> Found:
        """`compute()`, or what it gave another target of the same forward; of activations alone, therefore."""
        if key not in self.lasting:
            self.lasting[key] = compute()
        return self.lasting[key]  # type: ignore[no-any-return]

    def surroundings(self, place: Place) -> Surroundings:
        """What is known about a place, for telling its layout."""
        look = None if self.look is None else functools.partial(_seen_at, place, self.look)
        image = image_size(self.inputs)
        return Surroundings(place.layer, self.models, self.inputs[0].shape[0], image, look=look, facts=self.facts)


def _of_final_states(place: Place) -> str:
    """What is likely where a score does not depend on a recurrent layer's steps."""
    if not isinstance(place.layer, nn.RNNBase) or place.side == "input":
        return ""
    return " but by its final states, which have no positions (attribute_to_layer_input=True gives a map of the steps)"


def _cure_of_scores(scores: int, batch: int) -> str:
    """What to do where several inputs (patches of a slide, views of an object) share a score."""
    if not scores or batch % scores:
        return ""
    parts = batch // scores
    return (
        f". If each score is of {parts} inputs together (patches, views, frames), make them one example: inputs "
        f"x.unflatten(0, (-1, {parts})), forward_func=lambda x: model(x.flatten(0, 1)), "
        f"layout={views_unfolded(scores, parts)}"
    )


class _Tapped(NamedTuple):
    """A tensor met in the forward: its value, and where in the graph its gradient arrives."""

    value: Tensor
    edge: GradientEdge | None
    order: int = -1


class Recording:
    """A finished forward: its output, still attached to the tapped tensors, and nothing of the model."""

    def __init__(
        self,
        output: Any,
        taps: dict[Place, list[list[_Tapped]]],
        inputs: Tensors,
        models: tuple[nn.Module, ...],
        look: Callable[[], Looks] | None = None,
    ) -> None:
        self.output = output
        self.inputs = inputs
        self.models = models
        self._look = None if look is None else functools.cache(look)
        self._facts = Facts(models)
        self._taps = taps  # per place, per tensor it holds, the parts from each device
        self._order = {place: tuple(parts[0].order for parts in tensors) for place, tensors in taps.items()}
        self._activations = {
            place: tuple(_joined([part.value for part in parts]) for parts in tensors)
            for place, tensors in taps.items()
        }
        self._lasting: dict[Hashable, Any] = {}

    def activity(self) -> Evidence:
        """What the forward alone showed: no score is selected and nothing differentiated."""
        none = torch.empty(0)
        seen = (self.inputs, self.models)
        return Evidence(none, self._activations, {}, self._order, *seen, look=self._look, facts=self._facts)

    def evidence(
        self, targets: Sequence[Target], seed: Seed = torch.ones_like, around: Around = contextlib.nullcontext
    ) -> Iterator[Evidence]:
        """For each target one backward; the graph is freed with the last.

        What is sent down from the scores is `seed(scores)`: ones for gradients. It runs within `around(scores)`, which
        may run backward passes of its own.
        """
        for i, target in enumerate(targets):  # nothing of a target is held here while the next one's backward runs
            yield self._for_target(target, seed, around, retain=i + 1 < len(targets))

    def _for_target(self, target: Target, seed: Seed, around: Around, retain: bool) -> Evidence:
        with torch.inference_mode(False), torch.enable_grad(), without_autocast(), random_state(self.inputs):
            scores = select_scores(self.output, target)
            self._check_scores(scores)
            with around(scores):
                gradients = self._backward(scores, seed(scores.detach()), retain)
            tame = {place: tuple(self._is_tame(g, place) for g in found) for place, found in gradients.items()}
        shown = (scores.detach(), self._activations, gradients, self._order)
        return Evidence(*shown, self.inputs, self.models, tame, self._lasting, None, self._look, self._facts)

    def leads_to(self, tensor: Tensor) -> bool:
        """Whether a tensor of the graph was computed from every place (or is tapped there)."""
        below = set(nodes_below([get_gradient_edge(tensor).node]))
        return all(
            any(part.edge is not None and part.edge.node in below for parts in tensors for part in parts)
            for place, tensors in self._taps.items()
            if place.differentiate
        )

    def _check_scores(self, scores: Tensor) -> None:
        batch = self.inputs[0].shape[0]
        if len(scores) != batch:
            raise ValueError(
                f"forward_func gives {len(scores)} score(s) for a batch of {batch}; expected one per example, shape "
                f"({batch},) or ({batch}, classes), so that each example's map is its own"
                + _cure_of_scores(len(scores), batch)
            )
        # Elsewhere a check would make the host wait for the device: there the maps say NaN (see attr/base.py).
        bad = [i for i, s in enumerate(scores.tolist()) if not math.isfinite(s)] if scores.device.type == "cpu" else []
        if bad:
            raise ValueError(
                f"the explained score is NaN or infinite for example {', '.join(map(str, bad[:10]))}; expected finite "
                "numbers: check the inputs (torch.isfinite(x).all()), the weights, and the range of half precision"
            )

    def _backward(self, scores: Tensor, seed: Tensor, retain: bool) -> dict[Place, Tensors]:
        wanted = [place for place in self._taps if place.differentiate]
        edges = [part.edge for place in wanted for parts in self._taps[place] for part in parts]
        found: Iterator[Tensor | None] = iter([None] * len(edges))
        if scores.requires_grad and edges:
            with _explained_failure():
                found = iter(torch.autograd.grad(scores, edges, seed, retain_graph=retain, allow_unused=True))  # type: ignore[arg-type]
        return {place: self._gradients(place, found) for place in wanted}

    def _gradients(self, place: Place, found: Iterator[Tensor | None]) -> Tensors:
        """The next gradients for a place's tensors; zeros for those that the score does not use, our error if all."""
        tensors = [[(part.value, next(found)) for part in parts] for parts in self._taps[place]]
        if not place.optional and all(gradient is None for parts in tensors for _, gradient in parts):
            raise ValueError(
                f"the explained score does not depend on {describe(place.layer, self.models)} in a differentiable way"
                f"{_of_final_states(place)}; expected a layer between the input and the output (not an auxiliary "
                "head), and a forward_func that neither detaches, nor runs under torch.no_grad, nor takes an argmax, "
                "nor checkpoints the layer"
            )
        return tuple(_joined([torch.zeros_like(x) if g is None else g for x, g in parts]) for parts in tensors)

    def _is_tame(self, g: Tensor, place: Place) -> bool:
        """Our error for a gradient that is not finite; looked for on the CPU alone, as in `_check_scores`."""
        if g.device.type != "cpu" or not g.numel():
            return False
        found = magnitudes(g).tolist()
        if not all(map(math.isfinite, found)):
            raise ValueError(
                f"the gradient at {describe(place.layer, self.models)} is NaN or infinite though the score is not; "
                "expected a score that is differentiable there (no square root or logarithm of 0)"
            )
        return are_tame(found)


def record(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    places: Iterable[Place],
    additional_forward_args: Any = None,
    device_ids: list[int] | None = None,
    within: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    from_the_start: bool = False,
) -> Recording:
    """One forward of `forward_func`, tapped at `places`. The model and the inputs are left as they were.

    The forward runs within the context that `within` gives (afresh if it has to run a second time). With
    `from_the_start` everything is recorded, not only what lies above the first place.
    """
    places = list(dict.fromkeys(places))
    tensors = checked_inputs(inputs)
    if any(place.layer is None for place in places) and not all(t.is_floating_point() for t in tensors):
        raise TypeError(
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
    if not all(_is_handed_a_clone(place) for place in places):
        try:
            return _forward(forward_func, tensors, places, extra, device_ids, within, from_the_start, copy=False)
        except _OverwrittenError:
            _OVERWRITTEN.update(place.layer for place in places if place.layer is not None)
    try:
        return _forward(forward_func, tensors, places, extra, device_ids, within, from_the_start, copy=False)
    except _OverwrittenError:  # something else holds a tapped tensor and works on it in place: record everything
        pass
    try:
        return _forward(forward_func, tensors, places, extra, device_ids, within, True, copy=True)
    except _OverwrittenError as error:
        raise ValueError(
            "the model works in place on a tensor that does not come from its inputs, at one of the layers; expected "
            f"other layers, or a model that leaves its constants as they are ({str(error.__cause__).splitlines()[0]})"
        ) from error


def _forward(
    forward_func: Callable[..., Any],
    tensors: Tensors,
    places: list[Place],
    extra: tuple[Any, ...],
    device_ids: list[int] | None,
    within: Callable[[], contextlib.AbstractContextManager[Any]],
    from_the_start: bool,
    copy: bool,
) -> Recording:
    # Of integer inputs (token indices) the graph can only begin at the embedding's weights.
    freeze = not from_the_start or any(t.is_floating_point() for t in tensors)
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [t.detach().clone().requires_grad_(from_the_start and t.is_floating_point()) for t in tensors]
        taps = _Taps(places, copy)
        hooked = {place.layer for place in places} if within is contextlib.nullcontext else None
        with prepared(forward_func, tensors, freeze, hooked) as models, taps, _explained_failure(), within():
            output = forward_func(*(t.clone() if t.requires_grad else t for t in leaves), *extra)
            if isinstance(output, Tensor):
                output = output.view_as(output)  # a tapped tensor itself stops requiring a gradient in a moment
        found = taps.collect(leaves, tuple(models), device_ids)
    look = functools.partial(_look, forward_func, tensors, places, extra)
    return Recording(output, found, tensors, tuple(models), look)


def _seen_at(place: Place, look: Callable[[], Looks]) -> list[Dims | None]:
    return look().get(place, [])


def _look(forward_func: Callable[..., Any], tensors: Tensors, places: list[Place], extra: tuple[Any, ...]) -> Looks:
    """One more forward, which shows of what the dimensions of every tensor at each place are made."""
    leaves = [t.detach().clone() for t in tensors]
    watch = Watch((*leaves, *(t for t in extra if isinstance(t, Tensor))), len(tensors[0]))
    calls: dict[Place, list[list[Dims | None]]] = {place: [] for place in places}

    def see(place: Place, values: Sequence[Any]) -> None:
        calls[place].append([watch.dims(values[i]) for i in _tappable(place, values)])

    def after(place: Place, module: nn.Module, args: Any, output: Any) -> None:
        see(place, output if isinstance(output, (tuple, list)) else [output])

    def before(place: Place, module: nn.Module, args: Any, kwargs: Any) -> None:
        see(place, args if any(isinstance(value, Tensor) for value in args) else list(kwargs.values()))

    layers = {place.layer for place in places}
    with prepared(forward_func, tensors, False, layers), torch.no_grad(), contextlib.ExitStack() as stack:
        for place in places:
            if place.layer is not None and place.side == "output":
                stack.callback(place.layer.register_forward_hook(functools.partial(after, place)).remove)
            elif place.layer is not None:
                hook = functools.partial(before, place)
                stack.callback(place.layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        with watch:
            forward_func(*leaves, *extra)
    seen: Looks = {}
    for place, of_place in calls.items():
        if place.layer is None:
            seen[place] = [watch.dims(t) for t in leaves]
        elif of_place and (place.call is None or -len(of_place) <= place.call < len(of_place)):
            chosen = itertools.chain(*of_place) if place.optional else of_place[place.call or 0]
            seen[place] = [None if dims is None else watch.told(dims) for dims in chosen]
    return seen


# Layers whose output something worked on in place.
_OVERWRITTEN: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def _is_handed_a_clone(place: Place) -> bool:
    """Whether what follows a layer gets a clone of the tensor tapped there, so that it can work on it in place.

    That is what follows single operations, an in-place ReLU say. The ends of blocks and stages are hardly ever
    overwritten, and large: they are handed on as they are, unless they have been found to be. (Found by PyTorch's
    version counter, which does not see writing through `.data` or NumPy. The forward then runs once more, so a model
    that changes buffers in eval mode has changed them twice.)
    """
    layer = place.layer
    return layer is None or place.side == "input" or not layer._modules or layer in _OVERWRITTEN


def _needs_clone(t: Tensor, place: Place) -> bool:
    """Whether work in place on a tapped tensor would do harm: to its value, or to the graph below it."""
    return place.value or t.is_leaf or t._is_view()


class _OverwrittenError(Exception):
    """A tapped tensor was overwritten in place by something else that holds it."""


@contextlib.contextmanager
def _explained_failure() -> Iterator[None]:
    """PyTorch's errors about what cannot be differentiated, with their cure."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "leaf Variable that requires grad" in text or "is being modified inplace" in text:
            raise _OverwrittenError from error
        if "checkpoint" in text.lower() or "incompatible with .grad()" in text:
            raise ValueError(
                "gradient checkpointing runs parts of the forward again, without hooks, during the backward; expected "
                f"a model with checkpointing switched off ({text.splitlines()[0]})"
            ) from error
        if "modified by an inplace operation" in text:
            raise ValueError(
                "the model overwrites a tensor in place that its own gradient needs, so it cannot be differentiated; "
                f"expected a model that could be trained ({text.splitlines()[0]})"
            ) from error
        raise


class _Taps(contextlib.AbstractContextManager["_Taps"]):
    """Forward hooks at the places; every call's tensors are kept, by device (a DataParallel model runs on several)."""

    def __init__(self, places: Sequence[Place], copy: bool) -> None:
        self._calls: dict[Place, dict[torch.device, list[list[_Tapped]]]] = {place: {} for place in places}
        self._copy = copy
        self._met: list[tuple[Tensor, int]] = []
        self._marked: list[Tensor] = []
        self._count = 0
        self._lock = threading.Lock()
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> _Taps:
        with contextlib.ExitStack() as registered:
            for place in self._calls:
                if isinstance(place.layer, torch.jit.ScriptModule):
                    raise ValueError(
                        f"layer is a {type(place.layer).__name__}, and hooks do not run in scripted or traced code; "
                        "expected a layer of the Python module it was made from"
                    )
                if place.layer is None:
                    continue
                if place.side == "output":
                    handle = place.layer.register_forward_hook(functools.partial(self._after, place))
                else:
                    hook = functools.partial(self._before, place)
                    handle = place.layer.register_forward_pre_hook(hook, with_kwargs=True)
                registered.callback(handle.remove)
            self._hooks = registered.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.close()
        for t in self._marked:
            if t.is_leaf:
                t.requires_grad_(False)  # the graph keeps its edge; the tensor may be the user's

    def _after(self, place: Place, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        values = list(output) if isinstance(output, (tuple, list)) else [output]
        return like(output, self._tap(place, values))

    def _before(
        self, place: Place, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        if any(isinstance(value, Tensor) for value in args):
            return tuple(self._tap(place, list(args))), kwargs
        return args, dict(zip(kwargs, self._tap(place, list(kwargs.values()) or list(args))))

    def _tap(self, place: Place, values: list[Any]) -> list[Any]:
        """Taps each floating point tensor, and hands it on, or a clone (`_is_handed_a_clone`, `_needs_clone`)."""
        chosen = _tappable(place, values)
        if not chosen:
            if any(isinstance(value, PackedSequence) for value in values):
                raise ValueError(
                    f"the {place.side} of layer {type(place.layer).__name__} is a packed sequence, in which examples "
                    "and steps share one dimension; expected padded sequences: take the layer before "
                    "pack_padded_sequence, or one behind pad_packed_sequence, or hand the recurrent layer padded ones"
                )
            kinds = ", ".join(type(v).__name__ for v in values) or "nothing"
            raise TypeError(
                f"the {place.side} of layer {type(place.layer).__name__} is {kinds}; expected a floating point tensor "
                "or a tuple of them: choose a layer inside it"
            )
        with self._lock:
            tapped = [self._mark(values[i], place) if place.differentiate else self._value(values[i]) for i in chosen]
            self._count += 1
            self._calls[place].setdefault(tapped[0].value.device, []).append(tapped)
        if not place.differentiate:
            return values  # what was kept is a copy
        if not _is_handed_a_clone(place):
            return values
        return [t.clone() if i in chosen and _needs_clone(t, place) else t for i, t in enumerate(values)]

    def _mark(self, t: Tensor, place: Place) -> _Tapped:
        """Makes the very tensor, not an alias, part of the graph: whatever else uses it belongs to its derivative."""
        if not t.requires_grad:
            t.requires_grad_()
            self._marked.append(t)
        if _needs_clone(t, place):
            self._met.append((t, t._version))
        with torch.enable_grad() if t.is_leaf else contextlib.nullcontext():  # for torch before 2.4
            edge = get_gradient_edge(t)
        copy = self._copy and place.value
        return _Tapped(t.detach().clone() if copy else t.detach(), edge, self._count)

    def _value(self, t: Tensor) -> _Tapped:
        return _Tapped(t.detach().clone(), None, self._count)

    def collect(
        self, leaves: list[Tensor], models: tuple[nn.Module, ...], device_ids: list[int] | None
    ) -> dict[Place, list[list[_Tapped]]]:
        """The tensors of the chosen call at each place, each with its parts in the order of the batch."""
        if not self._copy and any(t._version != version for t, version in self._met):
            raise _OverwrittenError
        found: dict[Place, list[list[_Tapped]]] = {}
        for place, by_device in self._calls.items():
            if place.layer is None:
                found[place] = [[_Tapped(t.detach(), get_gradient_edge(t))] for t in leaves]
                continue
            if not by_device:
                if place.optional:
                    continue
                raise ValueError(_never_ran(place, models))
            devices = _device_order(by_device, device_ids)
            if place.optional:
                parts = [[tapped for call in by_device[device] for tapped in call] for device in devices]
            else:
                parts = [_chosen_call(place, by_device[device], models) for device in devices]
            found[place] = [list(column) for column in zip(*parts)]
        return found


def _tappable(place: Place, values: Sequence[Any]) -> list[int]:
    """Which values of a layer's input or output are of interest: tensors of floating point numbers.

    Of a recurrent layer's the first alone: its initial and final states have no positions.
    """
    if isinstance(place.layer, nn.RNNBase):
        values = values[:1]
    return [i for i, t in enumerate(values) if isinstance(t, Tensor) and t.is_floating_point()]


def like(output: Any, values: list[Any]) -> Any:
    """A layer's output with other values in it: a tensor, a tuple, a named tuple or a list."""
    if not isinstance(output, (tuple, list)):
        return values[0]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


def _device_order(by_device: dict[torch.device, Any], device_ids: list[int] | None) -> list[torch.device]:
    if device_ids is None:
        return list(by_device)
    return sorted(by_device, key=lambda device: device_ids.index(device.index) if device.index in device_ids else -1)


def _joined(parts: list[Tensor]) -> Tensor:
    """The parts of a batch from several devices, on the first."""
    return parts[0] if len(parts) == 1 else torch.cat([t.to(parts[0].device) for t in parts])


def _chosen_call(place: Place, calls: list[list[_Tapped]], models: tuple[nn.Module, ...]) -> list[_Tapped]:
    count = len(calls)
    if place.call is None:
        if count > 1:
            raise ValueError(
                f"layer {describe(place.layer, models)} ran {count} times in one forward (its weights are shared); "
                f"expected one call: choose which with call=0 ... call={count - 1} (or call=-1 for the last)"
            )
        return calls[0]
    if not -count <= place.call < count:
        name = describe(place.layer, models)
        raise ValueError(f"call is {place.call}, but layer {name} ran {count} times; expected {-count} to {count - 1}")
    return calls[place.call]


def _never_ran(place: Place, models: tuple[nn.Module, ...]) -> str:
    name = describe(place.layer, models)
    inside = any(place.layer is module for model in models for module in model.modules())
    if not inside:
        why = "it is not part of the model that forward_func calls (another copy of the model?)"
    elif any(isinstance(module, torch.jit.ScriptModule) for model in models for module in model.modules()):
        why = "the model is scripted or traced, and hooks do not run inside it: use the Python module it was made from"
    else:
        why = (
            "the forward of its parent uses its weights without calling it, skips it, or was compiled: "
            "choose its parent or a neighbour, or pass the model before torch.compile"
        )
    return f"layer {name} never ran in the forward; {why}"
