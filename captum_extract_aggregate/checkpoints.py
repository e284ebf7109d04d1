"""Checkpointed parts of a network run as they are written.

`torch.utils.checkpoint` frees what a part of the network needs for its backward, and runs the part again when it comes
to that. By then nobody watches its layers any more, and what the second run saves is matched with the first by
counting: a layer that became part of the graph in the first alone shifts the count, and gives another layer's values
without a word. A pass that makes maps runs such parts once, and keeps what they save.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils import checkpoint

_LOCK = threading.Lock()
_PASSES: Counter[int] = Counter()  # that each thread is in
_OWN: dict[str, Any] = {}  # what PyTorch calls by these names while no pass runs


class CheckpointsAsWritten(contextlib.AbstractContextManager[None]):
    """Within, this thread's checkpoints are plain calls; those of other threads are what they were."""

    def __enter__(self) -> None:
        with _LOCK:
            if not _PASSES:
                for name, replacement in _REPLACEMENTS.items():
                    _OWN[name] = getattr(checkpoint, name)
                    setattr(checkpoint, name, replacement)
            _PASSES[threading.get_ident()] += 1

    def __exit__(self, *exception: object) -> None:
        with _LOCK:
            _PASSES[threading.get_ident()] -= 1
            if not +_PASSES:
                _PASSES.clear()
                for name in _REPLACEMENTS:
                    setattr(checkpoint, name, _OWN[name])


def _hook(frame: Any) -> contextlib.AbstractContextManager[Any]:
    """In place of the hooks that free what autograd saves (`use_reentrant=False`)."""
    is_plain = _PASSES[threading.get_ident()] > 0
    return contextlib.nullcontext() if is_plain else _OWN["_checkpoint_hook"](frame)


class _Function:
    """In place of the function with a backward of its own (`use_reentrant=True`)."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        if _PASSES[threading.get_ident()] > 0:
            return function(*args)
        return _OWN["CheckpointFunction"].apply(function, preserve_rng_state, *args)


# PyTorch looks these up whenever a checkpoint runs, so that it does not matter who imported `checkpoint`, or when.
_REPLACEMENTS = {"_checkpoint_hook": _hook, "CheckpointFunction": _Function}
