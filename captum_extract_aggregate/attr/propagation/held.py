"""What a balanced pass remembers of tensors: that they are held, or came out of an activation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from captum_extract_aggregate._engine.operations import tensors_in


def hold(output: Any) -> None:
    """Marks what has no gradient."""
    for t in tensors_in(output):
        if not t.requires_grad and t.is_floating_point():
            t._cea_held = True  # type: ignore[attr-defined]


def is_held(t: Tensor) -> bool:
    """Tells whether it depends on the input only as something that is held."""
    return "_cea_held" in t.__dict__ and not t.requires_grad


def is_activated(t: Tensor) -> bool:
    """Tells whether it came out of an activation."""
    return "_cea_activated" in t.__dict__


def mark_activated(outputs: Iterable[Tensor]) -> None:
    """Marks what came out of an activation."""
    for t in outputs:
        t._cea_activated = True  # type: ignore[attr-defined]


def unmark_activated(outputs: Iterable[Tensor]) -> None:
    """Takes the mark from what came out of something else, in place."""
    for t in outputs:
        t.__dict__.pop("_cea_activated", None)
