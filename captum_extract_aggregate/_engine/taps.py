"""Where in a forward tensors are met: forward hooks that make them part of the graph, and keep them.

A tensor that is met where nothing is recorded yet becomes a leaf of the graph. That is its total derivative only if
nobody has used it before; the taps find out, and what they have found out about layers lasts.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import plain
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.attention_seen import AttentionSeen, no_attention
from captum_extract_aggregate._engine.claims import Claim
from captum_extract_aggregate._engine.graph_places import may_be_told, outputs_of
from captum_extract_aggregate._engine.known_layers import KNOWN_LAYERS
from captum_extract_aggregate._engine.layers import describe
from captum_extract_aggregate._engine.operations import tensors_in

Change = Callable[[list[Any]], list[Any]]


class Place(NamedTuple):
    """Names a place in a network: a layer's output, input or attention weights (`side="attention"`), or (`layer=None`)
    the network's own input.

    `differentiate=False` asks for the activation alone, `value=False` for the gradient alone (the activation then is
    good for its shape, and may be overwritten); `call` picks one of several calls of the layer in a forward; an
    `optional` place is left out where its layer never ran, has zero gradients where the score does not use it, and
    holds the tensors of all calls where the layer ran several times. `reduce` makes of a gradient what is kept of it,
    as soon as it arrives, where that can be (see `Recording`).
    """

    layer: nn.Module | None
    side: str = "output"
    differentiate: bool = True
    value: bool = True
    call: int | None = None
    optional: bool = False
    reduce: Callable[[Tensor], Any] | None = None


class Tapped(NamedTuple):
    """Holds a tensor met in the forward: its value, and where in the graph its gradient arrives; `number` says which it
    is of all that passed an optional place."""

    value: Tensor
    edge: GradientEdge | None
    order: int = -1
    number: int = 0


def gives_out_its_input(module: nn.Module, t: Tensor, given: Sequence[Tensor]) -> bool:
    """Tells whether an output is the very tensor that went in. An activation that works in place has made it
    another."""
    if not any(t is one for one in given):
        return False
    return not (getattr(module, "inplace", False) and type(module).__module__ == nn.modules.activation.__name__)


class _Uses(TorchDispatchMode):
    """Notices which tensors have been used by an operation since they were made, or last overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[int] = set()

    def begin(self, undo: Undo) -> None:
        """Looks from here on, until all is undone (without `__exit__`, which an interrupt can cut short)."""
        undo.callback(_leave_dispatch_modes, torch._C._len_torch_dispatch_stack())
        torch._C._push_on_torch_dispatch_stack(self)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.detach.default:  # behind which no derivative runs; autograd itself does it
            self.used.update(t._cdata for t in tensors_in((args, kwargs)))
        self.used.difference_update(t._cdata for t in tensors_in(output))
        return output


def _leave_dispatch_modes(count: int) -> None:
    while torch._C._len_torch_dispatch_stack() > count:
        torch._C._pop_torch_dispatch_stack(None)


