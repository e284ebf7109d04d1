"""The model during a pass: frozen, eager, checked, and afterwards as it was."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.seeding import random_state, states_of_generators
from captum_extract_aggregate._common.undo import ProcessWide, Undo, hook_everywhere
from captum_extract_aggregate._engine.checkpoints import checkpoints_as_written
from captum_extract_aggregate._engine.claims import Claim
from captum_extract_aggregate._engine.gradient_layout import lay_out
from captum_extract_aggregate._engine.layers import as_written, describe, model_of
from captum_extract_aggregate._engine.model_parts import ModelParts, unseen
from captum_extract_aggregate._engine.session import Session, session_of
from captum_extract_aggregate._engine.surroundings import Facts

P = ParamSpec("P")
Found = TypeVar("Found")


def uncompiled(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the eager function behind `torch.compile`: compiled code runs no hooks."""
    if isinstance(forward_func, nn.Module):
        return as_written(forward_func)
    return getattr(forward_func, "_torchdynamo_orig_callable", forward_func)  # type: ignore[no-any-return]


def prepare_pass(
    undo: Undo,
    forward_func: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    freeze: bool | None,
    hooked: Collection[nn.Module | None] | None = None,
    layers: Collection[nn.Module | None] = (),
) -> Preparation:
    """Freezes the parameters of every model that this thread runs from now on, and claims it, until all is undone.

    A model that `forward_func` merely calls is met, and frozen, when it begins to run. `freeze`: None makes parameters
    require gradients instead, False leaves them as they are. `hooked`: the only modules that somebody watches; left
    out, any may be. `layers`: those that are explained. A model that runs in other threads alone belongs to the call if
    it holds one of them.
    """
    preparation = Preparation(undo, tensors, freeze, hooked, layers)
    random_state(undo, tensors)
    checkpoints_as_written(undo)
    model = model_of(forward_func)
    if model is not None:
        preparation.prepare(model)
    preparation.watch(model)
    return preparation


class Preparation:
    """Prepares the models of one pass, each when it is met; `prepare_pass` says what the arguments are."""

    def __init__(
        self,
        undo: Undo,
        tensors: tuple[Tensor, ...],
        freeze: bool | None,
        hooked: Collection[nn.Module | None] | None,
        layers: Collection[nn.Module | None],
    ) -> None:
        self.undo, self.tensors, self.freeze, self.hooked, self.layers = undo, tensors, freeze, hooked, layers
        self.batch = len(tensors[0])
        self.claim = Claim(undo, runs=True)
        self.seen = self.claim.modules
        self.strangers = set[nn.Module]()
        self.session: Session | None = None
        self.met_others = self.drew = False

    def prepare(self, model: nn.Module) -> None:
        """Claims, checks and freezes the modules of a model that have not been met yet."""
        session = None if self.seen else session_of(model)
        parts = ModelParts(unseen(model, self.seen)) if session is None else session.parts()
        self.session = session or self.session
        self.claim.add(model, parts.modules)
        for module in parts.batch_norms if self.batch > 1 else parts.training:
            check_batch_norm(module, self.claim.models, batch=self.batch)
        for module in parts.training:
            _keep_buffers(module, self.undo)
        if self.freeze is not False:
            _require_gradients(parts, not self.freeze, self.undo)
            if self.batch == 1 and self.hooked is None:  # of a plain pass the graph itself is looked at
                lay_out(parts.modules, self.undo)
        if parts.training:
            self.undo.callback(self._look_for_draws, states_of_generators(self.tensors))
        if parts.is_compiled:
            _make_eager(self.undo)
        if self.hooked is None or _must_run_in_parts(parts, self.hooked):
            without_fused_attention(self.undo)

    def watch(self, model: nn.Module | None) -> None:
        """Sees to it that whatever module runs is met, where it is not known that none but the model's own will."""
        if self.session is None or self.session.model is not model or self.session.must_watch():
            hook_everywhere(self.undo, self.meet)

    def finished(self) -> Claim:
        """Says that the forward has run to its end, and all is undone."""
        if self.drew:
            warnings.warn(
                "the model, or a part of it, is in train mode and draws random numbers (dropout, stochastic depth), so "
                "the map is of a random part of the model; call model.eval() for the map of the model. (The random "
                "state is restored after each call: reseed between calls to sample dropout masks.)",
                stacklevel=2,
            )
        if self.session is not None:
            self.session.learn(self.met_others)
        return self.claim

    def _look_for_draws(self, before: list[Tensor]) -> None:
        """Tells by the generators, before they are put back, whether the forward has drawn from them: modules that do
        have many names, and some are functions."""
        self.drew |= not all(map(torch.equal, before, states_of_generators(self.tensors)))

    def facts(self) -> Facts:
        """Returns what the models tell of layouts, which a session keeps."""
        models = tuple(self.claim.models)
        return Facts(models) if self.session is None or models != (self.session.model,) else self.session.facts

    def is_called(self, module: nn.Module) -> bool:
        """Tells whether a module that runs in another thread was called by this one's forward."""
        if module in self.strangers or all(layer in self.seen for layer in self.layers):
            return False
        inside = list(module.modules())
        if any(layer in inside for layer in self.layers if layer not in self.seen):
            return True
        self.strangers.update(inside)
        return False

    def meet(self, module: nn.Module, args: Any) -> None:
        """Prepares a module that begins to run, if it belongs to this pass."""
        is_here = threading.get_ident() == self.claim.thread
        if module in self.seen:
            if not is_here:
                self.met_others = True
                self.claim.check_training(module, bool(self.freeze))
            return
        self.met_others = True
        if self.claim.is_innermost() if is_here else self.is_called(module):
            self.prepare(module)


