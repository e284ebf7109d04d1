"""Captum's Feature Ablation, of patches of an image instead of single values."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from captum.attr import FeatureAblation
from captum.log import log_usage
from torch import Tensor

from captum_extract_aggregate.insights.offered import check_arguments

PATCHES = (1, 32)  # a side, the fewest and the most


class PatchAblation(FeatureAblation):
    """Is Captum's Feature Ablation by square patches of all channels where an input is an image."""

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(self, inputs: Any, patches: int = 8, **kwargs: Any) -> Any:  # type: ignore[override]
        """Returns one forward for each of `patches` x `patches` patches of an image, and for each value of another
        input."""
        config = importlib.import_module("captum.insights.attr_vis.config")
        check_arguments(self.get_name(), {"patches": patches}, {"patches": config.NumberConfig(value=8, limit=PATCHES)})
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        masks: list[Tensor] = []
        for x in tensors:
            mask = _patch_mask(x, patches) if x.ndim == 4 else torch.arange(x[0].numel()).reshape(1, *x.shape[1:])
            masks.append(mask.to(x.device) + (int(masks[-1].max()) + 1 if masks else 0))
        return FeatureAblation.attribute.__wrapped__(self, tensors, feature_mask=tuple(masks), **kwargs)


def _patch_mask(x: Tensor, patches: int) -> Tensor:
    rows, columns = (torch.arange(n) * patches // n for n in x.shape[2:])
    return (rows[:, None] * patches + columns)[None, None]
