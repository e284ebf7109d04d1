"""The layouts that users name, and the way from each of them to `N x K x *S`."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.arrangements import LayoutFunction, channels_last, identity
from captum_extract_aggregate._engine.batch_dimension import check_positions
from captum_extract_aggregate._engine.layout_detection import detected_layout
from captum_extract_aggregate._engine.parts import kinds_of
from captum_extract_aggregate._engine.surroundings import Surroundings
from captum_extract_aggregate._engine.token_grid import grid_of_tokens

LayoutName = Literal["auto", "channels_first", "channels_last", "tokens"]
Layout = LayoutName | LayoutFunction

LAYOUTS = get_args(LayoutName)


def check_layout(layout: Layout) -> Layout:
    """Returns `layout` itself if it is one we know; otherwise our error."""
    if not callable(layout) and layout not in LAYOUTS:
        raise InvalidValueError(f"layout is {layout!r}; expected one of {', '.join(map(repr, LAYOUTS))} or a callable")
    return layout


def to_channels_first(activation: Tensor, layout: Layout, around: Surroundings) -> LayoutFunction:
    """Returns the function that brings tensors laid out as `activation` to `N x K x *S`, dropping tokens without a
    position.

    Raises ValueError where the activation has no positions, or where they cannot be told.
    """
    if callable(layout):
        return _checked(layout, around)
    if layout == "auto":
        return detected_layout(activation, around)
    check_positions(activation, around)
    if layout == "channels_first":
        return identity
    if layout == "channels_last":
        return channels_last
    if activation.ndim != 3:
        raise InvalidValueError(
            f"layout='tokens' got an activation of shape {tuple(activation.shape)} at {around.name}; "
            "expected batch x tokens x channels"
        )
    return grid_of_tokens(activation, around)


def is_final_state(activation: Tensor, around: Surroundings) -> bool:
    """Tells whether the tensor holds a recurrent layer's final states, which have no positions."""
    if not around.known.is_recurrent:
        return False
    dims = around.dims(activation)
    return dims is not None and any("state" in kinds_of(dim) for dim in dims)


def _checked(function: LayoutFunction, around: Surroundings) -> LayoutFunction:
    def apply(t: Tensor) -> Tensor:
        try:
            out = function(t)
        except (RuntimeError, IndexError, ValueError) as error:
            raise InvalidValueError(
                f"layout(activation) failed for an activation of shape {tuple(t.shape)} at {around.name} ({error}); "
                f"expected a function that fits each layer and any batch (write -1 for the number of examples)"
            ) from error
        if not isinstance(out, Tensor) or out.ndim < 3 or (around.batch is not None and out.shape[0] != around.batch):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise InvalidValueError(
                f"layout(activation) returned {got} for an activation of shape {tuple(t.shape)} at {around.name}; "
                f"expected batch x channels x one or more position dimensions, batch {around.batch}"
            )
        return out

    return apply


def view_axis(layout: LayoutFunction, activation: Tensor, around: Surroundings) -> int | None:
    """Returns the dimension into which a layout unfolds views folded into the batch; None where it unfolds none, or
    several."""
    if activation.shape[0] == around.batch:
        return None
    index = torch.arange(float(activation.shape[0]))  # on the CPU, as it is looked at
    index = index.reshape(-1, *(1,) * (activation.ndim - 1)).expand(activation.shape)
    arranged = _checked(layout, around)(index)
    axes = [d for d in range(1, arranged.ndim) if (arranged != arranged.narrow(d, 0, 1)).any()]
    return axes[0] if len(axes) == 1 and arranged.ndim == activation.ndim + 1 and axes[0] > 1 else None