def _require_gradients(parts: ModelParts, value: bool, undo: Undo) -> None:
    """Sets the flag of all parameters that have another."""
    parameters = parts.having(requires_grad=not value)
    undo.callback(_set_requires_grad, parameters, not value)
    _set_requires_grad(parameters, value)


def _set_requires_grad(parameters: list[nn.Parameter], value: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(value)


def _keep_buffers(module: nn.Module, undo: Undo) -> None:
    """A module may update its buffers, at least in train mode (running statistics): they are put back."""
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_inference():  # which has no version
            undo.callback(module._buffers.__setitem__, name, buffer)
        elif buffer is not None:
            undo.callback(_put_back, module._buffers, name, buffer, buffer._version, buffer.clone())


def _put_back(held: dict[str, Any], name: str, t: Tensor, version: int, value: Tensor) -> None:
    held[name] = t
    if t._version != version:
        with torch.no_grad():
            t.copy_(value)


def check_batch_norm(module: nn.Module, models: list[nn.Module], batch: int) -> None:
    """Raises our error for a normalisation that mixes the examples of a batch."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return
    if module.training:
        raise InvalidValueError(
            f"{_name(module, models)} is in train mode, where examples of a batch mix and running statistics change; "
            "expected eval mode: call model.eval() first"
        )
    if module.running_mean is None and batch > 1:
        raise InvalidValueError(
            f"{_name(module, models)} has no running statistics (track_running_stats=False), so each example's score "
            "depends on the others of its batch; expected batches of one example"
        )


def _name(module: nn.Module, models: list[nn.Module]) -> str:
    return f"{describe(module, models)} ({type(module).__name__})"


def _make_eager(undo: Undo) -> None:
    """Compiled parts of a model run as they were written: compiled code runs no hooks."""
    if not hasattr(torch.compiler, "set_stance"):
        raise InvalidValueError(
            "the model is compiled, or holds a compiled part, whose layers cannot be reached before torch 2.6; "
            "expected the model before torch.compile"
        )
    _STANCE.keep(undo)
    torch.compiler.set_stance("force_eager")


def _must_run_in_parts(parts: ModelParts, hooked: Collection[nn.Module | None]) -> bool:
    """Tells whether a fused kernel would leave out a hooked module, or compute something else than the differentiable
    parts.

    PyTorch's transformer layers do the latter: zeros at padded positions, other sums for a mask of floats, their own
    arithmetic in place of a subclass's. Attention by itself does not.
    """
    return parts.has_transformers or any(part in hooked for m in parts.attention for part in m.children())


def without_fused_attention(undo: Undo) -> None:
    """Transformer layers call their parts, where hooks are, instead of one fused kernel."""
    _FUSED_ATTENTION.keep(undo)
    torch.backends.mha.set_fastpath_enabled(False)


def _stance() -> Any:
    from torch._dynamo import eval_frame  # which takes its time, and is there where something is compiled

    return eval_frame._stance


def _set_stance(stance: Any) -> None:
    from torch._dynamo import eval_frame

    eval_frame._set_stance(stance)


_FUSED_ATTENTION = ProcessWide(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled)
_STANCE = ProcessWide(_stance, _set_stance)


def keep_modes(undo: Undo) -> None:
    """This thread's grad mode and function modes come back, whatever is left of ours or (where an interrupt cuts short
    its contexts) of the model's."""
    undo.callback(torch.set_grad_enabled, torch.is_grad_enabled())
    if torch._C._is_torch_function_enabled():
        undo.callback(_see_functions)
    undo.callback(leave_function_modes, function_modes())


def _see_functions() -> None:
    """Function modes and tensor subclasses see what is called."""
    if not torch._C._is_torch_function_enabled():
        torch._C.DisableTorchFunctionSubclass().__exit__(None, None, None)  # of one that began when they did


def set_grad_mode(undo: Undo, enabled: bool) -> None:
    """Sets grad mode as asked for."""
    keep_modes(undo)
    torch.set_grad_enabled(enabled)


def set_modes(undo: Undo, grad: bool) -> None:
    """Sets grad mode as asked for, and leaves inference mode."""
    keep_modes(undo)
    if torch.is_inference_mode_enabled():
        guard = torch._C._InferenceMode(False)
        undo.callback(guard.__exit__, None, None, None)
        guard.__enter__()
    torch.set_grad_enabled(grad)


