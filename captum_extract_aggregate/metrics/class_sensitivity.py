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

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.progress import each
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.input_positions import InputLayout, Size, check_input_layout, check_size
from captum_extract_aggregate._engine.layers import checked_inputs
from captum_extract_aggregate._engine.model_state import keep_modes
from captum_extract_aggregate._engine.one_output import has_one_output, signed
from captum_extract_aggregate.metrics.explanations import (
    Explanation,
    MapReader,
    batches_of,
    check_mode,
    class_scores,
    explainer_of,
    output_of,
    per_target_of,
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
    size: Size | None = None,
    layout: InputLayout = "auto",
    **kwargs: Any,
) -> Tensor | tuple[Tensor, NullBaseline]:
    """Returns the similarity of each example's maps for two classes, by default its highest and lowest scoring ones.

    Closer to 0 is better: near 1 the map does not depend on the class. NaN where a map is constant. A random map,
    drawn anew for each class, has the best value of all: the measure refuses maps, and proves none right.

    A model with one output f (`N` or `N x 1`, a logit) has two classes, its signs: 1 with the score f, and 0 with the
    score -f; f > 0 is the class 1. The map of the sign 0 is that of the model with its output negated.

    Args:
        explanation_func: an attribution object, its `attribute`, or any function `(inputs, target=..., **kwargs)`.
            Both maps of a method of this package come from one forward.
        inputs: a tensor or a tuple of tensors, batch first.
        forward_func: gives the class scores, `N x classes`, or one score each.
        similarity: `"spearman"`, `"abs_spearman"`, `"hog_spearman"`, `"ssim"`, `"top_k_intersection"`, or a function
            of two `N x 1 x H x W` maps (`N x 1 x L` of signals, `N x 1 x D x H x W` of volumes; HOG and SSIM are of
            pictures alone).
        classes: `"max_min"`, or an `N x 2` tensor of class indices.
        additional_forward_args: for `forward_func` and the explainer.
        max_examples_per_batch: how many examples are explained at once.
        return_null_baseline: also return what the similarity gives for unrelated random maps of the same resolution.
        show_progress: show a progress bar.
        size, layout: of the input, where its shape does not tell its positions from its channels: as for
            `LayerCombination`.
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
        raise InvalidValueError("target is given, but the measure chooses the classes itself; expected classes=")
    compare = find_similarity(similarity)
    check_mode(forward_func)
    tensors = checked_inputs(inputs)
    examples, extra = len(tensors[0]), _format_additional_forward_args(additional_forward_args) or ()
    pairs = None if isinstance(classes, str) else _checked_pairs(classes, examples)
    if pairs is None and classes != "max_min":
        raise InvalidValueError(f"classes is {classes!r}; expected 'max_min' or an N x 2 tensor of class indices")
    reader = MapReader(explanation_func, (forward_func,), check_size(size), check_input_layout(layout))
    values: list[Tensor] = []
    sizes: tuple[Size, Size] | None = None
    parts = batches_of(examples, max_examples_per_batch)
    for part in each(parts, "Class sensitivity", show_progress):
        some, some_extra = sliced(tensors, part, examples), sliced(extra, part, examples)
        given = {name: sliced(value, part, examples) for name, value in kwargs.items()}
        given |= {"additional_forward_args": some_extra} if some_extra else {}
        of_part, n = some if isinstance(inputs, tuple) else some[0], len(some[0])
        if pairs is None or not values:  # for given classes once, to see whether they are signs
            output = output_of(forward_func, some, some_extra)
            dims = output.ndim if has_one_output(output, n) else None
        chosen = _most_and_least(class_scores(output, n)) if pairs is None else pairs[part]
        if dims is None:
            both = _both(explanation_func, of_part, chosen, given)
            (first, positions, own), (second, _, _) = (reader.read(each, some) for each in both)
        else:
            signs = _checked_signs(chosen)
            of_signs = _of_signs(explanation_func, forward_func, of_part, dims, given)
            (positive, positions, own), (negative, _, _) = (reader.read(each, some) for each in of_signs)
            first, second = (_of_class(positive, negative, signs[:, i]) for i in (0, 1))
        values.append(compare(first, second).double())
        sizes = sizes or (own, positions.size)
    result = torch.cat(values)
    if not return_null_baseline:
        return result
    assert sizes is not None
    return result, null_baseline(compare, *sizes)


def _most_and_least(scores: Tensor) -> Tensor:
    most = scores.argmax(1)
    return torch.stack([most, scores.argmin(1) if scores.shape[1] > 2 else 1 - most], 1)


def _both(explanation_func: Any, inputs: Any, chosen: Tensor, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the explanations of both classes, from one forward if the explainer can."""
    shared = per_target_of(explanation_func)
    if shared is not None:
        both = shared(inputs, chosen, **kwargs)
        if isinstance(both, Tensor):
            return both[:, 0], both[:, 1]
    explain = explainer_of(explanation_func)
    return explain(inputs, target=chosen[:, 0], **kwargs), explain(inputs, target=chosen[:, 1], **kwargs)


def _checked_signs(classes: Tensor) -> Tensor:
    if bool(((classes != 0) & (classes != 1)).any()):
        raise InvalidValueError(
            f"classes holds {classes.flatten().tolist()}, but the model has one output, whose signs are the classes; "
            "expected 1 (above 0) and 0"
        )
    return classes


def _of_signs(
    explanation_func: Any, forward_func: Callable[..., Any], inputs: Any, dims: int, kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    """Returns the explanations of a single output f, and of -f."""
    examples = len(inputs[0] if isinstance(inputs, tuple) else inputs)
    target = torch.zeros(examples, dtype=torch.long) if dims == 2 else None
    explain = explainer_of(explanation_func)
    found = []
    with Undo() as undo, undo:  # which also ends what is `signed` if an interrupt keeps it from ending
        keep_modes(undo)
        for sign in (1, -1):
            with signed(explanation_func, forward_func, sign):
                found.append(explain(inputs, target=target, **kwargs))
    return found[0], found[1]


def _of_class(positive: Tensor, negative: Tensor, signs: Tensor) -> Tensor:
    """Returns each example's map of its sign, 1 or 0."""
    is_positive = signs.to(positive.device).bool().reshape(-1, *(1,) * (positive.ndim - 1))
    return torch.where(is_positive, positive, negative)


def _checked_pairs(classes: Any, examples: int) -> Tensor:
    pairs = torch.as_tensor(classes)
    if pairs.shape != (examples, 2) or pairs.is_floating_point():
        raise InvalidValueError(
            f"classes is a tensor of {pairs.dtype} and shape {tuple(pairs.shape)}; expected two class indices for each "
            f"of {examples} examples"
        )
    return pairs.long()
