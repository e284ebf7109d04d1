"""Checkpointed parts of a network run as they are written.

`torch.utils.checkpoint` frees what a part of the network needs for its backward, and runs the part again when it comes
to that. By then nobody watches its layers any more, and what the second run saves is matched with the first by
counting: a layer that became part of the graph in the first alone shifts the count, and gives another layer's values
without a word. A pass that makes maps runs such parts once, and keeps what they save.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from torch.utils import checkpoint

from captum_extract_aggregate._common.undo import Turn, Undo

_TURN = Turn()
_PASSES: dict[object, int] = {}  # that are going on, and the thread of each
_OWN: dict[str, Any] = {}  # what PyTorch calls by these names while no pass runs


def checkpoints_as_written(undo: Undo) -> None:
    """This thread's checkpoints are plain calls until all is undone; those of other threads are what they were."""
    mine = object()
    undo.callback(_end, mine)
    with Undo() as held, held:
        _TURN.take(held)
        for name, replacement in _REPLACEMENTS.items():
            if getattr(checkpoint, name) is not replacement:
                _OWN[name] = getattr(checkpoint, name)
                setattr(checkpoint, name, replacement)
        _PASSES[mine] = threading.get_ident()


def _end(mine: object) -> None:
    with Undo() as held, held:
        _TURN.take(held)
        _PASSES.pop(mine, None)
        if not _PASSES:
            for name, own in _OWN.items():
                setattr(checkpoint, name, own)


def _in_a_pass() -> bool:
    return threading.get_ident() in tuple(_PASSES.values())


def _hook(frame: Any) -> contextlib.AbstractContextManager[Any]:
    """Stands in place of the hooks that free what autograd saves (`use_reentrant=False`)."""
    return contextlib.nullcontext() if _in_a_pass() else _OWN["_checkpoint_hook"](frame)


class _Function:
    """Stands in place of the function with a backward of its own (`use_reentrant=True`)."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        if _in_a_pass():
            return function(*args)
        return _OWN["CheckpointFunction"].apply(function, preserve_rng_state, *args)


# PyTorch looks these up whenever a checkpoint runs, so that it does not matter who imported `checkpoint`, or when.
_REPLACEMENTS = {"_checkpoint_hook": _hook, "CheckpointFunction": _Function}
