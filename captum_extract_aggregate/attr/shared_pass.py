"""Which methods can share a pass, and what they then give."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from captum_extract_aggregate._engine.targets import Targets
from captum_extract_aggregate.attr.base import CaptureAttribution, is_own
from captum_extract_aggregate.attr.one_pass import maps_per_target


def capturing(method: Any) -> CaptureAttribution | None:
    """Returns the method whose maps a shared pass can make: `method`, or the one whose layers it combines."""
    found = method if isinstance(method, CaptureAttribution) else getattr(method, "attribution_method", None)
    if not isinstance(found, CaptureAttribution) or not is_own(method, "attribute"):
        return None
    return found if is_own(found, "attribute") else None


def pass_of(method: CaptureAttribution) -> Hashable:
    """Returns what is equal for methods that can share a pass."""
    record = getattr(method.run_pass, "__func__", method.run_pass)
    return id(method.forward_func), record, method.pass_key(), *(method.device_ids or ())


def shared_maps(
    methods: Mapping[str, Any],
    inputs: Any,
    targets: Targets,
    additional_forward_args: Any,
    to_input: bool,
) -> list[dict[str, Any]]:
    """Returns, for each target, what the `attribute` of each method gives, from one pass of methods that can share
    it."""
    sharing = {name: found for name, method in methods.items() if (found := capturing(method)) is not None}
    maps = maps_per_target(sharing, inputs, targets, additional_forward_args, to_input)
    return [{name: _of(methods[name], sharing[name], inputs, m) for name, m in of.items()} for of in maps]


def _of(asked: Any, found: CaptureAttribution, inputs: Any, maps: Any) -> Any:
    return maps if asked is found else asked.joined(inputs, maps)  # a LayerCombination of what was captured
