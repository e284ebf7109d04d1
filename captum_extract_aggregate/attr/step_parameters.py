"""The parameters that take meta-saliency's step: their choice, and gradients of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layers import model_of


def checked_model(forward_func: Any) -> nn.Module:
    """Returns the module that a forward function calls, or our error where it cannot take a step."""
    model = model_of(forward_func)
    if model is None:
        raise InvalidTypeError(
            f"forward_func is a {type(forward_func).__name__}, whose parameters cannot be found; expected model=, the "
            "module that it calls"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise InvalidTypeError(
            "the model is a DistributedDataParallel, whose gradients are averaged over processes; expected the module "
            "inside: model.module"
        )
    return model


def chosen_parameters(model: nn.Module, wanted: Sequence[str | Tensor] | None) -> list[nn.Parameter]:
    """Returns the parameters that take the step, each once."""
    named = dict(model.named_parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in named.values()):
        raise InvalidValueError("the model has lazy parameters without values; expected one that has run once")
    if wanted is None:
        chosen = list(named.values())
    elif isinstance(wanted, (str, Tensor)):
        raise InvalidTypeError(
            f"parameters is a {type(wanted).__name__}; expected a list of names, patterns or parameters"
        )
    else:
        chosen = [p for entry in wanted for p in _matching(entry, model, named)]
    if not any(p.is_floating_point() for p in chosen):
        raise InvalidValueError(
            "no parameters are chosen, or the model has none; expected at least one that can take a step"
        )
    return list(dict.fromkeys(p for p in chosen if p.is_floating_point()))


def _matching(entry: str | Tensor, model: nn.Module, named: dict[str, nn.Parameter]) -> list[nn.Parameter]:
    if isinstance(entry, Tensor):
        found = [p for p in named.values() if p is entry]
        if not found:
            raise InvalidValueError(
                f"parameters holds a tensor of shape {tuple(entry.shape)} that is no parameter of the model"
            )
        return found
    if not isinstance(entry, str):
        raise InvalidTypeError(f"parameters holds a {type(entry).__name__}; expected names, patterns or parameters")
    everything = dict(model.named_parameters(remove_duplicate=False))  # tied ones go by each of their names
    found = [p for name, p in everything.items() if fnmatchcase(name, entry)]
    if not found:
        raise InvalidValueError(
            unknown_name("parameters", entry, everything, "; patterns such as 'layer4.*' match many")
        )
    return found


def differentiate_only(chosen: list[nn.Parameter], model: nn.Module, undo: Undo) -> None:
    """Sets flags for the time of the step: frozen parameters take it too, and no others are differentiated."""
    wanted = set(chosen)
    for p in model.parameters():
        if p.is_floating_point() and p.requires_grad != (p in wanted):
            undo.callback(p.requires_grad_, p.requires_grad)
            p.requires_grad_(p in wanted)
