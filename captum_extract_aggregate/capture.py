"""One forward and one backward: activations and gradients at many places, for many targets.

`record` runs the forward once, with every parameter frozen and every place tapped. The first tensor of each path that
is asked for becomes a leaf of the autograd graph, so nothing below it is recorded, and no layer saves anything for the
gradient of its weights. When `record` returns, the model already is as it was; `Recording.evidence` then runs one
backward per target from the recorded output down to the taps and no further.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from captum_extract_aggregate.layers import describe, model_of
from captum_extract_aggregate.layout import Surroundings
from captum_extract_aggregate.targets import Target, select_scores

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Place:
    """A place in a network: a layer's output or input, or (`layer=None`) the network's own input.

    `differentiate=False` asks for the activation alone; `call` picks one of several calls of the layer in a forward.
    """

    layer: nn.Module | None
    side: str = "output"
    differentiate: bool = True
    call: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What one forward and one target's backward showed: per place, the detached activations and gradients."""

    scores: Tensor
    activations: dict[Place, Tensors]
    gradients: dict[Place, Tensors]
    inputs: Tensors
    models: tuple[nn.Module, ...]

    def surroundings(self, place: Place) -> Surroundings:
        """What is known about a place, for telling its layout."""
        image = next((tuple(t.shape[2:]) for t in self.inputs if t.ndim > 3), ())
        name = describe(place.layer, self.models)
        return Surroundings(name, place.layer, self.models, self.inputs[0].shape[0], image)


class Recording:
    """A finished forward: its output, still attached to the tapped tensors, and nothing of the model."""

    def __init__(self, output: Any, taps: dict[Place, Tensors], inputs: Tensors, models: tuple[nn.Module, ...]) -> None:
        self.output = output
        self.inputs = inputs
        self.models = models
        self._taps = taps
        self._activations = {place: tuple(t.detach() for t in tensors) for place, tensors in taps.items()}

    def evidence(self, targets: Sequence[Target]) -> Iterator[Evidence]:
        """For each target one backward; the graph is freed with the last."""
        for i, target in enumerate(targets):
            with torch.inference_mode(False), torch.enable_grad(), _without_autocast():
                scores = select_scores(self.output, target)
                self._check_scores(scores)
                with _random_state(self.inputs):
                    gradients = self._backward(scores, retain=i + 1 < len(targets))
            yield Evidence(scores.detach(), self._activations, gradients, self.inputs, self.models)

    def _check_scores(self, scores: Tensor) -> None:
        batch = self.inputs[0].shape[0]
        if len(scores) == 1 and batch > 1:
            raise ValueError(
                f"forward_func returned one score for a batch of {batch}; expected one per example, shape ({batch},), "
                "so that each example's map is its own"
            )
        # Elsewhere a check would make the host wait for the device: there the maps say NaN (see attr/base.py).
        if scores.device.type == "cpu" and not torch.isfinite(scores).all():
            bad = torch.nonzero(~torch.isfinite(scores)).flatten().tolist()
            raise ValueError(
                f"the explained score is NaN or infinite for example {', '.join(map(str, bad[:10]))}; expected finite "
                "numbers: check the inputs (torch.isfinite(x).all()), the weights, and the range of half precision"
            )

    def _backward(self, scores: Tensor, retain: bool) -> dict[Place, Tensors]:
        wanted = [(place, t) for place, tensors in self._taps.items() if place.differentiate for t in tensors]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if scores.requires_grad and wanted:
            found = torch.autograd.grad(
                scores,
                [t for _, t in wanted],
                grad_outputs=torch.ones_like(scores),
                retain_graph=retain,
                allow_unused=True,
            )
        gradients: dict[Place, list[Tensor | None]] = {}
        for (place, _), gradient in zip(wanted, found):
            gradients.setdefault(place, []).append(gradient)
        return {place: self._fill(place, found) for place, found in gradients.items()}

    def _fill(self, place: Place, found: list[Tensor | None]) -> Tensors:
        """Zeros for those of a layer's several outputs that the score does not use; our error if it uses none."""
        if all(gradient is None for gradient in found):
            raise ValueError(
                f"the explained score does not depend on {describe(place.layer, self.models)} in a differentiable way; "
                "expected a layer between the input and the output (not an auxiliary head), and a forward_func that "
                "neither detaches, nor runs under torch.no_grad, nor takes an argmax"
            )
        return tuple(torch.zeros_like(t) if g is None else g for g, t in zip(found, self._taps[place]))


