"""The model during a pass: frozen, eager, checked, and afterwards as it was."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from captum_extract_aggregate.checkpoints import CheckpointsAsWritten
from captum_extract_aggregate.layers import as_written, describe, model_of


def uncompiled(forward_func: Callable[..., Any]) -> Callable[..., Any]:
    """The eager function behind `torch.compile`: compiled code runs no hooks."""
    if isinstance(forward_func, nn.Module):
        return as_written(forward_func)
    return getattr(forward_func, "_torchdynamo_orig_callable", forward_func)  # type: ignore[no-any-return]


@contextlib.contextmanager
def prepared(
    forward_func: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    freeze: bool | None,
    hooked: Collection[nn.Module | None] | None = None,
) -> Iterator[list[nn.Module]]:
    """Freezes the parameters of every model that runs within, and gives their list; all is undone at the end.

    A model that `forward_func` merely calls is met, and frozen, when it begins to run. `freeze`: None makes parameters
    require gradients instead, False leaves them as they are. `hooked`: the only modules that somebody watches; left
    out, any may be.
    """
    models: list[nn.Module] = []
    seen: set[nn.Module] = set()
    with contextlib.ExitStack() as stack:

        def prepare(model: nn.Module) -> None:
            models.append(model)
            modules = _unseen(model, seen)
            training = [module for module in modules if getattr(module, "training", False)]  # traced ones have none
            for module in modules if len(tensors[0]) > 1 else training:
                check_batch_norm(module, models, batch=len(tensors[0]))
            for module in training:
                _keep_buffers(module, stack)
            if freeze is not False:
                _require_gradients(modules, not freeze, stack)
            _warn_of_dropout(training)
            _make_eager(modules, stack)
            if hooked is None or _must_run_in_parts(modules, hooked):
                stack.enter_context(_without_fused_attention())

        def meet(module: nn.Module, args: Any) -> None:
            if module not in seen:
                prepare(module)

        stack.enter_context(random_state(tensors))
        stack.enter_context(CheckpointsAsWritten())
        model = model_of(forward_func)
        if model is not None:
            prepare(model)
        stack.callback(register_module_forward_pre_hook(meet).remove)
        yield models


# What follows looks at every module on every pass, which a small network notices: at its dictionaries, not through
# Module's generators and __getattr__.


def _unseen(model: nn.Module, seen: set[nn.Module]) -> list[nn.Module]:
    """The model and the modules below it that are not in `seen`, and are from now on."""
    found = [model]
    seen.add(model)
    for module in found:  # which grows on the way
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


def _require_gradients(modules: list[nn.Module], value: bool, stack: contextlib.ExitStack) -> None:
    """Sets the flag of all parameters that have another."""
    held = [p for module in modules for p in module._parameters.values() if p is not None and p.requires_grad != value]
    parameters = [p for p in held if p.is_leaf and (p.is_floating_point() or p.is_complex())]
    if any(p.is_inference() for p in parameters):
        raise ValueError(
            "the model was built under torch.inference_mode, so nothing can be differentiated through it; "
            "expected one built outside (or copied: parameter.clone() outside of it)"
        )
    stack.callback(_set_requires_grad, parameters, not value)
    _set_requires_grad(parameters, value)


def _set_requires_grad(parameters: list[nn.Parameter], value: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(value)


def _keep_buffers(module: nn.Module, stack: contextlib.ExitStack) -> None:
    """A module may update its buffers, at least in train mode (running statistics): they are put back."""
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_inference():  # which has no version
            stack.callback(module._buffers.__setitem__, name, buffer)
        elif buffer is not None:
            stack.callback(_put_back, module._buffers, name, buffer, buffer._version, buffer.clone())


def _put_back(held: dict[str, Any], name: str, t: Tensor, version: int, value: Tensor) -> None:
    held[name] = t
    if t._version != version:
        with torch.no_grad():
            t.copy_(value)


def check_batch_norm(module: nn.Module, models: list[nn.Module], batch: int) -> None:
    """Our error for a normalisation that mixes the examples of a batch."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return
    if module.training:
        raise ValueError(
            f"{_name(module, models)} is in train mode, where examples of a batch mix and running statistics change; "
            "expected eval mode: call model.eval() first"
        )
    if module.running_mean is None and batch > 1:
        raise ValueError(
            f"{_name(module, models)} has no running statistics (track_running_stats=False), so each example's score "
            "depends on the others of its batch; expected batches of one example"
        )


def _name(module: nn.Module, models: list[nn.Module]) -> str:
    return f"{describe(module, models)} ({type(module).__name__})"


def _warn_of_dropout(training: list[nn.Module]) -> None:
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in training):
        warnings.warn(
            "dropout is active, so the map is of a random part of the model; call model.eval() for the map of the "
            "model. (The random state is restored after each call: reseed between calls to sample dropout masks.)",
            stacklevel=2,
        )


def _make_eager(modules: list[nn.Module], stack: contextlib.ExitStack) -> None:
    """Compiled parts of a model run as they were written: compiled code runs no hooks."""
    if not any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in modules):
        return
    if not hasattr(torch.compiler, "set_stance"):
        raise ValueError(
            "the model is compiled, or holds a compiled part, whose layers cannot be reached before torch 2.6; "
            "expected the model before torch.compile"
        )
    stack.enter_context(torch.compiler.set_stance("force_eager"))


def _must_run_in_parts(modules: list[nn.Module], hooked: Collection[nn.Module | None]) -> bool:
    """Whether a fused kernel would leave out a hooked module, or compute something else than the differentiable parts.

    PyTorch's transformer layers do the latter: zeros at padded positions, other sums for a mask of floats, their own
    arithmetic in place of a subclass's. Attention by itself does not.
    """
    kinds = set(map(type, modules))
    if any(issubclass(kind, (nn.TransformerEncoderLayer, nn.TransformerEncoder)) for kind in kinds):
        return True
    if not any(issubclass(kind, nn.MultiheadAttention) for kind in kinds):
        return False
    return any(part in hooked for m in modules if isinstance(m, nn.MultiheadAttention) for part in m.children())


@contextlib.contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Transformer layers call their parts, where hooks are, instead of one fused kernel."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextlib.contextmanager
def random_state(tensors: Iterable[Tensor]) -> Iterator[None]:
    """A pass that draws random numbers (dropout in train mode) leaves the generators as they were."""
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda" and t.device.index is not None})
    with torch.random.fork_rng(devices):
        yield


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """Backward and map arithmetic run in the precision of what was captured, whatever the caller's autocast says."""
    return _autocast_disabled() if torch._C._is_any_autocast_enabled() else contextlib.nullcontext()


@contextlib.contextmanager
def _autocast_disabled() -> Iterator[None]:
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Buffers, and tensors that modules hold as plain attributes (old-style weight norm does), come back."""
    with contextlib.ExitStack() as stack:
        for module in model.modules():
            for name, t in module.__dict__.items():
                if isinstance(t, Tensor):
                    stack.callback(module.__dict__.__setitem__, name, t)
            _keep_buffers(module, stack)
        yield