def without_gradients(function: Callable[P, Found]) -> Callable[P, Found]:
    """Works as `torch.no_grad()`, but an interrupt cannot leave grad mode off."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Found:
        with Undo() as undo, undo:
            set_grad_mode(undo, False)
            return function(*args, **kwargs)

    return run


def without_traces(function: Callable[..., Found], model: nn.Module | None, *args: Any, **kwargs: Any) -> Found:
    """Calls another's function, whose hooks on the model and modes of this thread do not outlast an interrupt."""
    held: list[dict[int, Any]] = []
    if model is not None and function.__module__.split(".")[0] != __name__.split(".")[0]:
        held = [hooks for module in model.modules() for hooks in _hooks_of(module)]
    finished: list[bool] = []
    with Undo() as undo, undo:
        keep_modes(undo)
        undo.callback(_drop_others, held, [set(hooks) for hooks in held], finished)
        result = function(*args, **kwargs)
        finished.append(True)
        return result


def _hooks_of(module: nn.Module) -> list[dict[int, Any]]:
    return [value for name, value in module.__dict__.items() if "_hooks" in name and isinstance(value, dict)]


def _drop_others(held: list[dict[int, Any]], before: list[set[int]], finished: list[bool]) -> None:
    if not finished:
        for hooks, keys in zip(held, before):
            for key in hooks.keys() - keys:
                hooks.pop(key, None)


def function_modes() -> int:
    """Returns how many `TorchFunctionMode`s this thread is in."""
    return torch._C._len_torch_function_stack()  # type: ignore[attr-defined, no-any-return]


def leave_function_modes(count: int) -> None:
    """Leaves function modes until there are as many as before."""
    while function_modes() > count:
        torch._C._pop_torch_function_stack()  # type: ignore[attr-defined]


def run_within(mode: TorchFunctionMode, function: Callable[..., Found], *args: Any, **kwargs: Any) -> Found:
    """Calls a function with a mode on that is off while it handles a call: what the function calls is handled, too.

    (`with mode:` would take a mode from an empty stack where an interrupt has cut PyTorch's own handling short.)
    """
    before = function_modes()
    mode.__enter__()
    try:
        return function(*args, **kwargs)
    finally:
        leave_function_modes(before)


def leave_transforms(undo: Undo) -> None:
    """At the end none of `torch.func`'s transforms goes on, which count how deep they are and forbid saved tensors'
    hooks; an interrupt can cut them short, too. (Unless the caller is in one.)"""
    if torch._C._functorch.peek_interpreter_stack() is None:
        if torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]
            undo.callback(torch._C._autograd._saved_tensors_hooks_enable)
        undo.callback(_leave_transforms)


def _leave_transforms() -> None:
    functorch: Any = torch._C._functorch
    while (innermost := functorch.peek_interpreter_stack()) is not None:
        is_vmap = innermost.key() == functorch.TransformType.Vmap
        functorch._vmap_decrement_nesting() if is_vmap else functorch._grad_decrement_nesting()


def exchange(undo: Undo, t: Tensor, value: Tensor) -> None:
    """Gives a parameter other numbers, until its own come back."""
    undo.callback(torch.clear_autocast_cache)  # which holds copies of weights in half precision for as long as it lasts
    undo.callback(setattr, t, "data", t.data)
    t.data = value
    torch.clear_autocast_cache()


def without_autocast(undo: Undo) -> None:
    """Backward and map arithmetic run in the precision of what was captured, whatever the caller's autocast says."""
    if torch._C._is_any_autocast_enabled():
        for device in ("cpu", "cuda"):
            undo.callback(_set_autocast, device, _is_autocast(device))
            _set_autocast(device, False)


# Not `torch.autocast`, whose exit counts, and so must not be cut short: PyTorch would never again drop its copies of
# the weights. Before torch 2.4 the functions had one name per device.


def _is_autocast(device: str) -> bool:
    if _AUTOCAST_BY_DEVICE:
        return torch.is_autocast_enabled(device)
    return torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()


def _set_autocast(device: str, enabled: bool) -> None:
    if _AUTOCAST_BY_DEVICE:
        torch.set_autocast_enabled(device, enabled)
    elif device == "cpu":
        torch.set_autocast_cpu_enabled(enabled)  # type: ignore[no-untyped-call]
    else:
        torch.set_autocast_enabled(enabled)  # type: ignore[call-arg, arg-type]


_AUTOCAST_BY_DEVICE = hasattr(torch.amp.autocast_mode, "is_autocast_available")


def unchanged(undo: Undo, model: nn.Module) -> None:
    """Parameters, buffers, and tensors that modules hold as plain attributes (old-style weight norm does) come back."""
    for module in model.modules():
        for held in (module.__dict__, module._parameters):
            tensors = {name: t for name, t in held.items() if isinstance(t, Tensor)}
            if tensors:
                undo.callback(held.update, tensors)
        _keep_buffers(module, undo)
