"""What a training script saved, under the names of the network that it is loaded into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError

_HOLDERS = ("state_dict", "model_state_dict", "model")


def parameters_in(saved: Mapping[str, Any], model: nn.Module, path: str) -> dict[str, Any]:
    """Returns the tensors of a checkpoint under the model's own names.

    A checkpoint may hold them below `state_dict`, with a name before each (`model.` of Lightning, `module.` of
    DataParallel, `_orig_mod.` of a compiled network) beside other parts that are left out, and with a head that stands
    at another place (`fc.1` of a dropout and a linear layer for `fc`).

    Raises:
        ValueError: for a checkpoint that holds the network several times.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.data.checkpoints import parameters_in
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
        >>> saved = {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}
        >>> list(parameters_in(saved, model, "last.ckpt"))
        ['0.weight', '0.bias']
    """
    state = dict(saved)
    for key in _HOLDERS:
        state = dict(state[key]) if isinstance(state.get(key), Mapping) else state
    own = list(model.state_dict())
    prefix = _prefix(state, own, path)
    below = {key.removeprefix(prefix): value for key, value in state.items() if str(key).startswith(prefix)}
    return _with_head(below, own)


def classes_in(state: Mapping[str, Any], model: nn.Module) -> int:
    """Returns how many outputs the head among a model's parameters has, as `parameters_in` gives them; 0: unknown.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.data.checkpoints import classes_in
        >>> classes_in({"0.weight": torch.zeros(7, 3)}, torch.nn.Sequential(torch.nn.Linear(3, 1000)))
        7
    """
    head = state.get(_head_of(list(model.state_dict())))
    return len(head) if isinstance(head, Tensor) and head.ndim > 1 else 0


def _prefix(state: Mapping[str, Any], own: list[str], path: str) -> str:
    """Returns what stands before the model's names: with which most of them are there."""
    if not own or own[0] in state:
        return ""
    prefixes = [key.removesuffix(own[0]) for key in state if key.endswith(f".{own[0]}")]
    found = {prefix: sum(prefix + name in state for name in own) for prefix in prefixes}
    best = [prefix for prefix, count in found.items() if count == max(found.values())]
    if len(best) > 1:
        raise InvalidValueError(
            f"weights {path!r} hold the network {len(best)} times, below {', '.join(map(repr, best))}; expected one: "
            "save the part that is to be explained"
        )
    return best[0] if best else ""


def _with_head(state: dict[str, Any], own: list[str]) -> dict[str, Any]:
    """Returns the state with the one linear layer below the head's name (beside what holds no parameters, such as a
    dropout) as the head."""
    weight = _head_of(own)
    name = weight.rpartition(".")[0]
    below = [key for key in state if key.startswith(f"{name}.")]
    linear = [key.removesuffix(".weight") for key in below if key.endswith(".weight")]
    if not name or weight in state or len(linear) != 1 or set(below) - {f"{linear[0]}.weight", f"{linear[0]}.bias"}:
        return state
    return {(name + key.removeprefix(linear[0]) if key in below else key): value for key, value in state.items()}


def _head_of(own: list[str]) -> str:
    """Returns the name of the last weight."""
    return next((name for name in reversed(own) if name.endswith(".weight")), "")
