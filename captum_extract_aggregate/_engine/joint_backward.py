"""One backward for several targets: PyTorch's vmap runs each of its operations once for all of them.

That is faster where a backward costs its launches rather than its arithmetic: for one example on a GPU, where 20
targets take 0.28 (ViT-B/16) to 0.71 (MobileNetV2) of one backward each. A CPU multiplies as long either way, and asks
for more memory (there 20 targets of a ViT-B/16 take 1.15), and several examples fill a GPU by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from captum_extract_aggregate._common.tensors import on_cpu
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.model_state import leave_transforms

_AT_ONCE = 32
_MOST_BYTES = 2**30  # of the gradients that are asked for; those on the way are let go of one after the other


def targets_at_once(inputs: Sequence[Tensor], like: Iterable[Tensor]) -> int:
    """Returns how many targets had best share a backward; `like` are tensors of the gradients' sizes."""
    if inputs[0].shape[0] > 1 or on_cpu(inputs[0]):
        return 1
    held = sum(t.numel() * t.element_size() for t in like)
    return max(1, min(_AT_ONCE, _MOST_BYTES // max(1, held)))


def joint_gradients(scores: Sequence[Tensor], edges: Sequence[GradientEdge]) -> list[list[Tensor | None]] | None:
    """Returns for each of several scores (one example's, of one forward) its gradients; the graph is kept.

    None, where they have to be taken one after the other: something on the way cannot be run for several at once.
    """
    if not edges or not all(score.requires_grad for score in scores):
        return None
    together = torch.stack(list(scores))
    seeds = torch.eye(len(scores), dtype=together.dtype, device=together.device).unsqueeze(2)
    with Undo() as undo, undo:
        leave_transforms(undo)
        try:
            found = torch.autograd.grad(
                together, edges, seeds, retain_graph=True, allow_unused=True, is_grads_batched=True
            )
        except (RuntimeError, ValueError, TypeError):  # an operation, or somebody's hook, that knows no vmap
            return None
    return [[None if g is None else g[i] for g in found] for i in range(len(scores))]