class Taps:
    """Hooks the forward at the places; every call's tensors are kept, by device (a DataParallel model runs on several).

    A tensor that is met where nothing is recorded yet becomes a leaf of the graph. That is right as long as nobody has
    used it before: for layers of several operations that is looked at once, when they are met for the first time.
    `careful` are the layers that are known to need copies of what they hold (see `known_layers`). In a plain forward
    (`is_plain`), the graph of which begins at the input, it may be the graph that shows places whose gradients are
    reduced (see `graph_places`). Where the graph `shows_constants`, what depends on no input is no signal: optional
    places do without it.
    """

    def __init__(
        self,
        places: Sequence[Place],
        from_the_start: bool,
        careful: AbstractSet[nn.Module],
        is_plain: bool = False,
        shows_constants: bool = False,
    ) -> None:
        self._calls: dict[Place, dict[torch.device, list[list[Tapped]]]] = {place: {} for place in places}
        self._from_the_start, self._careful, self._shows_constants = from_the_start, careful, shows_constants
        self._numbers: dict[tuple[Place, torch.device], Iterator[int]] = {}  # of all that passes a place
        self._met: list[tuple[Tensor, int]] = []
        self._marked: list[Tensor] = []
        self._orders = itertools.count()
        self._used_before: set[nn.Module] = set()
        # Those at which gradients are asked for.
        self.layers = {place.layer for place in places if place.layer is not None and place.differentiate}
        given_out = {place.layer for place in places if place.side != "attention"}  # nobody else holds weights
        unknown = (m for m in self.layers & given_out if KNOWN_LAYERS.gives_out_new_tensors(m) is None)
        self._unknown = set() if from_the_start else set(unknown)
        self._uses = _Uses() if self._unknown else None
        is_opened = any(place.side == "attention" for place in places)
        self._attention = AttentionSeen(self._attended) if is_opened else None
        in_graph = is_plain and from_the_start and any(place.layer is None for place in places)
        self._in_graph = [place for place in places if in_graph and _may_be_told(place)]

    def begin(self, undo: Undo, claim: Claim) -> None:
        """Registers the hooks, until all is undone. `claim` knows which calls in other threads are not this pass's."""
        self._claim = claim
        undo.callback(self._unmark)
        hidden = set(self._in_graph)
        for place in self._calls:
            if isinstance(place.layer, torch.jit.ScriptModule):
                raise InvalidValueError(
                    f"layer is a {type(place.layer).__name__}, and hooks do not run in scripted or traced code; "
                    "expected a layer of the Python module it was made from"
                )
            if place.layer is None or place in hidden:
                continue
            if place.side == "output":
                hook = functools.partial(self._after, place)
                undo.hook(place.layer, "register_forward_hook", hook, with_kwargs=True)
            elif place.side == "input":
                before = functools.partial(self._before, place)
                undo.hook(place.layer, "register_forward_pre_hook", before, with_kwargs=True)
        if self._uses is not None:
            self._uses.begin(undo)
        if self._attention is not None:
            self._attention.begin(undo)

    def _unmark(self) -> None:
        for t in self._marked:
            if t.is_leaf:
                t.requires_grad_(False)  # the graph keeps its edge; the tensor may be the user's

    def _after(
        self, place: Place, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        if self._claim.is_others(module):
            return output
        given = tensors_in((args, kwargs))
        return at_output(lambda values: self._tap(place, module, values, given), output)

    def _before(
        self, place: Place, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        if self._claim.is_others(module):
            return args, kwargs
        return at_input(lambda values: self._tap(place, module, values), args, kwargs)

    def _attended(self, running: list[nn.Module], logits: Tensor, weights: Tensor) -> Tensor:
        """Taps attention weights for the layers that are running."""
        for place in self._calls:
            if place.side == "attention" and any(module is place.layer for module in running):
                assert place.layer is not None
                (weights,) = self._tap(place, place.layer, [weights], [logits])
        return weights

    def _tap(self, place: Place, module: nn.Module, values: list[Any], given: list[Tensor] | None = None) -> list[Any]:
        """Taps each floating point tensor and hands it on, or a clone. `given`: what a layer's output was made from."""
        chosen = tappable(place, values)
        if not chosen:
            if any(isinstance(value, PackedSequence) for value in values):
                raise InvalidValueError(
                    f"the {place.side} of layer {type(place.layer).__name__} is a packed sequence, in which examples "
                    "and steps share one dimension; expected padded sequences: take the layer before "
                    "pack_padded_sequence, or one behind pad_packed_sequence, or hand the recurrent layer padded ones"
                )
            raise InvalidTypeError(
                f"the {place.side} of layer {type(place.layer).__name__} is {_kinds(values)}; expected a floating "
                "point tensor or a tuple of them: choose a layer inside it, or a neighbour"
            )
        handed, order = list(values), next(self._orders)
        tapped, device = [], values[chosen[0]].device
        for i, number in zip(chosen, self._numbers.setdefault((place, device), itertools.count())):
            if self._shows_constants and place.optional and not values[i].requires_grad:
                continue
            if place.differentiate:
                self._notice_earlier_use(place, module, values[i], given or [])
                one, handed[i] = self._mark(values[i], place, given, order)
            else:
                one = Tapped(plain(values[i].detach().clone()), None, order)
            tapped.append(one._replace(number=number) if place.optional else one)
        # Replicas run in threads of their own: each of these steps is one that Python does not interrupt.
        self._calls[place].setdefault(device, []).append(tapped)
        return handed

    def _notice_earlier_use(self, place: Place, module: nn.Module, t: Tensor, given: list[Tensor]) -> None:
        if self._from_the_start or place.layer is None or place.side == "attention":
            return
        if self._uses is not None and t._cdata in self._uses.used:
            self._unknown.discard(place.layer)  # what was recorded this time, in company, may not be the next time
        elif not gives_out_its_input(module, t, given):
            return
        if not t.requires_grad:
            self._used_before.add(place.layer)

    def _mark(self, t: Tensor, place: Place, given: list[Tensor] | None, order: int) -> tuple[Tapped, Tensor]:
        """Makes the very tensor, not an alias, part of the graph: whatever else uses it belongs to its derivative.

        What follows may get a clone, so that work in place does no harm to the value, or to the graph below. At outputs
        that is where nobody else can hold the tensor: behind single operations, an in-place ReLU say. (The ends of
        blocks and stages are hardly ever overwritten, and large: they are handed on as they are, unless they have been
        found to be.) A layer's input may be used by others later, so it must turn out not to work in place on it.
        """
        careful = place.layer in self._careful
        with torch._C.DisableTorchFunctionSubclass():
            if not t.requires_grad:
                self._marked.append(t)
                t.requires_grad_()
            edge = gradient_edge(t)
            is_view = t._is_view()
            is_copied = careful and place.value
            if given is None:
                is_cloned = place.value and not careful
            elif any(_share_storage(t, one) for one in given):
                is_cloned = False
            else:
                is_cloned = (_has_no_parts(place) or (careful and is_view)) and (place.value or t.is_leaf or is_view)
            tapped = Tapped(plain(t.detach().clone() if is_copied else t.detach()), edge, order)
        if is_cloned:
            with torch.enable_grad():  # the model may not record here, but does so later on
                handed = t.clone()
            if given is not None:
                return tapped, handed
            self._met.append((handed, handed._version))
            return tapped._replace(value=plain(handed.detach())), handed
        if is_view or (place.value and not is_copied):
            self._met.append((t, t._version))
        return tapped, t

    def find(self, output: Any) -> set[nn.Module]:
        """Finds in the graph that leads to the output what no hook has met, and returns the layers that it does not
        show."""
        layers = {place.layer for place in self._in_graph if place.layer is not None}
        found = outputs_of(layers, output) if layers else {}
        for place in self._in_graph:
            assert place.layer is not None
            for edge, like in found.get(place.layer, ()):
                self._calls[place].setdefault(like.device, []).append([Tapped(like, edge)])
        return layers - found.keys()

    def misjudged(self) -> set[nn.Module]:
        """Returns the layers that need care this pass did not take: its tensors there are not to be trusted."""
        overwritten = any(t._version != version for t, version in self._met)
        return self._used_before or (self.layers if overwritten else set())

    def collect(
        self, leaves: list[Tensor], models: tuple[nn.Module, ...], device_ids: list[int] | None
    ) -> dict[Place, list[list[Tapped]]]:
        """Returns the tensors of the chosen call at each place, each with its parts in the order of the batch."""
        KNOWN_LAYERS.learn_plain(self._unknown)
        found: dict[Place, list[list[Tapped]]] = {}
        for place, by_device in self._calls.items():
            if place.layer is None:
                found[place] = [[Tapped(plain(t.detach()), gradient_edge(t))] for t in leaves]
                continue
            if not by_device:
                if place.optional:
                    continue
                if self._attention is not None and place.side == "attention":
                    raise InvalidValueError(no_attention(place.layer, models, list(self._attention.layers)))
                raise InvalidValueError(never_ran(place, models))
            devices = device_order(by_device, device_ids)
            if place.optional:
                parts = [[tapped for call in by_device[device] for tapped in call] for device in devices]
            else:
                parts = [chosen_call(place, by_device[device], models) for device in devices]
            found[place] = [list(column) for column in zip(*parts)]
        return found


def _may_be_told(place: Place) -> bool:
    layer = place.layer
    return place.reduce is not None and layer is not None and may_be_told(layer) and KNOWN_LAYERS.is_told(layer)


def _share_storage(a: Tensor, b: Tensor) -> bool:
    return bool(torch._C._is_alias_of(a, b))  # type: ignore[attr-defined]


def _has_no_parts(place: Place) -> bool:
    return place.layer is None or not place.layer._modules


def gradient_edge(t: Tensor) -> GradientEdge:
    """Returns where in the graph a tensor's gradient arrives; that of a subclass would be a view's."""
    with torch._C.DisableTorchFunctionSubclass():
        if torch.is_grad_enabled():
            return get_gradient_edge(t)
        with torch.enable_grad():  # for torch before 2.4
            return get_gradient_edge(t)


def tappable(place: Place, values: Sequence[Any]) -> list[int]:
    """Returns which values of a layer's input or output are of interest: tensors of floating point numbers.

    Of a recurrent layer's the first alone: its initial and final states have no positions.
    """
    if isinstance(place.layer, nn.RNNBase):
        values = values[:1]
    return [i for i, t in enumerate(values) if isinstance(t, Tensor) and t.is_floating_point()]


def _kinds(values: list[Any]) -> str:
    """Returns what a layer gives that no map can be made of."""
    return ", ".join(_kind(v) for v in values) or "nothing"


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a tensor of {'complex numbers' if value.is_complex() else value.dtype}"


def output_values(output: Any) -> list[Any]:
    """Returns what a layer gives out."""
    return list(output) if isinstance(output, (tuple, list)) else [output]


def at_output(change: Change, output: Any) -> Any:
    """Returns a layer's output with other values in it: a tensor, a tuple, a named tuple or a list."""
    values = change(output_values(output))
    if not isinstance(output, (tuple, list)):
        return values[0]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


def input_values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Returns what a layer is given: by position, or by name where no tensor comes by position."""
    return list(args) if _come_by_position(args, kwargs) else list(kwargs.values())


def at_input(change: Change, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns a layer's arguments with other values in them."""
    values = change(input_values(args, kwargs))
    return (tuple(values), kwargs) if _come_by_position(args, kwargs) else (args, dict(zip(kwargs, values)))


def _come_by_position(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return not kwargs or any(isinstance(value, Tensor) for value in args)


def device_order(by_device: dict[torch.device, Any], device_ids: list[int] | None) -> list[torch.device]:
    """Returns the devices in the order of the batch's parts."""
    if device_ids is None:
        return list(by_device)
    return sorted(by_device, key=lambda device: device_ids.index(device.index) if device.index in device_ids else -1)


def chosen_call(place: Place, calls: list[list[Tapped]], models: tuple[nn.Module, ...]) -> list[Tapped]:
    """Returns the tensors of the call that a place asks for, or our error."""
    count = len(calls)
    if place.call is None:
        if count > 1:
            what, why = (
                ("attention in layer", "") if place.side == "attention" else ("layer", " (its weights are shared)")
            )
            inner = "a layer inside of it (attention_layers(model, inputs) lists them), or " * (not why)
            raise InvalidValueError(
                f"{what} {describe(place.layer, models)} ran {count} times in one forward{why}; "
                f"expected {inner}one call: choose which with call=0 ... call={count - 1} (or call=-1 for the last)"
            )
        return calls[0]
    if not -count <= place.call < count:
        name = describe(place.layer, models)
        raise InvalidValueError(
            f"call is {place.call}, but layer {name} ran {count} times; expected {-count} to {count - 1}"
        )
    return calls[place.call]


def never_ran(place: Place, models: tuple[nn.Module, ...]) -> str:
    """Returns the error for a layer that the forward has not called."""
    name = describe(place.layer, models)
    inside = any(place.layer is module for model in models for module in model.modules())
    if not inside:
        why = "it is not part of the model that forward_func calls (another copy of the model?)"
    elif any(isinstance(module, torch.jit.ScriptModule) for model in models for module in model.modules()):
        why = "the model is scripted or traced, and hooks do not run inside it: use the Python module it was made from"
    elif any(isinstance(module, torch.fx.GraphModule) for model in models for module in model.modules()):
        why = (
            "the model is a graph (torch.fx, torch.export), in which containers do not run: choose the last layer in "
            "it that does, or take the module that was traced, or torch.export.unflatten"
        )
    else:
        why = (
            "the forward of its parent uses its weights without calling it, skips it, or was compiled: "
            "choose its parent or a neighbour, or pass the model before torch.compile"
        )
    return f"layer {name} never ran in the forward; {why}"
