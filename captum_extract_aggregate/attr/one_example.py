"""A call for a batch, taken apart into calls for one example each, and their results put together again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError


def of_example(value: Any, i: int, examples: int) -> Any:
    """Returns what belongs to the i-th example: tensors with one entry per example are cut, all else is shared."""
    if isinstance(value, Tensor):  # detached: under no_grad, a view of what requires grad cannot be differentiated
        return value[i : i + 1].detach() if value.ndim and len(value) == examples else value
    if isinstance(value, dict):
        return {name: of_example(v, i, examples) for name, v in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [of_example(v, i, examples) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def target_of_example(target: Any, i: int, examples: int) -> Any:
    """Returns the i-th example's target, in the form in which the batch's were given."""
    if isinstance(target, list) or (hasattr(target, "ndim") and target.ndim and len(target) != 1):
        if len(target) != examples:
            raise InvalidValueError(f"target has {len(target)} entries for {examples} examples; expected one each")
        return target[i : i + 1]
    return target


def detached(result: Any) -> Any:
    """Returns a result without its graph."""
    if isinstance(result, (tuple, list)):
        return type(result)(detached(r) for r in result)
    return result.detach() if isinstance(result, Tensor) else result


def joined(results: list[Any]) -> Any:
    """Returns the examples' results, which have the same form, as one."""
    first = results[0]
    if isinstance(first, (tuple, list)):
        return type(first)(joined(list(column)) for column in zip(*results))
    if isinstance(first, Tensor):
        return torch.cat([r.reshape(1) if r.ndim == 0 else r for r in results])
    return first
