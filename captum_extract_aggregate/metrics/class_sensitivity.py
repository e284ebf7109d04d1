"""Does the map depend on the class that is explained?

Source: Rebuffi et al. (CVPR 2020), section 4.3; Khakzar et al. (2020), tables 2 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from captum.attr import Attribution
from torch import Tensor

from captum_extract_aggregate.layers import checked_inputs
from captum_extract_aggregate.layout import input_size
from captum_extract_aggregate.metrics.explanations import (
    Explanation,
    as_maps,
    batches_of,
    check_mode,
    explainer_of,
    per_target_of,
    progress,
    scores_of,
    sliced,
)
from captum_extract_aggregate.metrics.similarity import NullBaseline, Similarity, find_similarity, null_baseline


def class_sensitivity(
    explanation_func: Explanation | Attribution,
    inputs: Tensor | tuple[Tensor, ...],
    forward_func: Callable[..., Any],
    similarity: str | Similarity = "spearman",
    classes: str | Tensor = "max_min",
    additional_forward_args: Any = None,
    max_examples_per_batch: int | None = None,
    return_null_baseline: bool = False,
    show_progress: bool = False,
    **kwargs: Any,
) -> Tensor | tuple[Tensor, NullBaseline]:
    """The similarity of each example's maps for two classes, by default its highest and lowest scoring ones.

    Closer to 0 is better: near 1 the map does not depend on the class. NaN where a map is constant.

    Args:
        explanation_func: an attribution object, its `attribute`, or any function `(inputs, target=..., **kwargs)`.
            Both maps of a method of this package come from one forward.
        inputs: a tensor or a tuple of tensors, batch first.
        forward_func: gives the class scores, `N x classes`.
        similarity: `"spearman"`, `"abs_spearman"`, `"hog_spearman"`, `"ssim"`, `"top_k_intersection"`, or a function
            of two `N x 1 x H x W` maps.
        classes: `"max_min"`, or an `N x 2` tensor of class indices.
        additional_forward_args: for `forward_func` and the explainer.
        max_examples_per_batch: how many examples are explained at once.
        return_null_baseline: also return what the similarity gives for unrelated random maps of the same resolution.
        show_progress: show a progress bar.
        kwargs: handed to the explainer.

    Returns:
        `N` values (float64); with `return_null_baseline` the pair of them and a `NullBaseline(mean, std, n)`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import class_sensitivity
        >>> model = cea.load_scene_model("resnet")
        >>> images = torch.stack([image for image, _ in cea.DigitScenes(n=3)])
        >>> class_sensitivity(cea.LinearApproximation(model, "layer3"), images, model).shape
        torch.Size([3])
    """
    if "target" in kwargs:
        raise ValueError("target is given, but the measure chooses the classes itself; expected classes=")
    compare = find_similarity(similarity)
    check_mode(forward_func)
    tensors = checked_inputs(inputs)
    examples, extra = len(tensors[0]), _format_additional_forward_args(additional_forward_args) or ()
    pairs = None if isinstance(classes, str) else _checked_pairs(classes, examples)
    if pairs is None and classes != "max_min":
        raise ValueError(f"classes is {classes!r}; expected 'max_min' or an N x 2 tensor of class indices")
    values, resolution = [], None
    parts = batches_of(examples, max_examples_per_batch)
    for part in progress(parts, "Class sensitivity", len(parts), show_progress):
        some, some_extra = sliced(tensors, part, examples), sliced(extra, part, examples)
        chosen = _most_and_least(scores_of(forward_func, some, some_extra)) if pairs is None else pairs[part]
        given = {name: sliced(value, part, examples) for name, value in kwargs.items()}
        given |= {"additional_forward_args": some_extra} if some_extra else {}
        first, second = _both(explanation_func, some if isinstance(inputs, tuple) else some[0], chosen, given)
        values.append(compare(as_maps(first, some), as_maps(second, some)).double())
        resolution = resolution or _resolution(first)
    result = torch.cat(values)
    if not return_null_baseline:
        return result
    return result, null_baseline(compare, resolution or (1, 1), tuple(input_size(tensors)))  # type: ignore[arg-type]


def _most_and_least(scores: Tensor) -> Tensor:
    return torch.stack([scores.argmax(1), scores.argmin(1)], 1)


def _both(explanation_func: Any, inputs: Any, chosen: Tensor, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The explanations of both classes, from one forward if the explainer can."""
    shared = per_target_of(explanation_func)
    if shared is not None:
        both = shared(inputs, chosen, **kwargs)
        if isinstance(both, Tensor):
            return both[:, 0], both[:, 1]
    explain = explainer_of(explanation_func)
    return explain(inputs, target=chosen[:, 0], **kwargs), explain(inputs, target=chosen[:, 1], **kwargs)


def _resolution(explanation: Any) -> tuple[int, int]:
    single = explanation[0] if isinstance(explanation, (tuple, list)) else explanation
    return int(single.shape[-2]), int(single.shape[-1])


def _checked_pairs(classes: Any, examples: int) -> Tensor:
    pairs = torch.as_tensor(classes)
    if pairs.shape != (examples, 2) or pairs.is_floating_point():
        raise ValueError(
            f"classes is a tensor of {pairs.dtype} and shape {tuple(pairs.shape)}; expected two class indices for each "
            f"of {examples} examples"
        )
    return pairs.long()