def record(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    places: Iterable[Place],
    additional_forward_args: Any = None,
    device_ids: list[int] | None = None,
) -> Recording:
    """One forward of `forward_func`, tapped at `places`. The model and the inputs are left as they were."""
    places = list(dict.fromkeys(places))
    tensors = _checked_inputs(inputs)
    extra = _format_additional_forward_args(additional_forward_args) or ()
    extra = tuple(t.clone() if isinstance(t, Tensor) and t.is_inference() else t for t in extra)
    forward_func = _uncompiled(forward_func)
    at_input = any(place.layer is None for place in places)
    # A layer's input may have been used by other layers before this one ran. Its derivative runs through them too, so
    # for that side the graph has to begin at the network's input.
    from_the_start = at_input or any(p.side == "input" and p.differentiate for p in places)
    differentiable = any(t.is_floating_point() for t in tensors)
    if at_input and not all(t.is_floating_point() for t in tensors):
        raise TypeError(
            f"layer=None asks for maps at the input, but inputs hold {[str(t.dtype) for t in tensors]}; expected "
            "floating point tensors (for token indices choose the embedding layer)"
        )
    # Of integer inputs (token indices) the graph can only begin at the embedding's weights.
    freeze = differentiable or not from_the_start
    with torch.inference_mode(False), torch.enable_grad():
        leaves = tuple(t.detach().clone().requires_grad_(from_the_start and t.is_floating_point()) for t in tensors)
        taps = _Taps(places)
        with _prepared(forward_func, freeze) as models, taps, _random_state(tensors):
            output = forward_func(*(t.clone() if t.requires_grad else t for t in leaves), *extra)
    found = taps.collect(leaves, tuple(models), device_ids or getattr(forward_func, "device_ids", None))
    return Recording(output, found, tensors, tuple(models))


def _checked_inputs(inputs: Any) -> Tensors:
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    for t in tensors:
        if not isinstance(t, Tensor):
            raise TypeError(
                f"inputs is or holds a {type(t).__name__}; expected a tensor or a tuple of tensors, batch first"
            )
        if t.ndim == 0 or t.shape[0] == 0:
            raise ValueError(f"inputs holds a tensor of shape {tuple(t.shape)}; expected at least one example")
    if len({t.shape[0] for t in tensors}) > 1:
        raise ValueError(f"inputs hold batches of {[t.shape[0] for t in tensors]}; expected one batch size")
    if not tensors:
        raise ValueError("inputs is empty; expected a tensor or a tuple of tensors")
    return tensors


class _Taps(contextlib.AbstractContextManager["_Taps"]):
    """Forward hooks at the places; every call's tensors are kept, by device (a DataParallel model runs on several)."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._calls: dict[Place, dict[torch.device, list[Tensors]]] = {place: {} for place in places}
        self._versions: list[tuple[Place, Tensor, int]] = []
        self._lock = threading.Lock()
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> _Taps:
        with contextlib.ExitStack() as registered:
            for place in self._places:
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

    def _after(self, place: Place, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        aliased = {t.data_ptr() for t in args if isinstance(t, Tensor)}
        values = list(output) if isinstance(output, (tuple, list)) else [output]
        handed_on = self._tap(place, values, lambda t: _leaf(t.clone() if t.data_ptr() in aliased else t))
        return _like(output, handed_on)

    def _before(
        self, place: Place, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        keys = [] if any(isinstance(a, Tensor) for a in args) else list(kwargs)
        values = [kwargs[key] for key in keys] if keys else list(args)
        tap = _mark if place.differentiate else (lambda t: t.detach().clone())
        handed_on = self._tap(place, values, tap, clone=place.differentiate)
        return (args, {**kwargs, **dict(zip(keys, handed_on))}) if keys else (tuple(handed_on), kwargs)

    def _tap(self, place: Place, values: list[Any], tap: Callable[[Tensor], Tensor], clone: bool = True) -> list[Any]:
        """Taps each floating point tensor. What is handed on is a clone: an in-place operation that follows then
        cannot spoil what was captured."""
        chosen = [i for i, t in enumerate(values) if isinstance(t, Tensor) and t.is_floating_point()]
        if not chosen:
            kinds = ", ".join(type(v).__name__ for v in values) or "nothing"
            raise TypeError(
                f"the {place.side} of layer {type(place.layer).__name__} is {kinds}; expected a floating point tensor "
                "or a tuple of them: choose a layer inside it"
            )
        tapped = tuple(tap(values[i]) for i in chosen)
        with self._lock:
            self._calls[place].setdefault(tapped[0].device, []).append(tapped)
            self._versions += [(place, t, t._version) for t in tapped]
        handed_on = list(values)
        if clone:
            for i, t in zip(chosen, tapped):
                handed_on[i] = t.clone()
        return handed_on

    def collect(
        self, leaves: Tensors, models: tuple[nn.Module, ...], device_ids: list[int] | None
    ) -> dict[Place, Tensors]:
        """The tensors of the chosen call at each place; several devices' parts are joined in the order of the batch."""
        for place, t, version in self._versions:
            if t._version != version:
                raise ValueError(
                    f"the {place.side} of layer {describe(place.layer, models)} is overwritten in place by something "
                    "else that holds it, so its value is lost; expected a layer whose tensor stays as it is: take the "
                    f"{'output of the layer before' if place.side == 'input' else 'input of the layer after'} it"
                )
        found: dict[Place, Tensors] = {}
        for place, by_device in self._calls.items():
            if place.layer is None:
                found[place] = leaves
                continue
            if not by_device:
                raise ValueError(_never_ran(place, models))
            parts = [_chosen_call(place, by_device[device], models) for device in _device_order(by_device, device_ids)]
            found[place] = parts[0] if len(parts) == 1 else _joined(parts)
        return found


