"""Why weights do not fit a model, or cannot be read, in a line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

_MOST_NAMED = 3


def difference(state: Mapping[str, Any], model: nn.Module) -> str:
    """Returns what differs, and the option that cures it; "" where names and shapes are the model's.

    Example:
        >>> from torch import nn
        >>> from captum_extract_aggregate.data.state_dicts import difference
        >>> model, other = (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, n)) for n in (10, 3))
        >>> difference(other.state_dict(), model).partition("; ")[0]
        'they are for 3 classes (1.weight), and the model has 10'
    """
    own = model.state_dict()
    missing, more = [k for k in own if k not in state], [k for k in state if k not in own]
    if missing or more:
        return _names_differ(missing, more, own)
    strange = [k for k, v in state.items() if not isinstance(v, Tensor)]
    if strange:
        return f"{strange[0]!r} is a {type(state[strange[0]]).__name__}; expected a tensor"
    shapes = [k for k in own if own[k].shape != state[k].shape]
    weights = [k for k in own if own[k].ndim > 1]
    if not shapes:
        return ""
    first = shapes[0]
    if weights and first == weights[-1] and own[first].shape[1:] == state[first].shape[1:]:
        count = len(state[first])
        return (
            f"they are for {count} classes ({first}), and the model has {len(own[first])}; expected --class-names of "
            f"{count}, or a FILE.py:FUNCTION that builds it so"
        )
    return (
        f"{first!r} is {tuple(state[first].shape)}, and the model's {tuple(own[first].shape)} ({len(shapes)} of "
        f"{len(own)} differ); expected --model of the network that was trained, or your own: FILE.py:FUNCTION"
    )


def _names_differ(missing: list[str], more: list[str], own: Mapping[str, Any]) -> str:
    """Returns whether it is the head alone whose names differ, or more."""
    head = list(own)[-1].rpartition(".")[0].split(".")[0]
    of_head = [k for k in missing + more if k.split(".")[0] == head]
    cure = "expected a model with that head: --model FILE.py:FUNCTION"
    if len(of_head) == len(missing + more) and len(missing) < len(own):
        return f"the head {head!r} differs: they have {_some(more)}, and the model {_some(missing)}; {cure}"
    if not missing:
        return f"they also have {_some(more)}, which the model has not; {cure.replace('that head', 'them')}"
    return (
        f"{len(missing)} of the model's {len(own)} names are not there ({_some(missing)}), and {len(more)} others are "
        f"({_some(more)}); expected --model of the network that was trained, or your own: FILE.py:FUNCTION"
    )


def _some(names: Iterable[str]) -> str:
    """Returns the first names, and how many more there are."""
    listed = list(names)
    shown = ", ".join(listed[:_MOST_NAMED]) or "nothing"
    return shown if len(listed) <= _MOST_NAMED else f"{shown} and {len(listed) - _MOST_NAMED} more"


def unread(error: BaseException) -> str:
    """Returns why a file was not read; of a whole model that was pickled, how it can be used."""
    told = str(error)
    kind = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", told)
    if kind or "TorchScript" in told:
        what = f"a pickled {kind[1]}" if kind else "a TorchScript archive"
        return (
            f"it holds {what}, which runs code when it is read; expected its state dict "
            "(torch.save(model.state_dict(), FILE)), or --model FILE.py:FUNCTION with a function that loads it"
        )
    return told.splitlines()[0] if told else repr(error)
