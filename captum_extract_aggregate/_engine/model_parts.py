"""A model's modules and parameters, looked at once for what a pass has to know of them.

This looks at every module on every pass, which a small network notices: so at its dictionaries, not through Module's
generators and `__getattr__`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import cached_property
from operator import attrgetter, methodcaller
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError

_values, _children, _held = methodcaller("values"), attrgetter("_modules"), attrgetter("_parameters")
_training, _compiled, _hooks = attrgetter("training"), attrgetter("_compiled_call_impl"), attrgetter("_forward_hooks")
_pre_hooks = attrgetter("_forward_pre_hooks")


def unseen(model: nn.Module, seen: set[nn.Module]) -> list[nn.Module]:
    """Returns the model and the modules below it that are not in `seen`, and are from now on."""
    found = [model]
    seen.add(model)
    for module in found:  # which grows on the way
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


class ModelParts:
    """Holds modules as they were when they were looked at."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self._having: dict[bool, tuple[list[int], list[nn.Parameter]]] = {}

    @cached_property
    def training(self) -> list[nn.Module]:
        return list(filter(_training, self._flagged))

    @cached_property
    def has_transformers(self) -> bool:
        kinds = set(map(type, self.modules))
        return any(issubclass(kind, (nn.TransformerEncoderLayer, nn.TransformerEncoder)) for kind in kinds)

    @cached_property
    def attention(self) -> list[nn.Module]:
        return [m for m in self.modules if isinstance(m, nn.MultiheadAttention)]

    @cached_property
    def batch_norms(self) -> list[nn.Module]:
        return [m for m in self.modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    @cached_property
    def is_compiled(self) -> bool:
        return any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in self.modules)

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Returns all parameters, those that are shared as often as they are."""
        return [p for p in self._each(_held) if p is not None]

    @cached_property
    def _flagged(self) -> list[nn.Module]:
        return [m for m in self.modules if hasattr(m, "training")]  # traced ones have no such flag

    def having(self, requires_grad: bool) -> list[nn.Parameter]:
        """Returns the parameters whose flag has this value now, and can have the other."""
        held = [p for p in self.parameters if p.requires_grad == requires_grad]
        which = list(map(id, held))
        if self._having.get(requires_grad, (None,))[0] != which:
            self._having[requires_grad] = which, _changeable(held, requires_grad)
        return self._having[requires_grad][1]

    def _each(self, held: Callable[[nn.Module], Any]) -> Iterable[Any]:
        """Returns what all modules hold in one of their dictionaries."""
        return itertools.chain.from_iterable(map(_values, filter(None, map(held, self.modules))))

    def state(self) -> list[Any]:
        """Returns what differs where a module or a parameter is another, or a module's flags have changed."""
        return [
            *map(id, self._each(_children)),
            *map(id, self._each(_held)),
            *map(_training, self._flagged),
            *map(_compiled, self.modules),
        ]

    def is_hooked(self) -> bool:
        """Tells whether somebody's hooks run with the modules, which may do anything."""
        return any(map(_hooks, self.modules)) or any(map(_pre_hooks, self.modules))


def _changeable(held: list[nn.Parameter], requires_grad: bool) -> list[nn.Parameter]:
    if any(issubclass(kind, nn.parameter.UninitializedParameter) for kind in set(map(type, held))):
        raise InvalidValueError("the model has lazy parameters without values; expected one that has run once")
    found = [p for p in held if p.is_leaf and (requires_grad or p.is_floating_point() or p.is_complex())]
    if any(map(Tensor.is_inference, found)):
        raise InvalidValueError(
            "the model was built under torch.inference_mode, so nothing can be differentiated through it; "
            "expected one built outside (or copied: parameter.clone() outside of it)"
        )
    return found