def _leaf(t: Tensor) -> Tensor:
    """`t` itself where it is part of the graph already; else a leaf from which the graph begins."""
    return t if t.requires_grad else t.detach().requires_grad_()


def _mark(t: Tensor) -> Tensor:
    """Marks the very tensor, not an alias: whatever else uses it belongs to its derivative."""
    return t if t.requires_grad else t.requires_grad_()


def _like(output: Any, values: list[Any]) -> Any:
    if not isinstance(output, (tuple, list)):
        return values[0]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


def _device_order(by_device: dict[torch.device, Any], device_ids: list[int] | None) -> list[torch.device]:
    if device_ids is None:
        return list(by_device)
    return sorted(by_device, key=lambda device: device_ids.index(device.index) if device.index in device_ids else -1)


def _joined(parts: list[Tensors]) -> Tensors:
    home = parts[0][0].device
    return tuple(torch.cat([t.to(home) for t in column]) for column in zip(*parts))


def _chosen_call(place: Place, calls: list[Tensors], models: tuple[nn.Module, ...]) -> Tensors:
    name, count = describe(place.layer, models), len(calls)
    if place.call is None:
        if count > 1:
            raise ValueError(
                f"layer {name} ran {count} times in one forward (its weights are shared); expected one call: choose "
                f"which with call=0 ... call={count - 1} (or call=-1 for the last)"
            )
        return calls[0]
    if not -count <= place.call < count:
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


# --- The model during the forward ------------------------------------------------------------------------------------


def _uncompiled(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The eager function behind `torch.compile`: compiled code runs no hooks."""
    for attribute in ("_orig_mod", "_torchdynamo_orig_callable"):
        forward_func = getattr(forward_func, attribute, forward_func)
    return forward_func


@contextlib.contextmanager
def _prepared(forward_func: Callable[..., Any], freeze: bool) -> Iterator[list[nn.Module]]:
    """Freezes the parameters of every model that runs within, and gives their list; all is undone at the end.

    A model that `forward_func` merely calls is met, and frozen, when it begins to run.
    """
    models: list[nn.Module] = []
    seen: set[nn.Module] = set()
    frozen: list[nn.Parameter] = []

    def prepare(model: nn.Module) -> None:
        models.append(model)
        _warn_of_dropout(model)
        for module in model.modules():
            seen.add(module)
            _check_mode(module, models)
            if freeze:
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad:
                        frozen.append(parameter)
                        parameter.requires_grad_(False)

    def meet(module: nn.Module, args: Any) -> None:
        if module not in seen:
            prepare(module)

    with contextlib.ExitStack() as stack:

        @stack.callback
        def thaw() -> None:
            for parameter in frozen:
                parameter.requires_grad_(True)

        model = model_of(forward_func)
        if model is not None:
            prepare(model)
            if any(_is_compiled(module) for module in model.modules()) and hasattr(torch.compiler, "set_stance"):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
        else:
            stack.callback(register_module_forward_pre_hook(meet).remove)
        yield models


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _check_mode(module: nn.Module, models: Sequence[nn.Module]) -> None:
    if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise ValueError(
            f"{describe(module, models)} ({type(module).__name__}) is in train mode, where examples of a batch mix and "
            "running statistics change; expected eval mode: call model.eval() first"
        )


def _warn_of_dropout(model: nn.Module) -> None:
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0 for m in model.modules()):
        warnings.warn(
            "dropout is active, so the map is of a random part of the model; call model.eval() for the map of the "
            "model. (The random state is restored after each call: reseed between calls to sample dropout masks.)",
            stacklevel=2,
        )


@contextlib.contextmanager
def _random_state(tensors: Tensors) -> Iterator[None]:
    """A pass that draws random numbers (dropout in train mode) leaves the generators as they were."""
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda" and t.device.index is not None})
    with torch.random.fork_rng(devices):
        yield


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    """Backward and map arithmetic run in the precision of what was captured, whatever the caller's autocast says."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
