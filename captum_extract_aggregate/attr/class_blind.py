"""A warning where a map cannot tell one class from another."""

from __future__ import annotations

import warnings
import weakref
from typing import TYPE_CHECKING

from torch import Tensor, nn

from captum_extract_aggregate._common.tensors import on_cpu, same_everywhere
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import describe
from captum_extract_aggregate._engine.taps import Place

if TYPE_CHECKING:
    from captum_extract_aggregate.attr.base import CaptureAttribution

# Layers, and the methods of which it was said there that they do not depend on the class.
_WARNED: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()
_VARYING: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # whose gradients were seen to differ from place to place


def warn_where_blind(method: CaptureAttribution, place: Place, evidence: Evidence, gradients: list[Tensor]) -> None:
    """Warns, once for a layer, of a map that does not depend on the class: global pooling follows its layer."""
    layer = place.layer
    owner = next(iter(evidence.models), None) if layer is None else layer
    name = method.get_name()
    if owner is None or owner in _VARYING or not method.is_blind(layer) or name in _WARNED.get(owner, ()):
        return
    if gradients and all(map(same_everywhere, gradients)):
        _WARNED.setdefault(owner, set()).add(name)
        warnings.warn(
            f"{name} at {describe(layer, evidence.models)} does not depend on the class: the gradient there is the "
            "same at every position, as in front of global average pooling; take an earlier layer "
            "(default_layers(model) lists some), or here a method that weighs channel by channel "
            "(LinearApproximation, SelectiveNormGrad, GradCAM)",
            stacklevel=2,
        )
    elif all(on_cpu(g) and g.shape[2:].numel() > 1 and g.any() for g in gradients):
        _VARYING.add(owner)  # nobody needs to look again
