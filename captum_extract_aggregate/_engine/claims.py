"""Which thread works on which model: two at once would spoil each other's changes, and undo them.

A thread that changes a model (freezes its parameters for a pass, lets them take a step) claims it for that time.
Another thread that wants to explain it meanwhile gets an error, as does one that trains it, whose gradients would be
lost without a word. One that merely evaluates it is let alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import torch
from torch import nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layers import describe, running_modules

_CLAIMS: list[Claim] = []
_CURE = "expected one thread at a time: a lock around both, or a copy of the model for each (copy.deepcopy)"


class Claim:
    """Holds the models that one thread works on, and all their modules. `runs`: a pass claims them, which runs them."""

    def __init__(self, undo: Undo, runs: bool = False) -> None:
        self.thread, self.runs = threading.get_ident(), runs
        self.models: list[nn.Module] = []
        self.modules: set[nn.Module] = set()
        self._run_here: set[nn.Module] = set()
        undo.callback(_withdraw, self)
        _CLAIMS.append(self)

    def add(self, model: nn.Module, modules: Iterable[nn.Module]) -> None:
        """Raises our error if another thread works on one of the modules, or on a parameter of theirs."""
        self.models.append(model)
        if threading.get_ident() == self.thread:
            self._run_here.add(model)
        self.modules.update(modules)
        for other in tuple(_CLAIMS):
            if other.thread != self.thread:
                self._check(other)

    def _check(self, other: Claim) -> None:
        """Both threads have added theirs before they look, so at least the second one sees the first."""
        theirs = tuple(other.modules)
        held = {id(p) for module in theirs for p in module._parameters.values() if p is not None}
        for module in self.modules:
            shares = any(id(p) in held for p in module._parameters.values() if p is not None)
            if shares or (module in other.modules):
                raise InvalidValueError(
                    f"{describe(module, self.models)} is being explained, or changed, in another thread; {_CURE}"
                )

    def is_innermost(self) -> bool:
        """Tells whether no other pass has begun within this one: a hook of the model's may ask for a map."""
        if _CLAIMS[-1] is self:  # nearly always
            return True
        return next(c for c in reversed(tuple(_CLAIMS)) if c.runs and c.thread == self.thread) is self

    def is_others(self, module: nn.Module) -> bool:
        """Tells whether a claimed module that runs now does not belong to the claiming pass, but to another or to a
        thread.

        Modules do belong to it in other threads where the model's own forward starts them for parts of itself, or a
        DataParallel runs replicas. They do not if what runs there is the whole model, or another one that shares them.
        """
        if threading.get_ident() == self.thread:
            return not self.is_innermost()
        if module not in self.modules:
            return False
        *_, outermost = (module, *running_modules())
        return outermost in self._run_here or outermost not in self.modules

    def check_training(self, module: nn.Module, frozen: bool) -> None:
        """Raises our error in the thread that would lose gradients because this one's pass has frozen the
        parameters."""
        if frozen and torch.is_grad_enabled() and self.is_others(module):
            raise InvalidValueError(
                f"{describe(module, self.models)} runs with gradients while it is being explained in another thread, "
                f"where its parameters are frozen for the time of a forward; {_CURE}, or torch.no_grad()"
            )


def _withdraw(claim: Claim) -> None:
    if claim in _CLAIMS:
        _CLAIMS.remove(claim)


def claim(undo: Undo, model: nn.Module) -> None:
    """Sees to it that nobody else explains the model, or changes it, for a while."""
    Claim(undo).add(model, model.modules())
