"""Do the attributions add up to the score?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layers import checked_inputs
from captum_extract_aggregate._engine.model_state import set_grad_mode
from captum_extract_aggregate._engine.targets import Target, select_scores


def completeness_gap(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    attributions: Tensor | tuple[Tensor, ...],
    target: Target = None,
    additional_forward_args: Any = None,
) -> Tensor:
    r"""Returns the completeness gap :math:`|f - \sum a| / |f|` of each example; `N`, 0 where the attributions are
    complete.

    Args:
        forward_func, inputs, target, additional_forward_args: of the explained score f.
        attributions: a tensor, or a tuple of tensors (of several inputs, say), batch first; all entries are summed.

    Returns:
        `N` values (float64); where the score is exactly 0, infinite, or NaN if the sum is 0 too.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum.attr import InputXGradient
        >>> from captum_extract_aggregate.metrics import completeness_gap
        >>> model = torch.nn.Linear(3, 2, bias=False)
        >>> x = torch.randn(4, 3)
        >>> attributions = InputXGradient(model).attribute(x, target=1)
        >>> bool(completeness_gap(model, x, attributions, target=1).max() < 1e-4)
        True
    """
    tensors = checked_inputs(inputs)
    with Undo() as undo, undo:
        set_grad_mode(undo, False)
        output = forward_func(*tensors, *(_format_additional_forward_args(additional_forward_args) or ()))
        scores = select_scores(output, target).double()
    total = torch.zeros_like(scores)
    for a in attributions if isinstance(attributions, (tuple, list)) else (attributions,):
        if not isinstance(a, Tensor) or len(a) != len(scores):
            got = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
            raise InvalidValueError(
                f"attributions holds {got} for {len(scores)} examples; expected tensors, batch first"
            )
        total = total + a.detach().double().reshape(len(scores), -1).sum(1)
    return (scores - total).abs() / scores.abs()
