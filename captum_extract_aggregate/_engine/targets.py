"""Which number of the output is explained: Captum's targets, checked before Captum sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from captum._utils.common import _select_targets
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import moved, on_cpu
from captum_extract_aggregate._engine.outputs import find_scores

Target = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None
# Several targets of one forward; or what chooses them, once it is known what `forward_func` returned.
Targets = Sequence[Target] | Callable[[Any], Sequence[Target]]

FORMS = (
    "an int, a tuple of ints (outputs of more than two dimensions), a list of either with one entry per example, "
    "or an integer tensor of one entry or one per example"
)


def select_scores(output: Any, target: Target) -> Tensor:
    """Returns the explained score of each example, selected from the output of `forward_func` by Captum's rules.

    Raises TypeError or ValueError that names the mistake where Captum would assert, or index out of range.
    """
    output, target = find_scores(output), plain_target(target)
    if output.ndim == 0:
        output = output.reshape(1)
    if isinstance(target, Tensor) and not on_cpu(target) and target.dtype == torch.long and output.ndim == 2:
        return _selected_unseen(output, target)
    if target is not None:
        _check_target(output, target)
    if isinstance(target, list) and isinstance(target[0], int):
        target = torch.tensor(target)
    if isinstance(target, Tensor) and target.numel() > 1:
        target = moved(target, output.device)
    scores = _select_targets(output, target)  # type: ignore[arg-type]
    if (numbers := math.prod(scores.shape[1:])) != 1:
        cure = "pass target=" if target is None else f"pass a target of {output.ndim - 1} indices"
        raise InvalidValueError(
            f"target {target!r} selects {numbers} numbers per example from an output of shape "
            f"{tuple(output.shape)}; expected one: {cure}"
        )
    return scores.reshape(len(scores))


def _selected_unseen(output: Tensor, target: Tensor) -> Tensor:
    """Returns the same for class indices that lie on another device than the CPU, where looking at them would wait.

    A class that the output does not have gives NaN, and so does its map.
    """
    examples, classes = output.shape
    _check_count(target, examples)
    index = target.reshape(-1).to(output.device)
    known = (index >= (0 if len(index) > 1 else -classes)) & (index < classes)
    scores = output.gather(1, (index.where(known, 0) % classes).expand(examples)[:, None]).squeeze(1)
    return scores.where(known, torch.nan)


def plain_target(target: Any) -> Any:
    """Returns NumPy's integers and arrays, and integer tensors of any width, as Captum's forms."""
    if isinstance(target, np.integer):
        return int(target)
    if isinstance(target, list):
        return [int(entry) if isinstance(entry, np.integer) else entry for entry in target]
    if isinstance(target, np.ndarray):
        target = torch.from_numpy(target)
    if isinstance(target, Tensor):
        target = target.reshape(-1) if target.numel() == 1 else target
        is_index = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
        return target.long() if is_index else target
    return target


def _check_target(output: Tensor, target: Any) -> None:
    examples, sizes = output.shape[0], tuple(output.shape[1:])
    if isinstance(target, bool) or not isinstance(target, (int, tuple, list, Tensor)):
        raise InvalidTypeError(f"target is a {type(target).__name__}; expected {FORMS}")
    if isinstance(target, Tensor):
        if target.dtype != torch.long:
            raise InvalidTypeError(
                f"target is a tensor of {target.dtype}; expected class indices (multi-hot vectors are not)"
            )
        _check_count(target, examples)
        entries: list[Any] = target.tolist()
    else:
        entries = target if isinstance(target, list) else [target]
    per_example = isinstance(target, list) or len(entries) != 1
    if per_example and len(entries) != examples:
        raise _wrong_count(len(entries), examples)
    for entry in entries:
        _check_entry(entry, sizes, per_example)


def _check_count(target: Tensor, examples: int) -> None:
    """Raises our error for a tensor that is neither one index nor one for each example."""
    if target.numel() > 1 and target.ndim > 1:
        raise InvalidValueError(
            f"target is a tensor of shape {tuple(target.shape)}; expected one index per example. For several "
            "targets per example use attribute_per_target"
        )
    if target.numel() not in (1, examples):
        raise _wrong_count(target.numel(), examples)


def _wrong_count(entries: int, examples: int) -> ValueError:
    return InvalidValueError(f"target has {entries} entries for {examples} examples; expected {FORMS}")


def _check_entry(entry: Any, sizes: tuple[int, ...], per_example: bool) -> None:
    """Checks one index, or one tuple of indices, against the sizes of the output without the batch.

    As in Captum, indices count from the first dimension behind the batch, and may be negative unless there is one
    integer per example.
    """
    indices = entry if isinstance(entry, tuple) else (entry,)
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in indices):
        raise InvalidTypeError(f"target holds {entry!r}; expected {FORMS}")
    gathered = per_example and not isinstance(entry, tuple)
    if len(indices) > len(sizes) or (gathered and len(sizes) != 1):
        raise InvalidValueError(
            f"target {entry!r} holds {len(indices)} indices for an output of {len(sizes)} dimensions beside the batch, "
            f"{sizes}; expected one index each"
            + ("" if sizes else " (forward_func gives one score per example already: leave target out)")
        )
    for index, size in zip(indices, sizes):
        lowest = 0 if gathered else -size
        if not lowest <= index < size:
            raise InvalidValueError(
                f"target {entry!r} is out of range; expected 0 to {size - 1} (the output has {size})"
            )


def per_target(targets: Any, examples: int) -> list[Target]:
    """Returns `targets` as a list of T Captum targets: from `N x T` indices, or a list of T targets for all
    examples."""
    if isinstance(targets, (list, tuple)) and targets and all(isinstance(row, list) for row in targets):
        if len({len(row) for row in targets}) > 1 or not all(isinstance(i, int) for row in targets for i in row):
            raise InvalidValueError(
                f"targets is {targets!r}; expected rows of equally many indices, one row per example"
            )
        targets = torch.tensor(targets)
    if isinstance(targets, np.ndarray):
        targets = torch.from_numpy(targets)
    if isinstance(targets, Tensor):
        if targets.ndim not in (1, 2) or (targets.ndim == 2 and targets.shape[0] != examples) or not targets.numel():
            raise InvalidValueError(
                f"targets has shape {tuple(targets.shape)}; expected {examples} x T, T targets for each of the "
                f"{examples} examples, or a list of T targets for all"
            )
        if targets.ndim == 1 or examples == 1:
            flat = targets.flatten()
            return list(flat.tolist() if on_cpu(flat) else flat)
        return list(targets.T)
    if not isinstance(targets, (list, tuple)) or not targets:
        raise InvalidTypeError(
            f"targets is {targets!r}; expected an N x T tensor of indices or a non-empty list of T targets"
        )
    return list(targets)
