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
from torch.utils._python_dispatch import TorchDispatchMode

from captum_extract_aggregate.claims import Claim
from captum_extract_aggregate.dimensions import Dims, Watch
from captum_extract_aggregate.graph import nodes_below
from captum_extract_aggregate.layers import checked_inputs, describe
from captum_extract_aggregate.layout import Facts, Surroundings, image_size, views_unfolded
from captum_extract_aggregate.maps import are_tame, magnitudes, on_cpu, plain
from captum_extract_aggregate.operations import tensors_in
from captum_extract_aggregate.state import prepared, random_state, set_modes, uncompiled, without_autocast
from captum_extract_aggregate.targets import Target, select_scores
from captum_extract_aggregate.undo import Undo

Tensors = tuple[Tensor, ...]
Found = TypeVar("Found")
Seed = Callable[[Tensor], Tensor]
Within = Callable[[Undo], object]
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
        with Undo() as undo, undo:
            set_modes(undo, grad=True)
            without_autocast(undo)
            random_state(undo, self.inputs)
            scores = select_scores(self.output, target)
            self._check_scores(scores)
            with around(scores):
                gradients = self._backward(scores, seed(scores.detach()), retain)
            tame = {place: tuple(self._is_tame(g, place) for g in found) for place, found in gradients.items()}
        shown = (scores.detach(), self._activations, gradients, self._order)
        return Evidence(*shown, self.inputs, self.models, tame, self._lasting, None, self._look, self._facts)

    def leads_to(self, tensor: Tensor) -> bool:
        """Whether a tensor of the graph was computed from every place (or is tapped there)."""
        below = set(nodes_below([gradient_edge(tensor).node]))
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
        bad = [i for i, s in enumerate(scores.tolist()) if not math.isfinite(s)] if on_cpu(scores) else []
        if bad:
            raise ValueError(
                f"the explained score is NaN or infinite for example {', '.join(map(str, bad[:10]))}; expected finite "
                "numbers: check the inputs (torch.isfinite(x).all()), the weights, and the range of half precision; of "
                "actions that a mask rules out (-inf) take another target"
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
        return tuple(_joined([torch.zeros_like(x) if g is None else plain(g) for x, g in parts]) for parts in tensors)

    def _is_tame(self, g: Tensor, place: Place) -> bool:
        """Our error for a gradient that is not finite; looked for on the CPU alone, as in `_check_scores`."""
        if not on_cpu(g) or not g.numel():
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
    within: Within | None = None,
    from_the_start: bool = False,
) -> Recording:
    """One forward of `forward_func`, tapped at `places`. The model and the inputs are left as they were.

    The forward runs within what `within` begins (afresh if it has to run a second time), until that is undone. With
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
    layers = {place.layer for place in places if place.layer is not None and place.differentiate}
    while True:  # every turn knows one more layer
        start = from_the_start or any(layer in _CAREFUL for layer in layers)
        try:
            return _forward(forward_func, tensors, places, extra, device_ids, within, start)
        except _UsedBeforeError as error:
            _CAREFUL.update(error.layers)
        except _OverwrittenError as error:
            if all(layer in _CAREFUL for layer in layers):
                raise ValueError(
                    "the model works in place on a tensor that does not come from its inputs, or on a view of another, "
                    "at one of the layers; expected other layers, or a model that leaves such tensors as they are"
                ) from error
            _CAREFUL.update(layers)


def _forward(
    forward_func: Callable[..., Any],
    tensors: Tensors,
    places: list[Place],
    extra: tuple[Any, ...],
    device_ids: list[int] | None,
    within: Within | None,
    from_the_start: bool,
) -> Recording:
    # Of integer inputs (token indices) the graph can only begin at the weights.
    freeze = None if from_the_start and not any(t.is_floating_point() for t in tensors) else True
    with Undo() as modes, modes:
        set_modes(modes, grad=True)
        leaves = [t.detach().clone().requires_grad_(from_the_start and t.is_floating_point()) for t in tensors]
        taps = _Taps(places, from_the_start)
        layers = {place.layer for place in places} - {None}
        with _explained_failure(), Undo() as undo, undo:
            claim = prepared(undo, forward_func, tensors, freeze, layers if within is None else None, layers)
            taps.begin(undo, claim)
            if within is not None:
                within(undo)
            output = forward_func(*(t.clone() if t.requires_grad else t for t in leaves), *extra)
            if isinstance(output, Tensor):
                with torch._C.DisableTorchFunctionSubclass():
                    output = plain(output).view_as(output)  # a tapped tensor itself stops requiring a gradient soon
        found = taps.collect(leaves, tuple(claim.models), device_ids)
    look = functools.partial(_look, forward_func, tensors, places, extra)
    return Recording(output, found, tuple(map(plain, tensors)), tuple(claim.models), look)


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
    with Undo() as undo, undo:
        set_modes(undo, grad=False)
        prepared(undo, forward_func, tensors, False, layers, layers - {None})
        for place in places:
            if place.layer is not None and place.side == "output":
                undo.hook(place.layer, "register_forward_hook", functools.partial(after, place))
            elif place.layer is not None:
                hook = functools.partial(before, place)
                undo.hook(place.layer, "register_forward_pre_hook", hook, with_kwargs=True)
        watch.__enter__()  # left with this thread's other function modes
        forward_func(*leaves, *extra)
    seen: Looks = {}
    for place, of_place in calls.items():
        if place.layer is None:
            seen[place] = [watch.dims(t) for t in leaves]
        elif of_place and (place.call is None or -len(of_place) <= place.call < len(of_place)):
            chosen = itertools.chain(*of_place) if place.optional else of_place[place.call or 0]
            seen[place] = [None if dims is None else watch.told(dims) for dims in chosen]
    return seen


# What passes have found out about layers, so that the next ones need not run the forward again. The tensors of careful
# layers have been used before they were given out (one of several outputs is computed from another, or a layer gives
# out the very tensor that it was given), or were overwritten afterwards: everything is recorded from the start, and
# what they hold is copied. (Overwriting is found by PyTorch's version counter, which does not see writing through
# `.data` or NumPy. The forward then runs once more; a model that changes buffers in eval mode has changed them twice.)
_CAREFUL: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_WATCHED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def _is_single_operation(layer: nn.Module) -> bool:
    """Whether nobody can have used what the layer gives out before it does."""
    return not layer._modules and type(layer).__module__.startswith("torch.nn.")


def gives_out_new_tensors(layer: nn.Module) -> bool | None:
    """Whether nothing uses a layer's tensors before it gives them out; None while no pass has looked."""
    if layer in _CAREFUL:
        return False
    return True if _is_single_operation(layer) or layer in _WATCHED else None


