"""Explanations as the measures need them: one map per example, of the input's size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from captum.attr import Attribution
from torch import Tensor
from tqdm import tqdm

from captum_extract_aggregate.attr.base import is_own
from captum_extract_aggregate.layers import model_of
from captum_extract_aggregate.layout import input_size
from captum_extract_aggregate.maps import at_least_float32, upsample
from captum_extract_aggregate.state import check_batch_norm, without_gradients

Explanation = Callable[..., Any]
_T = TypeVar("_T")


def explainer_of(explanation_func: Explanation | Attribution) -> Explanation:
    """A function `(inputs, target=..., **kwargs) -> attributions`: an attribution object's `attribute`, or as it is."""
    if isinstance(explanation_func, Attribution):
        return explanation_func.attribute
    if not callable(explanation_func):
        raise TypeError(
            f"explanation_func is a {type(explanation_func).__name__}; expected a method such as "
            "NormGrad(model, layer), its attribute, or another function of inputs and target"
        )
    return explanation_func


def per_target_of(explanation_func: Explanation | Attribution) -> Explanation | None:
    """The explainer's `attribute_per_target`, which shares the forward between targets, where it is this package's.

    Of any other `attribute` (a subclass's, or one put onto the object) it need not tell the truth.
    """
    owner: Any = getattr(explanation_func, "__self__", explanation_func)
    if not isinstance(owner, Attribution) or not is_own(owner, "attribute", "attribute_per_target"):
        return None
    is_its_attribute = explanation_func is owner or explanation_func == owner.attribute
    return owner.attribute_per_target if is_its_attribute else None  # type: ignore[no-any-return]


def as_maps(attributions: Any, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """`N x 1 x H x W` of the input's size: channels summed with their signs, upsampled bilinearly."""
    if isinstance(attributions, (tuple, list)):
        if len(attributions) != 1:
            raise ValueError(
                f"the explanation is {len(attributions)} tensors; expected one map: explain one layer (or one input), "
                "or combine them (LayerCombination)"
            )
        attributions = attributions[0]
    size = input_size(inputs if isinstance(inputs, tuple) else (inputs,))
    examples = len(inputs[0] if isinstance(inputs, tuple) else inputs)
    if not isinstance(attributions, Tensor) or attributions.ndim not in (3, 4) or len(attributions) != examples:
        got = tuple(attributions.shape) if isinstance(attributions, Tensor) else type(attributions).__name__
        raise ValueError(f"the explanation is {got} for {examples} examples; expected N x K x H x W (or N x H x W)")
    attributions = attributions.detach()
    attributions = at_least_float32(attributions) if attributions.is_floating_point() else attributions.float()
    maps = attributions.unsqueeze(1) if attributions.ndim == 3 else attributions.sum(1, keepdim=True)
    return upsample(maps, tuple(size))


def batches_of(examples: int, max_examples_per_batch: int | None) -> list[slice]:
    """The examples in batches."""
    size = examples if max_examples_per_batch is None else max_examples_per_batch
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(
            f"max_examples_per_batch is {max_examples_per_batch!r}; expected None or an integer of at least 1"
        )
    return [slice(start, start + size) for start in range(0, examples, size)]


def sliced(value: Any, part: slice | Sequence[int], examples: int) -> Any:
    """The part of whatever has one entry per example."""
    if isinstance(value, Tensor):
        return value[part] if value.ndim and len(value) == examples else value
    if isinstance(value, dict):
        return {name: sliced(v, part, examples) for name, v in value.items()}
    if isinstance(value, tuple):
        parts = [sliced(v, part, examples) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list) and len(value) == examples:
        return value[part] if isinstance(part, slice) else [value[i] for i in part]
    return value


def check_mode(forward_func: Callable[..., Any]) -> None:
    """Our error for a model in train mode, whose scores depend on the batch and whose statistics move."""
    model = model_of(forward_func)
    if model is not None:
        for module in model.modules():
            check_batch_norm(module, [model], batch=1)


def progress(items: Iterable[_T], what: str, total: int, show: bool) -> Iterable[_T]:
    """The items, with a progress bar if it is asked for."""
    return tqdm(items, desc=what, total=total) if show else items


@without_gradients
def scores_of(forward_func: Callable[..., Any], inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> Tensor:
    """The class scores `N x classes` of a batch, or our error."""
    output = forward_func(*inputs, *extra)
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"forward_func returned {got}; expected scores, examples x classes (two or more)")
    if not torch.isfinite(output).all():
        raise ValueError("forward_func returned scores that are NaN or infinite; expected finite ones")
    return output
