"""What mypy has to know of Captum's classes, which are untyped to it (see `layer_types`); never imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Attribution:
    """Stands for `captum.attr.Attribution`."""

    forward_func: Callable[..., Any]
    attribute: Any
    attribute_per_target: Any
    compute_convergence_delta: Any

    def __init__(self, forward_func: Callable[..., Any]) -> None: ...

    @property
    def multiplies_by_inputs(self) -> bool:
        return False

    @classmethod
    def get_name(cls) -> str:
        return cls.__name__


class LayerAttribution(Attribution):
    """Stands for `captum.attr.LayerAttribution`."""

    layer: Any
    device_ids: list[int] | None

    def __init__(self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None) -> None: ...

    @staticmethod
    def interpolate(
        layer_attribution: Any, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Any: ...


class GradientAttribution(Attribution):
    """Stands for `captum.attr.GradientAttribution`."""

    gradient_func: Any
