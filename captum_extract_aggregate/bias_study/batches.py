"""Batches of a data loader, outputs of a network, and whether they are right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.progress import each
from captum_extract_aggregate._common.tensors import moved
from captum_extract_aggregate._engine.outputs import find_scores

Batch = tuple[Tensor, Tensor | None]  # inputs and labels, on the model's device


def batches_of(dataloader: Iterable[Any], model: nn.Module, show_progress: bool, what: str) -> Iterator[Batch]:
    """Yields the inputs and labels of each batch, on the model's device; our error where there is none."""
    check_loader(dataloader)
    seen = False
    for batch in each(dataloader, what, show_progress, unit="batch", disable=None):
        seen = True
        yield as_batch(batch, model)
    if not seen:
        raise InvalidValueError("dataloader gives no batch; expected at least one")


def check_loader(dataloader: object) -> None:
    """Raises our error for what gives no batches."""
    if not isinstance(dataloader, Iterable):
        raise InvalidTypeError(f"dataloader is a {type(dataloader).__name__}; expected something that gives batches")


def as_batch(batch: Any, model: nn.Module) -> Batch:
    """Returns inputs, and labels if there are any: class indices `N` (-1: unknown), or `N x classes` of zeros and
    ones."""
    parts = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    x, labels = parts[0] if parts else None, parts[1] if len(parts) > 1 else None
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not len(x):
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InvalidTypeError(f"dataloader gives {got} as inputs; expected a batch of floating-point tensors, N x ...")
    if labels is not None and (not isinstance(labels, Tensor) or labels.ndim not in (1, 2) or len(labels) != len(x)):
        got = f"a tensor {tuple(labels.shape)}" if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
        raise InvalidTypeError(
            f"dataloader gives {got} as labels of {len(x)} inputs; expected class indices N, zeros and ones "
            "N x classes, or no labels"
        )
    if labels is not None and labels.ndim == 1 and (labels.is_floating_point() or labels.dtype == torch.bool):
        raise InvalidTypeError(f"dataloader gives labels of {labels.dtype}; expected whole numbers: class indices")
    if labels is not None and labels.ndim == 2 and not bool(((labels == 0) | (labels == 1)).all()):
        raise InvalidValueError("dataloader gives labels N x classes with other numbers; expected zeros and ones")
    device = device_of(model, x)
    return moved(x, device), None if labels is None else moved(labels, device)


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Returns where the model is; where the inputs are, if it holds no tensors."""
    return next(iter([*model.parameters(), *model.buffers()]), x).device


def check_eval(model: object, argument: str = "model") -> None:
    """Raises our error for what is no network, or one in train mode."""
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"{argument} is a {type(model).__name__}; expected a torch.nn.Module")
    for name, module in model.named_modules():
        if module.training:
            where = f"{argument}'s part {name!r}" if name else argument
            raise InvalidValueError(f"{where} is in train mode; expected eval mode: call {argument}.eval() first")


def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    """Returns the class scores, `N x classes`, in float64 (float32 on devices that have no other)."""
    output = find_scores(model(x.to(device_of(model, x))))
    if output.ndim != 2 or len(output) != len(x) or output.shape[1] < 2:
        raise InvalidValueError(
            f"the model gives a tensor {tuple(output.shape)} for {len(x)} inputs; expected class scores, N x classes"
        )
    return output.float() if output.device.type == "mps" else output.double()


def ranked(output: Tensor) -> Tensor:
    """Returns the classes of each image from the highest score to the lowest; of equal ones the first comes first."""
    return output.argsort(dim=1, descending=True, stable=True)


def hits(output: Tensor, labels: Tensor | None, k: int) -> Tensor:
    """Tells whether one of the k highest classes is right, as 0 or 1; NaN where it is unknown, an output is not finite,
    or k is no fewer than all.

    With several classes in an image, each of them is right.
    """
    n, classes = output.shape
    unknown = output.new_full((n,), math.nan)
    if labels is None or k >= classes:
        return unknown
    known = output.isfinite().all(1)
    if labels.ndim == 1:
        if int(labels.max()) >= classes:
            raise InvalidValueError(
                f"dataloader gives the label {int(labels.max())}, but the model has {classes} classes"
            )
        known &= labels >= 0
        right = ranked(output)[:, :k] == labels[:, None]
    else:
        if labels.shape[1] != classes:
            raise InvalidValueError(
                f"dataloader gives {labels.shape[1]} labels an image; expected {classes}, one a class"
            )
        known &= (labels > 0).any(1)
        right = labels.gather(1, ranked(output)[:, :k]) > 0
    return right.any(1).to(output.dtype).where(known, unknown)


def same_decision(first: Tensor, second: Tensor) -> Tensor:
    """Tells whether two outputs have the same highest class, as 0 or 1; NaN where one is not finite."""
    same = (ranked(first)[:, 0] == ranked(second)[:, 0]).to(first.dtype)
    return same.masked_fill(~(first.isfinite() & second.isfinite()).all(1), math.nan)


def percent(values: Tensor, unknown: str = "unknown") -> str:
    """Returns the mean of zeros and ones in percent."""
    mean = float(values.nanmean())
    return unknown if math.isnan(mean) else f"{100 * mean:.1f} %"
