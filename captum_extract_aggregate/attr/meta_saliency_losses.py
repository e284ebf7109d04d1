"""The losses that meta-saliency's step can lower or raise, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._common.tensors import moved
from captum_extract_aggregate._engine.one_output import is_probability, no_logit
from captum_extract_aggregate._engine.targets import select_scores

Loss = Callable[[Tensor, Any], Tensor]


LossName = Literal["cross_entropy", "binary_cross_entropy"]


def _cross_entropy(output: Tensor, target: Any) -> Tensor:
    """Returns the cross-entropy of a class, the first index of the target, against all others; more indices say where.

    Where there are no others, cross-entropy is 0 and its step none: a single output is a logit, of its own class.
    """
    if _is_single(output):
        return _binary_cross_entropy(output, target)
    if target is None:
        raise InvalidValueError(
            "target is None, and forward_func gives several class scores; expected a target, "
            "loss_func='binary_cross_entropy', or a loss_func(output, target) of one's own"
        )
    select_scores(output, target)  # our error for a target that does not fit
    entry = target[0] if isinstance(target, list) else target
    first, *others = entry if isinstance(entry, tuple) else (entry,)
    where = (slice(None), slice(None), *others)
    logits = output[where]
    classes = torch.zeros(len(output), dtype=torch.long, device=output.device)
    classes += moved(first.reshape(-1), output.device) if isinstance(first, Tensor) else int(first)
    return F.cross_entropy(logits, classes % logits.shape[1])


def _binary_cross_entropy(output: Tensor, target: Any) -> Tensor:
    """Returns the binary cross-entropy of the target's logit alone, for one sigmoid per class, or one output."""
    if _is_single(output) and is_probability(output):
        raise InvalidValueError(no_logit("binary cross-entropy is of a logit") + ", or a loss_func(output, target)")
    return -F.logsigmoid(select_scores(output, target)).sum()


def _is_single(output: Any) -> bool:
    """Tells whether there is one class only (or, in dense outputs, one at each place)."""
    return isinstance(output, Tensor) and (output.ndim < 2 or output.shape[1] == 1)


LOSSES: dict[str, Loss] = {"cross_entropy": _cross_entropy, "binary_cross_entropy": _binary_cross_entropy}
