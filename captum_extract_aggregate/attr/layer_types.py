"""The types by which checkers and editors tell whether one map comes back, or a list of them.

A method is generic over what `layer` was: `NormGrad[str]` gives a tensor, `NormGrad[list[str]]` a list of tensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from typing_extensions import TypeVar

# Captum is untyped to mypy, and a class with an untyped base is taken for an instance of any other, so that overloads
# could not tell `NormGrad[str]` from `NormGrad[list[str]]`. mypy, which reads both branches, therefore believes the
# first. Pyright, which infers Captum's types from its source, knows that `os.name` is never "mypy", as does Python.
if os.name == "mypy":
    from captum_extract_aggregate.attr.captum_stand_ins import GradientAttribution, LayerAttribution
else:
    from captum.attr import GradientAttribution, LayerAttribution  # type: ignore[no-redef]

# (A module's attribute, as in `model.layer3`, is a "Tensor | Module" to checkers, if its class does not declare it.)
OneLayer = nn.Module | Tensor | str | None
Layers = Sequence[object] | Mapping[str, nn.Module]

L = TypeVar("L", bound=OneLayer | Layers, covariant=True, default=Any)

__all__ = ["GradientAttribution", "L", "LayerAttribution", "Layers", "OneLayer"]