def gives_out_its_input(module: nn.Module, t: Tensor, given: Sequence[Tensor]) -> bool:
    """Whether an output is the very tensor that went in. An activation that works in place has made it another."""
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


class _UsedBeforeError(Exception):
    """Tensors at some layers were used before they were tapped, and nothing of that was recorded."""

    def __init__(self, layers: set[nn.Module]) -> None:
        super().__init__()
        self.layers = layers


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
                "a model with checkpointing switched off (gradient_checkpointing_disable(), "
                "set_grad_checkpointing(False), memory_efficient=False, or whatever its own switch is called): "
                f"{text.splitlines()[0]}"
            ) from error
        if "modified by an inplace operation" in text:
            raise ValueError(
                "the model overwrites a tensor in place that its own gradient needs, so it cannot be differentiated; "
                f"expected a model that could be trained ({text.splitlines()[0]})"
            ) from error
        raise


class _Taps:
    """Forward hooks at the places; every call's tensors are kept, by device (a DataParallel model runs on several).

    A tensor that is met where nothing is recorded yet becomes a leaf of the graph. That is right as long as nobody has
    used it before: for layers of several operations that is looked at once, when they are met for the first time.
    """

    def __init__(self, places: Sequence[Place], from_the_start: bool) -> None:
        self._calls: dict[Place, dict[torch.device, list[list[_Tapped]]]] = {place: {} for place in places}
        self._from_the_start = from_the_start
        self._met: list[tuple[Tensor, int]] = []
        self._marked: list[Tensor] = []
        self._count = 0
        self._lock = threading.Lock()
        self._used_before: set[nn.Module] = set()
        layers = {place.layer for place in places if place.layer is not None and place.differentiate}
        self._unknown = set() if from_the_start else {m for m in layers if gives_out_new_tensors(m) is None}
        self._uses = _Uses() if self._unknown else None

    def begin(self, undo: Undo, claim: Claim) -> None:
        """Registers the hooks, until all is undone. `claim` knows which calls in other threads are not this pass's."""
        self._claim = claim
        undo.callback(self._unmark)
        for place in self._calls:
            if isinstance(place.layer, torch.jit.ScriptModule):
                raise ValueError(
                    f"layer is a {type(place.layer).__name__}, and hooks do not run in scripted or traced code; "
                    "expected a layer of the Python module it was made from"
                )
            if place.layer is None:
                continue
            if place.side == "output":
                hook = functools.partial(self._after, place)
                undo.hook(place.layer, "register_forward_hook", hook, with_kwargs=True)
            else:
                before = functools.partial(self._before, place)
                undo.hook(place.layer, "register_forward_pre_hook", before, with_kwargs=True)
        if self._uses is not None:
            self._uses.begin(undo)

    def _unmark(self) -> None:
        for t in self._marked:
            if t.is_leaf:
                t.requires_grad_(False)  # the graph keeps its edge; the tensor may be the user's

    def _after(
        self, place: Place, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        if self._claim.is_others(module):
            return output
        values = list(output) if isinstance(output, (tuple, list)) else [output]
        return like(output, self._tap(place, module, values, tensors_in((args, kwargs))))

    def _before(
        self, place: Place, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        if self._claim.is_others(module):
            return args, kwargs
        if any(isinstance(value, Tensor) for value in args):
            return tuple(self._tap(place, module, list(args))), kwargs
        return args, dict(zip(kwargs, self._tap(place, module, list(kwargs.values()) or list(args))))

    def _tap(self, place: Place, module: nn.Module, values: list[Any], given: list[Tensor] | None = None) -> list[Any]:
        """Taps each floating point tensor and hands it on, or a clone. `given`: what a layer's output was made from."""
        chosen = _tappable(place, values)
        if not chosen:
            if any(isinstance(value, PackedSequence) for value in values):
                raise ValueError(
                    f"the {place.side} of layer {type(place.layer).__name__} is a packed sequence, in which examples "
                    "and steps share one dimension; expected padded sequences: take the layer before "
                    "pack_padded_sequence, or one behind pad_packed_sequence, or hand the recurrent layer padded ones"
                )
            raise TypeError(
                f"the {place.side} of layer {type(place.layer).__name__} is {_kinds(values)}; expected a floating "
                "point tensor or a tuple of them: choose a layer inside it, or a neighbour"
            )
        handed = list(values)
        with self._lock:
            tapped = []
            for i in chosen:
                if place.differentiate:
                    self._notice_earlier_use(place, module, values[i], given or [])
                one, handed[i] = self._mark(values[i], place, given) if place.differentiate else self._value(values[i])
                tapped.append(one)
            self._count += 1
            self._calls[place].setdefault(tapped[0].value.device, []).append(tapped)
        return handed

    def _notice_earlier_use(self, place: Place, module: nn.Module, t: Tensor, given: list[Tensor]) -> None:
        if self._from_the_start or place.layer is None:
            return
        if self._uses is not None and t._cdata in self._uses.used:
            self._unknown.discard(place.layer)  # what was recorded this time, in company, may not be the next time
        elif not gives_out_its_input(module, t, given):
            return
        if not t.requires_grad:
            self._used_before.add(place.layer)

    def _mark(self, t: Tensor, place: Place, given: list[Tensor] | None) -> tuple[_Tapped, Tensor]:
        """Makes the very tensor, not an alias, part of the graph: whatever else uses it belongs to its derivative.

        What follows may get a clone, so that work in place does no harm to the value, or to the graph below. At outputs
        that is where nobody else can hold the tensor: behind single operations, an in-place ReLU say. (The ends of
        blocks and stages are hardly ever overwritten, and large: they are handed on as they are, unless they have been
        found to be.) A layer's input may be used by others later, so it must turn out not to work in place on it.
        """
        careful = place.layer in _CAREFUL
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
            tapped = _Tapped(plain(t.detach().clone() if is_copied else t.detach()), edge, self._count)
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

    def _value(self, t: Tensor) -> tuple[_Tapped, Tensor]:
        return _Tapped(plain(t.detach().clone()), None, self._count), t

    def collect(
        self, leaves: list[Tensor], models: tuple[nn.Module, ...], device_ids: list[int] | None
    ) -> dict[Place, list[list[_Tapped]]]:
        """The tensors of the chosen call at each place, each with its parts in the order of the batch."""
        if self._used_before:
            raise _UsedBeforeError(self._used_before)
        if any(t._version != version for t, version in self._met):
            raise _OverwrittenError
        _WATCHED.update(self._unknown)
        found: dict[Place, list[list[_Tapped]]] = {}
        for place, by_device in self._calls.items():
            if place.layer is None:
                found[place] = [[_Tapped(plain(t.detach()), gradient_edge(t))] for t in leaves]
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


def _share_storage(a: Tensor, b: Tensor) -> bool:
    return bool(torch._C._is_alias_of(a, b))  # type: ignore[attr-defined]


def _has_no_parts(place: Place) -> bool:
    return place.layer is None or not place.layer._modules


def gradient_edge(t: Tensor) -> GradientEdge:
    """Where in the graph a tensor's gradient arrives; that of a subclass would be a view's."""
    with torch.enable_grad(), torch._C.DisableTorchFunctionSubclass():  # the former for torch before 2.4
        return get_gradient_edge(t)


def _tappable(place: Place, values: Sequence[Any]) -> list[int]:
    """Which values of a layer's input or output are of interest: tensors of floating point numbers.

    Of a recurrent layer's the first alone: its initial and final states have no positions.
    """
    if isinstance(place.layer, nn.RNNBase):
        values = values[:1]
    return [i for i, t in enumerate(values) if isinstance(t, Tensor) and t.is_floating_point()]


def _kinds(values: list[Any]) -> str:
    """What a layer gives that no map can be made of."""
    return ", ".join(_kind(v) for v in values) or "nothing"


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a tensor of {'complex numbers' if value.is_complex() else value.dtype}"


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
