"""Methods whose `attribute` can give its convergence delta too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.base import CaptureAttribution, own
from captum_extract_aggregate.attr.entry import captum_entry, check_grad_kwargs
from captum_extract_aggregate.attr.layer_types import L, Layers, OneLayer


class WithDelta(CaptureAttribution[L]):
    """A method whose `attribute` can give its convergence delta too, as Captum's integrated gradients can."""

    @overload  # type: ignore[override]
    def attribute(  # type: ignore[overload-overlap]
        self: WithDelta[None],
        inputs: tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        return_convergence_delta: Literal[False] = False,
    ) -> tuple[Tensor, ...]: ...

    @overload
    def attribute(  # type: ignore[overload-overlap]
        self: WithDelta[OneLayer],
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        return_convergence_delta: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def attribute(  # type: ignore[overload-overlap]
        self: WithDelta[Layers],
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        return_convergence_delta: Literal[False] = False,
    ) -> list[Tensor]: ...

    @overload
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        return_convergence_delta: bool = False,
    ) -> Any: ...

    @own
    @captum_entry
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Returns the maps; with `return_convergence_delta` the pair of maps and `compute_convergence_delta`."""
        check_grad_kwargs(grad_kwargs)
        plain: Any = super()
        maps = plain.attribute(inputs, target, additional_forward_args, attribute_to_layer_input)
        if not return_convergence_delta:
            return maps
        if not self.has_convergence_delta():
            raise InvalidValueError(
                f"{type(self).__name__} has no convergence delta; expected return_convergence_delta=False"
            )
        to_input = {"attribute_to_layer_input": True} if attribute_to_layer_input else {}
        return maps, self.compute_convergence_delta(inputs, target, additional_forward_args, **to_input)

    def has_convergence_delta(self) -> bool:
        return True
