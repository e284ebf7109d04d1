"""A method around another: whatever is not its own is the wrapped method's."""

from __future__ import annotations

from typing import Any

from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.attr.one_pass import Maps, Plan


class Delegating:
    """Gives what the wrapped method, `attribution_method`, says of itself."""

    attribution_method: Any

    @property
    def layer(self) -> Any:
        """The wrapped method's."""
        return getattr(self.attribution_method, "layer", None)

    @layer.setter
    def layer(self, layer: Any) -> None:
        self.attribution_method.layer = layer

    @property
    def joins_layers(self) -> bool:
        return getattr(self.attribution_method, "joins_layers", not hasattr(self.attribution_method, "layer"))

    @property
    def multiplies_by_inputs(self) -> bool:
        return getattr(self.attribution_method, "multiplies_by_inputs", False)

    @property
    def gives_lists(self) -> bool:
        """Tells whether a list of layers costs one call."""
        return getattr(self.attribution_method, "gives_lists", False)


class WrappingAttribution(Delegating, CaptureAttribution[Any]):  # type: ignore[misc, override]
    """A method that makes the wrapped method's maps of another pass, in the wrapped method's form.

    A subclass sets `attribution_method`, and says what its pass is (`run_pass`, `pass_key`).
    """

    @property
    def layout(self) -> Any:  # type: ignore[override]
        """The wrapped method's."""
        return getattr(self.attribution_method, "layout", "auto")

    @property
    def call(self) -> Any:  # type: ignore[override]
        """The wrapped method's."""
        return getattr(self.attribution_method, "call", None)

    def plan(self, to_input: bool) -> Plan:
        return self.capturing().plan(to_input)

    def all_maps(self, inputs: Any, evidence: Evidence, plan: Plan) -> Maps:
        return self.capturing().all_maps(inputs, evidence, plan)

    def capturing(self) -> CaptureAttribution[Any]:
        """Returns the wrapped method, whose maps follow from a pass."""
        assert isinstance(self.attribution_method, CaptureAttribution)
        return self.attribution_method
